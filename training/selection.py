"""Which evaluation of a run counts as its best."""

from typing import Any

from tasks.settings import HELD_OUT

Evaluated = dict[str, Any]  # an entry of a run's history


def best(history: list[Evaluated], metric: str) -> Evaluated:
    """The first evaluation with the highest `metric` on the validation set, as the papers choose.

    Raises:
        ValueError: there is no evaluation.
    """
    return max(history, key=lambda entry: entry[metric])


def selected(history: list[Evaluated], metric: str) -> Evaluated | None:
    """The first evaluation with the highest `metric` on the data held out of training; None where nothing was."""
    if not history or HELD_OUT not in history[0]:
        return None
    return max(history, key=lambda entry: entry[HELD_OUT][metric])
