"""Statistics over a few seeds: centre, spread, t intervals, paired differences, Holm's correction.

A percentile bootstrap of so few values covers too little: its 95 % interval covers 75 % for three seeds. Two seeds have no
interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST = 3  # seeds; fewer have no interval and no test


@dataclass(frozen=True)
class Summary:
    """Statistics of values over seeds, or of paired differences.

    Attributes:
        n: seeds.
        median, mean: of all seeds, collapsed runs included.
        std: sample standard deviation; None for one seed.
        low, high: 95 % t interval of the mean (Student 1908); None for fewer than three seeds.
        p: two-sided, that the mean is 0, by a t test; None for fewer than three seeds, or where nothing varies.
    """

    n: int
    median: float
    mean: float
    std: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, (low, high).

        Raises:
            ValueError: there is none.
        """
        if self.low is None or self.high is None:
            raise ValueError(f"{self.n} values have no interval")
        return self.low, self.high


def summarize(values: Sequence[float]) -> Summary:
    """Raises a ValueError for no values."""
    if not len(values):
        raise ValueError("nothing to summarize")
    x = np.asarray(values, dtype=float)
    n, median, mean = len(x), float(np.median(x)), float(np.mean(x))
    if n < LEAST:
        return Summary(n, median, mean, float(np.std(x, ddof=1)) if n > 1 else None)
    std = float(np.std(x, ddof=1))
    if std <= 1e-9 * np.abs(x).max():  # rounding
        return Summary(n, median, mean, std, mean, mean)
    test = stats.ttest_1samp(x, 0)
    low, high = test.confidence_interval(0.95)
    return Summary(n, median, mean, std, float(low), float(high), float(test.pvalue))


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Summary | None:
    """`ours` minus `theirs`, paired by seed; None if they share no seed."""
    seeds = sorted(ours.keys() & theirs.keys())
    return summarize([ours[seed] - theirs[seed] for seed in seeds]) if seeds else None


def quotient(one: Mapping[int, float], other: Mapping[int, float]) -> Summary | None:
    """The ratio of two measurements, paired by seed; None without a seed that both have a measurement of."""
    ratios = [one[seed] / other[seed] for seed in sorted(one.keys() & other.keys())]
    measured = [each for each in ratios if not np.isnan(each)]
    return summarize(measured) if measured else None


def spread_interval(s: Summary) -> tuple[float, float] | None:
    """95 % interval of the standard deviation, by the chi-squared distribution; None for fewer than three seeds."""
    if s.n < LEAST or s.std is None:
        return None
    low, high = (s.std * float(np.sqrt((s.n - 1) / stats.chi2.ppf(q, s.n - 1))) for q in (0.975, 0.025))
    return low, high


def spread_ratio(ours: Summary, theirs: Summary) -> tuple[float, float, float] | None:
    """Ratio of two standard deviations and its 95 % interval, by the F distribution (not paired).

    None for fewer than three seeds, or where `theirs` do not vary.
    """
    if min(ours.n, theirs.n) < LEAST or not ours.std or not theirs.std:
        return None
    ratio = ours.std / theirs.std
    low, high = (ratio / float(np.sqrt(stats.f.ppf(q, ours.n - 1, theirs.n - 1))) for q in (0.975, 0.025))
    return ratio, low, high


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down correction; a None stays None and is not counted."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    running = 0.0
    for done, (p, place) in enumerate(order):
        running = max(running, min(1.0, p * (len(order) - done)))
        corrected[place] = running
    return corrected


def interval(s: Summary) -> str:
    """`3.1 to 4.5`; nothing without an interval."""
    return "" if s.low is None else f"{s.low:.1f} to {s.high:.1f}"
