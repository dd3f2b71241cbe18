"""What a few seeds say: centre, spread, interval, and a test against full fine-tuning. All of it seeded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """Of one method on one task over seeds.

    Attributes:
        n: seeds.
        median, mean: of all of them, collapsed runs included.
        std: sample standard deviation; None for one seed.
        low, high: 95 % bootstrap interval of the mean; None for one seed.
    """

    n: int
    median: float
    mean: float
    std: float | None = None
    low: float | None = None
    high: float | None = None


def summarize(values: Sequence[float]) -> Summary:
    """Raises a ValueError for no values."""
    if not len(values):
        raise ValueError("nothing to summarize")
    x = np.asarray(values, dtype=float)
    median, mean = float(np.median(x)), float(np.mean(x))
    if len(x) == 1:
        return Summary(1, median, mean)
    low, high = bootstrap(x)
    return Summary(len(x), median, mean, float(np.std(x, ddof=1)), low, high)


def bootstrap(x: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean (Efron 1979) from 10,000 resamples of a fixed seed."""
    rows = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.percentile(x[rows].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def paired_p(ours: dict[int, float], theirs: dict[int, float]) -> float | None:
    """Two-sided paired t-test over the seeds that both have; None for fewer than two, or where no difference varies."""
    seeds = sorted(ours.keys() & theirs.keys())
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    if len(seeds) < 2 or np.ptp(differences) == 0:
        return None
    return float(stats.ttest_1samp(differences, 0).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down correction; None stays None and counts as no comparison."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    running = 0.0
    for done, (p, place) in enumerate(order):
        running = max(running, min(1.0, p * (len(order) - done)))
        corrected[place] = running
    return corrected
