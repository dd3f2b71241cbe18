"""From a task's name to its examples: one path for the hub, a local folder and generated data.

Each source gives a table per split in GLUE's columns. Everything after that, checks included, is the same for all sources.
"""

import hashlib
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from core.errors import UserError
from core.hub import snapshot
from tasks.generated import generate
from tasks.glue import GLUE, Task
from tasks.layouts import layout_of
from tasks.rows import as_dataset, no_column, read_rows, require_texts
from tasks.settings import HELD_OUT, DataConfig

GENERATED_TRAIN, GENERATED_EVAL = 3000, 600


@dataclass(frozen=True)
class Split:
    """Examples of one split, as text: `texts[i]` holds one sentence or two."""

    name: str
    texts: list[tuple[str, ...]]
    labels: list[int] | list[float]
    idx: list[int]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: list[int], name: str | None = None) -> "Split":
        """The examples at `indices`, in that order."""
        labels: list[Any] = [self.labels[i] for i in rows]  # all int, or all float
        return Split(name or self.name, [self.texts[i] for i in rows], labels, [self.idx[i] for i in rows])


def load_splits(task: Task, config: DataConfig) -> dict[str, Split]:
    """`train`, the task's validation splits, and `held_out` if `data.holdout` keeps a part of `train` from training.

    Raises:
        UserError: the source lacks the task or a split, or its columns or labels are not GLUE's.
    """
    splits = _load(task, config)
    if config.holdout == 0:
        return splits
    train, held_out = _hold_out(splits.pop("train"), config.holdout, config.seed)
    return {"train": train, **splits, HELD_OUT: held_out}


def _load(task: Task, config: DataConfig) -> dict[str, Split]:
    names = ("train", *task.validation)
    if config.name == "generated":
        if task.name not in GLUE:
            raise UserError(f"there are no generated data for task {task.name}; give data=local data.path=DIR")
        sizes = dict.fromkeys(names, config.eval_size or GENERATED_EVAL) | {
            "train": config.train_size or GENERATED_TRAIN
        }
        return {
            name: _split(task, name, as_dataset(pa.table(generate(task.name, name, sizes[name], config.seed))))
            for name in names
        }
    limits = dict.fromkeys(names, config.eval_size) | {"train": config.train_size}
    tables = _tables(task, config, names)
    return {
        name: _split(task, name, table, _drawn(len(table), limits[name], config.seed)) for name, table in tables.items()
    }


def load_test(task: Task, config: DataConfig) -> dict[str, Split]:
    """GLUE's test splits, whose labels are not public.

    Raises:
        UserError: the source lacks them, or a column.
    """
    if config.name == "generated" or task.name not in GLUE:
        raise UserError(
            "a submission is made of GLUE's own test split: it needs a GLUE task and data=hub or data=local"
        )
    names = tuple(name.replace("validation", "test") for name in task.validation)
    tables = _tables(task, config, names)
    return {name: unlabelled(task, f"{task.name}/{name}", tables[name].to_list()) for name in names}


def layout_name(task: Task, config: DataConfig) -> str | None:
    """The layout in which `data.path` has the task; None for other sources.

    Raises:
        UserError: the folder is in no layout, or lacks a split.
    """
    if config.name != "local":
        return None
    names = ("train", *task.validation)
    return layout_of(_folder(task, config, names), task, names).name


def read_examples(task: Task, file: Path) -> Split:
    """Examples without labels, from a table with the task's columns.

    Raises:
        UserError: the file is missing, of another kind, damaged, or lacks a column.
    """
    return unlabelled(task, str(file), read_rows(file))


def unlabelled(task: Task, where: str, rows: list[dict[str, Any]]) -> Split:
    """Examples without labels; the labels of the split are all 0.

    Raises:
        UserError: there are none, or a column is missing or no text.
    """
    require_texts(task, where, rows)
    texts = [tuple(row[column] for column in task.columns) for row in rows]
    return Split(where, texts, [0] * len(rows), [row.get("idx", number) for number, row in enumerate(rows)])


def hub_folder(task: Task, config: DataConfig, names: tuple[str, ...] = ()) -> Path:
    """The folder of the hub's data set, with at least these splits of the task; by default, those that training needs."""
    files = [f"{task.name}/{split}-*.parquet" for split in names or ("train", *task.validation)]
    return snapshot(config.repository, config.revision, "dataset", files, files)


