"""Which epoch counts: the best on the validation set, and the one chosen on held-out data."""

import pytest

from training.selection import best, selected


def entry(score: float, held_out: float | None = None) -> dict:
    return {"accuracy": score} | ({} if held_out is None else {"held_out": {"accuracy": held_out}})


def test_the_first_of_equal_evaluations_is_the_best():
    history = [entry(0.5, 0.7), entry(0.9, 0.7), entry(0.9, 0.6)]
    assert best(history, "accuracy") is history[1]
    assert selected(history, "accuracy") is history[0]


def test_nothing_is_selected_where_nothing_was_held_out():
    assert selected([entry(0.5)], "accuracy") is None
    assert selected([], "accuracy") is None
    with pytest.raises(ValueError, match="empty"):
        best([], "accuracy")
