"""The settings of a task and of its examples."""

from dataclasses import dataclass
from typing import Annotated

from omegaconf import MISSING

from core.checks import COUNT, FRACTION, check, generator_seed, number, one_of
from core.errors import UserError, unknown
from tasks.glue import GLUE, Task

GENERATED_MOST = 100_000  # examples; some tasks' grammars have few more


@dataclass
class TaskConfig:
    """A row of `tasks/glue.py` and how long its examples may be, in tokens."""

    name: str = MISSING
    max_length: Annotated[int, number(at_least=4)] = 128

    def __post_init__(self) -> None:
        if self.name not in GLUE:
            raise UserError(unknown("task", self.name, GLUE))
        check(self, "task.")

    @property
    def row(self) -> Task:
        """The task's row in the table."""
        return GLUE[self.name]


@dataclass
class DataConfig:
    """Where the examples come from.

    Attributes:
        name: hub, local or generated.
        repository, revision: of the hub's data set.
        path: a folder in the hub's layout, `PATH/TASK/SPLIT-*.parquet`.
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
        if self.name == "local" and not self.path:
            raise UserError("data=local needs data.path=DIR, a folder that holds TASK/train-*.parquet")
