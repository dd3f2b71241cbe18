"""What tells runs apart: the settings in which they differ, by their names in overrides."""

from collections.abc import Sequence
from typing import Any

RATE, HEAD_RATE = "trainer.learning_rate", "trainer.head_learning_rate"
PER_SEED = ("seed", "method.projection_seed")  # differ between the seeds of one setting


def flat(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    """`{"method.rank": 8, ...}`, out of nested settings."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return values


def differing(settings: Sequence[dict[str, Any]], within: Sequence[str]) -> list[str]:
    """The keys in which runs differ that agree in `within`.

    Runs that agree in `within` and in these keys differ in nothing but the seed. Left out is what goes without saying: what a
    backbone's or a data source's name decides, and the head's rate where it is the trunk's in every run.

    Args:
        settings: of the runs, each flat.
    """
    values_of: dict[str, dict[tuple[str, ...], set[str]]] = {}
    for values in settings:
        place = tuple(str(values.get(key)) for key in within)
        for key in dict.fromkeys(key for each in settings for key in each):
            values_of.setdefault(key, {}).setdefault(place, set()).add(str(values.get(key)))
    kept = [key for key, found in values_of.items() if max(map(len, found.values())) > 1]

    def follows(key: str, leader: str) -> bool:
        return len({str(v.get(leader)) for v in settings}) == len(
            {(str(v.get(leader)), str(v.get(key))) for v in settings}
        )

    one_rate = all(values.get(HEAD_RATE) == values.get(RATE) for values in settings)
    left_out = {HEAD_RATE} if one_rate else set()
    for key in kept:
        leader = f"{key.partition('.')[0]}.name"
        if leader in kept and key != leader and follows(key, leader):
            left_out.add(key)
    return [key for key in kept if key not in PER_SEED and key not in left_out]


def unequal(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The keys outside of `method` in which runs of one task differ, whatever their methods: budgets, say, or data.

    Learning rates are left out: each method has its own.
    """
    shared = [
        {
            key: value
            for key, value in run.items()
            if not key.startswith("method.") and not key.endswith("learning_rate")
        }
        for run in settings
    ]
    return differing(shared, within=("task.name",))


def short(key: str) -> str:
    """`rank` for `method.rank`, `data` for `data.name`; `data.seed` keeps its whole name."""
    return key if key.endswith(".seed") else key.removesuffix(".name").rpartition(".")[2]


def show(value: Any) -> str:
    """A setting's value in few characters."""
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
