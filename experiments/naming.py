"""What tells runs apart: the settings in which they differ, by their names in overrides."""

from collections.abc import Sequence
from typing import Any

PER_SEED = ("seed", "method.projection_seed")  # differ between the seeds of one setting


def flat(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    """`{"method.rank": 8, ...}`, out of nested settings."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return values


def differing(settings: Sequence[dict[str, Any]], within: Sequence[str]) -> list[str]:
    """The keys in which runs differ that agree in `within`; one that follows from earlier ones is left out.

    Runs that agree in `within` and in these keys differ in nothing but the seed.

    Args:
        settings: of the runs, each flat.
    """

    def kinds(keys: list[str]) -> int:
        return len({tuple(str(values.get(key)) for key in (*within, *keys)) for values in settings})

    kept: list[str] = []
    for key in dict.fromkeys(key for values in settings for key in values):
        if key not in PER_SEED and kinds([*kept, key]) > kinds(kept):
            kept.append(key)
    return kept


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