def fingerprint(splits: dict[str, Split]) -> str:
    """A hash of every text and label, in order."""
    digest = hashlib.sha256()
    for split in splits.values():
        digest.update(json.dumps([split.name, split.texts, split.labels]).encode())
    return digest.hexdigest()[:16]


def _tables(task: Task, config: DataConfig, names: tuple[str, ...]) -> dict[str, datasets.Dataset]:
    """These splits as they lie on disk; rows without an idx are counted, before any are drawn."""
    folder = _folder(task, config, names)
    layout = layout_of(folder, task, names)
    tables = {name: layout.read(task, name, layout.find(folder, task, name)) for name in names}
    return {
        name: table if "idx" in table.column_names else table.add_column("idx", list(range(len(table))))
        for name, table in tables.items()
    }


def _folder(task: Task, config: DataConfig, names: tuple[str, ...]) -> Path:
    if config.name == "hub":
        return hub_folder(task, config, names)
    config.require_folder()
    return Path(config.path or "").expanduser()


def _drawn(rows: int, size: int | None, seed: int) -> list[int] | None:
    """`size` of so many rows at random, those that `Dataset.shuffle` puts first; None for all."""
    if size is None or size >= rows:
        return None
    drawn: list[int] = np.random.default_rng(seed).permutation(rows)[:size].tolist()
    return drawn


def _hold_out(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """A random `fraction` of the examples (at least two) and the rest, as (rest, held out), both in their order."""
    size = max(2, round(fraction * len(train)))
    if size >= len(train):
        raise UserError(f"data.holdout is {fraction}; of {len(train)} examples that leaves none to train on")
    drawn = set(random.Random(seed).sample(range(len(train)), size))
    return train.select([i for i in range(len(train)) if i not in drawn]), train.select(sorted(drawn), HELD_OUT)


def _split(task: Task, name: str, dataset: datasets.Dataset, drawn: list[int] | None = None) -> Split:
    """A table, or the rows drawn of it, as a split, after its columns and these rows are checked against GLUE's."""
    where = f"{task.name}/{name}"
    _check_columns(task, where, dataset)
    rows = range(len(dataset)) if drawn is None else drawn
    dataset = dataset if drawn is None else dataset.select(drawn, keep_in_memory=True)
    texts = list(zip(*(dataset[column] for column in task.columns), strict=True))
    labels = list(dataset["label"])
    idx = list(dataset["idx"])
    for row, *values in zip(rows, texts, labels, idx, strict=True):
        _check_row(task, f"{where}, row {row}", *values)
    return Split(name, texts, [float(x) for x in labels] if task.is_regression else labels, idx)


def _check_columns(task: Task, where: str, dataset: datasets.Dataset) -> None:
    if absent := [column for column in (*task.columns, "label") if column not in dataset.column_names]:
        raise no_column(where, absent[0], dataset.column_names, task.columns)
    if len(dataset) == 0:
        raise UserError(f"{where} has no rows")
    named = getattr(dataset.features["label"], "names", None)
    if named is not None and tuple(named) != task.labels:
        raise UserError(f"{where} names its labels {', '.join(named)}; GLUE has {', '.join(task.labels)}")


def _check_row(task: Task, where: str, text: tuple[object, ...], label: object, idx: object) -> None:
    if absent := [column for column, part in zip(task.columns, text, strict=True) if not isinstance(part, str)]:
        raise UserError(f"{where}: {absent[0]} is not a text")
    if not _is_label(task, label):
        bounds = f" from {task.lowest:g} to {task.highest:g}" if math.isfinite(task.highest) else ""
        expected = f"a finite number{bounds}" if task.is_regression else f"one of 0 to {task.outputs - 1}"
        raise UserError(f"{where}: the label is {label}; it must be {expected}")
    if not isinstance(idx, int):
        raise UserError(f"{where}: idx is {idx!r}; it must be a whole number")


def _is_label(task: Task, label: object) -> bool:
    if task.is_regression:
        return isinstance(label, int | float) and math.isfinite(label) and task.lowest <= label <= task.highest
    return isinstance(label, int) and 0 <= label < task.outputs
