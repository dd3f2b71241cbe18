"""The settings in which runs differ, by their names in overrides."""

from collections.abc import Sequence
from typing import Any

RATE, HEAD_RATE = "trainer.learning_rate", "trainer.head_learning_rate"
PER_SEED = ("seed", "method.projection_seed")  # differ between the seeds of one setting
NAMED_BY_BACKBONE = ("source", "revision", "sha256", "license", "architecture.")  # what its name may stand for


def flat(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    """`{"method.rank": 8, ...}`, out of nested settings."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return values


def differing(settings: Sequence[dict[str, Any]], within: Sequence[str]) -> list[str]:
    """The keys in which runs with equal `within` differ.

    Runs that agree in `within` and in these keys differ only in the seed. Omits settings that others imply: the weights
    that a backbone's name stands for, and the head's rate where it is the trunk's in every run.

    Args:
        settings: of the runs, each flat.
    """
    keys = dict.fromkeys(key for values in settings for key in values)
    places = [tuple(str(values.get(key)) for key in within) for values in settings]

    def differs(key: str) -> bool:
        """Whether a place has two values of a setting."""
        found = {(place, str(values.get(key))) for place, values in zip(places, settings, strict=True)}
        return len(found) > len(set(places))

    def named(key: str) -> bool:
        """Whether in these runs the backbone's name decides the setting."""
        if not key.startswith(tuple(f"backbone.{name}" for name in NAMED_BY_BACKBONE)):
            return False
        found = {(str(values.get("backbone.name")), str(values.get(key))) for values in settings}
        return len(found) == len({name for name, _ in found})

    one_rate = all(values.get(HEAD_RATE) == values.get(RATE) for values in settings)
    left_out = (*PER_SEED, HEAD_RATE) if one_rate else PER_SEED
    return [key for key in keys if key not in left_out and differs(key) and not named(key)]


def unequal(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The keys outside `method` in which runs of one task differ, across methods: budgets or data, for example.

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


def natural(value: Any) -> tuple[bool, Any]:
    """Sorts numbers before words, and numbers by size."""
    return (False, value) if isinstance(value, int | float) else (True, str(value))


def short(key: str) -> str:
    """`rank` for `method.rank`, `data` for `data.name`; `data.seed` keeps its whole name."""
    return key if key.endswith(".seed") else key.removesuffix(".name").rpartition(".")[2]


def show(value: Any) -> str:
    """A setting's value in few characters."""
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
