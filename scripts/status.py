"""How far a sweep is: `python scripts/status.py experiment=NAME [more overrides, as given to train.py -m]`.

Prints how many of its runs are complete, running, interrupted, failed and missing; a grid of them, a row a method at the
settings that the sweep varies, a column a task, a letter a seed; why runs failed or stopped; and how long the rest may take.
"""

import math
import statistics
import sys
from collections import Counter
from typing import Any, NamedTuple

from core.errors import UserError
from experiments.config import RunConfig, to_dict
from experiments.run_folder import RunFolder
from experiments.sweep import cells
from scripts.cli import command

LETTERS = {"complete": "C", "running": "R", "interrupted": "I", "failed": "F", "damaged": "D", "missing": "."}
PLACE = ("method.name", "task.name", "seed")  # where in the grid a run stands, whatever else varies


class Cell(NamedTuple):
    """A run, its `state` in a word, its record if it has one, and the label of its row."""

    run: RunConfig
    word: str
    record: dict[str, Any] | None
    row: str


def read(overrides: list[str]) -> list[Cell]:
    """Every run of the grid, in its order."""
    runs = cells(overrides)
    if not runs:
        raise UserError("these overrides stand for no run at all")
    settings = [flat(to_dict(run)) for run in runs]
    keys = varied(settings)
    return [
        Cell(run, *RunFolder.of(run).status(), label(values, keys)) for run, values in zip(runs, settings, strict=True)
    ]


def flat(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    """`{"method.rank": 8, ...}`: settings under the names that overrides call them by."""
    values = {}
    for key, value in config.items():
        values |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return values


def varied(settings: list[dict[str, Any]]) -> list[str]:
    """The settings that tell runs of one method, task and seed apart, without those that only follow from others."""

    def kinds(keys: list[str]) -> int:
        return len({tuple(str(values.get(key)) for key in (*PLACE, *keys)) for values in settings})

    kept = []
    for key in dict.fromkeys(key for values in settings for key in values):
        if kinds([*kept, key]) > kinds(kept):
            kept.append(key)
    return kept


def label(values: dict[str, Any], keys: list[str]) -> str:
    """`lora rank=8 start=mnli`: the method and those settings of it."""
    words = [values["method.name"]]
    for key in keys:
        if key in values:
            value = "null" if values[key] is None else values[key]
            text = f"{value:g}" if isinstance(value, float) else value
            words.append(f"{key.removesuffix('.name').rpartition('.')[2]}={text}")
    return " ".join(words)


def grid(found: list[Cell]) -> list[str]:
    """Lines: the tasks, then a row for each label, method by method in the order of the sweep."""
    methods = list(dict.fromkeys(cell.run.method.name for cell in found))
    letters = {(cell.row, cell.run.task.name, cell.run.seed): LETTERS[cell.word] for cell in found}
    rows, tasks, seeds = (list(dict.fromkeys(part)) for part in zip(*letters, strict=True))
    rows.sort(key=lambda row: methods.index(row.split()[0]))
    seeds.sort()
    table = [["", *tasks]]
    for row in rows:
        table.append([row, *("".join(letters.get((row, task, seed), " ") for seed in seeds) for task in tasks)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.ljust, words, widths)).rstrip() for words in table]
    legend = ", ".join(f"{letter} {word}" for word, letter in LETTERS.items())
    return [*lines, "", f"a letter a seed ({', '.join(map(str, seeds))}): {legend}"]


def complaint(cell: Cell) -> str:
    """One line: which run failed or was interrupted, why, and what trains it."""
    unknown = "its record is not as it was written" if cell.word == "damaged" else "killed; its checkpoint stands"
    reason = " ".join(str((cell.record or {}).get("reason") or unknown).split())
    hints = {"failed": "retry=true trains it again", "damaged": "the same command trains it again"}
    hint = hints.get(cell.word, "the same command resumes it")
    return f"{cell.word}: {cell.row} on {cell.run.task.name}, seed {cell.run.seed}: {reason} ({hint})"


def seconds_left(found: list[Cell]) -> float | None:
    """For what is neither complete nor failed, one run after the other, as long as runs took that are most like each.

    None before any run is complete.
    """
    done = [cell for cell in found if cell.word == "complete"]
    if not done:
        return None
    left = 0.0
    for cell in found:
        if cell.word not in ("complete", "failed"):
            kin = [other for other in done if other.run.method.name == cell.run.method.name]
            twins = [other for other in kin if other.run.task.name == cell.run.task.name]
            whole = statistics.mean(other.record["seconds"] for other in twins or kin or done)
            left += max(0.0, whole - (cell.record or {}).get("seconds", 0.0))
    return left


def duration(seconds: float) -> str:
    """`3 h 20 min`, rounded up."""
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


@command
def main(words: list[str]) -> None:
    found = read([word for word in words if word not in ("-m", "--multirun")])
    counts = Counter(cell.word for cell in found)
    lines = [", ".join(f"{counts[word]} {word}" for word in LETTERS) + f", of {len(found)}", "", *grid(found)]
    lines += [complaint(cell) for cell in found if cell.word in ("failed", "interrupted", "damaged")]
    if left := seconds_left(found):
        lines.append(f"about {duration(left)} left, one process at a time")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
