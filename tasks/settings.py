"""The settings of a task and of its examples."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from omegaconf import MISSING

from core.checks import COUNT, FRACTION, check, generator_seed, number, one_of
from core.errors import UserError, no_folder, unknown
from tasks.glue import GLUE, METRICS, Task

SCORES = ("pearson", "spearmanr")  # metrics of a regression
GENERATED_MOST = 100_000  # examples; some tasks' grammars have few more
HELD_OUT = "held_out"  # the split of `data.holdout`, and what a record holds of it


@dataclass
class TaskConfig:
    """A row of `tasks/glue.py`, or a task of the user's own, and how long its examples may be, in tokens.

    Attributes:
        columns, labels, metrics: of an own task, as `Task` has them; null for GLUE's. The label's column is `label`.
    """

    name: str = MISSING
    max_length: Annotated[int, number(at_least=4)] = 128
    columns: list[str] | None = None
    labels: list[str] | None = None
    metrics: list[str] | None = None

    def __post_init__(self) -> None:
        check(self, "task.")
        if (self.columns, self.labels, self.metrics) == (None, None, None):
            if self.name not in GLUE:
                raise UserError(unknown("task", self.name, GLUE))
        elif self.labels is None:
            raise UserError("task.labels must be given: [ham,spam], say, or [] for a score")
        else:
            self._check_own(self.columns or [], self.labels, self.metrics or [])

    def _check_own(self, columns: list[str], labels: list[str], metrics: list[str]) -> None:
        """Raises a UserError unless an own task is described completely."""
        if self.name in GLUE or not re.fullmatch(r"[A-Za-z0-9][\w-]*", self.name):
            raise UserError(
                f"task.name is '{self.name}'; give your task a name of letters and digits that no GLUE task uses"
            )
        if len(columns) not in (1, 2) or len(set(columns) | {"label", "idx"}) < len(columns) + 2:
            raise UserError(f"task.columns is {columns}; give one column of text or two, other than label and idx")
        if len(labels) == 1 or len(set(labels)) < len(labels):
            raise UserError(f"task.labels is {labels}; give two different labels or more, or [] for a score")
        allowed = [m for m in METRICS if (m in SCORES) == (not labels) and (m != "f1" or len(labels) == 2)]
        if not metrics or (odd := [metric for metric in metrics if metric not in allowed]):
            kind = f"{len(labels)} labels" if labels else "a score"
            raise UserError(f"task.metrics is {odd if metrics else []}; for {kind} choose from: {', '.join(allowed)}")

    @property
    def row(self) -> Task:
        """The task's row in the table, or one made of these settings."""
        if self.columns is None:
            return GLUE[self.name]
        return Task(self.name, self.name, tuple(self.columns), tuple(self.labels or ()), tuple(self.metrics or ()))


@dataclass
class DataConfig:
    """Where the examples come from.

    Attributes:
        name: hub, local or generated.
        repository, revision: of the hub's data set.
        path: a folder in one of the layouts of `tasks/layouts.py`: the hub's files or cache, GLUE's old download, what
            `save_to_disk` writes, or `SPLIT.csv` (`.tsv`, `.jsonl`, `.parquet`) in it, or in its folder TASK.
        train_size, eval_size: how many examples of a split are drawn with `seed`; null: all.
        holdout: the fraction of the training set that is held out of training, to choose an epoch on.
        seed: it decides the generated data, the draw, and what is held out.
    """

    name: Annotated[str, one_of("hub", "local", "generated")] = MISSING
    repository: str = "nyu-mll/glue"
    revision: str = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
    path: str | None = None
    train_size: Annotated[int | None, COUNT] = None
    eval_size: Annotated[int | None, number(at_least=2)] = None
    holdout: Annotated[float, FRACTION] = 0.0
    seed: Annotated[int, generator_seed] = 0

    def __post_init__(self) -> None:
        check(self, "data.")
        for key in ("train_size", "eval_size"):
            if self.name == "generated" and (size := getattr(self, key) or 0) > GENERATED_MOST:
                raise UserError(f"data.{key} is {size}; generated data have at most {GENERATED_MOST} examples a split")
        if self.name == "hub" and self.path:
            raise UserError(f"data.path is {self.path}, and data=hub reads no folder: add data=local")

    def require_folder(self) -> None:
        """Raises a UserError if the folder of data=local is not named, or not there."""
        if self.name == "local" and not self.path:
            raise UserError("data=local needs data.path=DIR, a folder with GLUE in it, or with your train.csv")
        if self.name == "local" and not (folder := Path(self.path or "").expanduser()).is_dir():
            raise UserError(f"data.path: {no_folder(folder)}")
