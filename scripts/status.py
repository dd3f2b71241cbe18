"""The state of a sweep: `python scripts/status.py experiment=NAME [more overrides, as given to train.py -m]`.

`python scripts/status.py runs/NAME` shows the runs that have begun in a folder, without those that are still missing.

Prints how many of its runs are complete, running, queued (on Slurm), interrupted, failed and missing; then a grid with a
row for each method and setting, a column for each task and a letter for each seed; then why runs failed, and the time that
the rest may take.
"""

import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from core.console import duration
from core.errors import UserError, no_folder
from experiments.config import RunConfig, from_dict, identity, to_dict
from experiments.naming import differing, flat, natural, short, show, unequal
from experiments.run_folder import CONFIG, RunFolder
from experiments.slurm_jobs import NotedJobs
from experiments.sweep import cells, flags
from scripts.cli import command

LETTERS = {
    "complete": "C",
    "running": "R",
    "queued": "Q",
    "interrupted": "I",
    "failed": "F",
    "damaged": "D",
    "missing": ".",
}


class Cell(NamedTuple):
    """A run, its state in a word, its record if it has one, and the label of its row."""

    run: RunConfig
    state: str
    record: dict[str, Any] | None
    row: str


def read(words: list[str]) -> list[Cell]:
    """The cells of the grid, in the sweep's order, or those of folders of runs, in the order of their settings."""
    folders = folders_of(words)
    if folders and len(folders) < len(words):
        raise UserError("give folders of runs, or overrides, not both")
    if folders:
        runs = [pair for folder in folders for pair in begun(folder)]
    else:
        runs = [(run, RunFolder.of(run)) for run in cells(words)]
    if not runs:
        raise UserError("there is no run; give a sweep's overrides or a folder of runs")
    settings = [flat(identity(to_dict(run))) for run, _ in runs]
    keys = list(dict.fromkeys([*differing(settings, within=("method.name", "task.name")), *unequal(settings)]))
    queued = in_queue({folder.path for _, folder in runs})
    rows = list(zip(runs, settings, strict=True))
    if folders:
        rows.sort(key=lambda row: [natural(row[1].get(key)) for key in keys])
    found = []
    for (run, folder), values in rows:
        state, record = folder.status()
        if folder.path in queued and state not in ("complete", "running"):
            state = "queued"
        found.append(Cell(run, state, record, label(values, keys)))
    return found


def folders_of(words: list[str]) -> list[Path]:
    """The words of a command line that are not overrides."""
    return [Path(word) for word in flags(words)[1] if "=" not in word and not word.startswith("~")]


def in_queue(folders: set[Path]) -> set[Path]:
    """The folders of the runs whose jobs wait in Slurm's queue."""
    queued = {sweep: NotedJobs(sweep).queued() for sweep in {folder.parent for folder in folders}}
    return {folder for folder in folders if folder.name in queued[folder.parent]}


def begun(folder: Path) -> list[tuple[RunConfig, RunFolder]]:
    """The runs below a folder that have written their settings.

    Raises:
        UserError: there is no such folder, or its settings are another version's.
    """
    if not folder.is_dir():
        raise UserError(f"{no_folder(folder)}; give overrides, as in experiment=NAME, or a folder of runs")
    files = sorted(folder.rglob(CONFIG))
    runs = [from_dict(yaml.safe_load(file.read_text(encoding="utf-8"))) for file in files]
    return [(run, RunFolder(file.parent, run.hash)) for run, file in zip(runs, files, strict=True)]


def label(settings: dict[str, Any], keys: list[str]) -> str:
    """`lora rank=8 start=mnli`: the method and the settings that differ."""
    return " ".join(
        [settings["method.name"], *(f"{short(key)}={show(settings[key])}" for key in keys if key in settings)]
    )


def grid(found: list[Cell]) -> list[str]:
    """The grid's lines: the tasks, then a row for each label, in the sweep's order of methods."""
    methods = list(dict.fromkeys(cell.run.method.name for cell in found))
    letters = {(cell.row, cell.run.task.name, cell.run.seed): LETTERS[cell.state] for cell in found}
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
    """One line: which run failed or was interrupted, why, and how to train it."""
    unknown = "its record is not as it was written" if cell.state == "damaged" else "killed"
    reason = " ".join(str((cell.record or {}).get("reason") or unknown).split()).removeprefix("Interrupted: ")
    hints = {"failed": "retry=true trains it again", "damaged": "the same command trains it again"}
    hint = hints.get(cell.state, "the same command resumes it")
    return f"{cell.state}: {cell.row} on {cell.run.task.name}, seed {cell.run.seed}: {reason} ({hint})"


def seconds_left(found: list[Cell]) -> float | None:
    """Expected time of the unfinished runs, without failed ones, one after the other.

    A run is expected to need as long for an example as the complete runs of its method and task did; without one, those of
    its method; without one, all. None before any run is complete.
    """
    done = [cell for cell in found if cell.state == "complete"]
    seen = {id(cell): cell.record["last"]["step"] * cell.run.trainer.batch_size for cell in done}
    sizes = {
        (cell.run.task.name, cell.run.data.train_size): seen[id(cell)] / cell.record["last"]["epoch"] for cell in done
    }

    def expected(run: RunConfig) -> float:
        same_method = [cell for cell in done if cell.run.method.name == run.method.name]
        same_task = [cell for cell in same_method if cell.run.task.name == run.task.name]
        pace = statistics.mean(cell.record["seconds"] / seen[id(cell)] for cell in same_task or same_method or done)
        train_size = run.data.train_size
        size = round(sizes.get((run.task.name, train_size)) or train_size or statistics.mean(sizes.values()))
        return pace * run.trainer.total_steps(size) * min(run.trainer.batch_size, size)

    open_cells = [cell for cell in found if cell.state not in ("complete", "failed")]
    spent = [(cell.record or {}).get("seconds", 0.0) for cell in open_cells]
    return sum(max(0.0, expected(cell.run) - s) for cell, s in zip(open_cells, spent, strict=True)) if done else None


@command
def main(words: list[str]) -> None:
    found = read([word for word in words if word not in ("-m", "--multirun")])
    counts = Counter(cell.state for cell in found)
    shown = [word for word in LETTERS if word != "missing" or counts[word] or not folders_of(words)]
    states = ", ".join(f"{counts[word]} {word}" for word in shown)
    lines = [states + f", of {len(found)}" + " that have begun" * bool(folders_of(words)), "", *grid(found)]
    lines += [complaint(cell) for cell in found if cell.state in ("failed", "interrupted", "damaged")]
    if left := seconds_left(found):
        lines.append(f"about {duration(left)} of training left, one process at a time")
    elif left is None:
        lines.append("no estimate until one run is complete")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
