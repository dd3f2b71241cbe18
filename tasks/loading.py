"""From a task's name to its examples: one path for the hub, a local mirror and generated data.

Each source gives a table per split in GLUE's columns. Everything after that, checks included, is the same for all sources.
"""

import csv
import hashlib
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import UserError
from core.hub import checksum, snapshot
from tasks.generated import generate
from tasks.glue import GLUE, Task
from tasks.settings import DataConfig

GENERATED_TRAIN, GENERATED_EVAL = 3000, 600
HELD_OUT = "held_out"


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
            name: _split(task, name, datasets.Dataset(pa.table(generate(task.name, name, sizes[name], config.seed))))
            for name in names
        }
    folder = hub_folder(task, config) if config.name == "hub" else Path(config.path or "").expanduser()
    limits = dict.fromkeys(names, config.eval_size) | {"train": config.train_size}
    return {name: _split(task, name, _draw(_read(folder, task, name), limits[name], config.seed)) for name in names}


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
    folder = hub_folder(task, config, names) if config.name == "hub" else Path(config.path or "").expanduser()
    return {name: unlabelled(task, f"{task.name}/{name}", _read(folder, task, name).to_list()) for name in names}


def read_examples(task: Task, file: Path) -> Split:
    """Examples without labels, from a table with the task's columns; a .tsv is read without quoting, like GLUE's.

    Raises:
        UserError: the file is missing, of another kind, damaged, or lacks a column.
    """
    return unlabelled(task, str(file), _rows(file))


def _rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a table that a user wrote.

    Raises:
        UserError: the file is missing, of another kind, or damaged.
    """
    if file.suffix not in READERS:
        raise UserError(f"{file} is none of: {', '.join(f'*{suffix}' for suffix in READERS)}")
    try:
        return READERS[file.suffix](file)
    except (ValueError, OSError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error


def _separated(file: Path, **dialect: Any) -> list[dict[str, Any]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, strict=True, **dialect)
        rows = list(reader)
        header = reader.fieldnames or []
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():  # csv's key for surplus fields, and its value for missing ones
            raise ValueError(f"row {number} has not the header's {len(header)} fields")
    if len(set(header)) < len(header):
        raise ValueError("two of its columns have the same name")
    return rows


def _json_lines(file: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("not every line is an object")
    return rows


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".csv": _separated,
    ".tsv": partial(_separated, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".jsonl": _json_lines,
    ".parquet": lambda file: pq.read_table(file).to_pylist(),
}


def unlabelled(task: Task, where: str, rows: list[dict[str, Any]]) -> Split:
    """Examples without labels; the labels of the split are all 0.

    Raises:
        UserError: there are none, or a column is missing or no text.
    """
    if not rows:
        raise UserError(f"{where} has no rows")
    for number, row in enumerate(rows):
        for column in task.columns:
            if column not in row:
                raise UserError(f"{where} has no column {column}; its columns are: {', '.join(map(str, row))}")
            if not is_text(row[column]):
                raise UserError(f"{where}, row {number}: {column} is not a text")
    texts = [tuple(row[column] for column in task.columns) for row in rows]
    return Split(where, texts, [0] * len(rows), [row.get("idx", number) for number, row in enumerate(rows)])


def is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can encode: JSON has others."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode() == value


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


def _read(folder: Path, task: Task, split: str) -> datasets.Dataset:
    """One split of a folder in the hub's layout."""
    if not folder.is_dir():
        raise UserError(f"data.path: there is no folder {folder}")
    files = sorted((folder / task.name).glob(f"{split}-*.parquet"))
    if not files and (file := _one_file(folder, task, split)):
        return _own_table(task, file)
    if not files:
        if any(folder.glob("train-*.parquet")):
            raise UserError(f"data.path: {folder} is the folder of one task; give the one above it, {folder.parent}")
        there = sorted(path.name for path in folder.iterdir() if any(path.glob("train-*.parquet")))
        raise UserError(
            f"data.path: {folder} has no {task.name}/{split}-*.parquet; the tasks there are: {', '.join(there) or 'none'}"
        )
    tables = [_table(file) for file in files]
    try:
        return datasets.Dataset(pa.concat_tables(tables))
    except (pa.ArrowException, LookupError, TypeError, ValueError) as error:  # in the metadata, which datasets reads
        first, *others = (file.name for file in files)
        where = f"{folder / task.name / first}" + (f" with {', '.join(others)}" if others else "")
        raise UserError(f"{where} makes no table: {' '.join(str(error).split())}") from error


def _one_file(folder: Path, task: Task, split: str) -> Path | None:
    """`SPLIT.csv` (or of another kind) in the task's folder, or in the folder itself."""
    places = [place / f"{split}{suffix}" for place in (folder / task.name, folder) for suffix in READERS]
    return next((place for place in places if place.is_file()), None)


def _own_table(task: Task, file: Path) -> datasets.Dataset:
    """A user's file as a table in the hub's layout: labels by name or by number become ids, or scores."""
    rows = _rows(file)
    unlabelled(task, str(file), rows)
    labels = [_label(task, f"{file}, row {number}", row.get("label")) for number, row in enumerate(rows)]
    columns: dict[str, list[Any]] = {column: [row[column] for row in rows] for column in task.columns}
    return datasets.Dataset(pa.table(columns | {"label": labels}))


def _label(task: Task, where: str, value: Any) -> int | float:
    try:
        if task.is_regression:
            return float(value)
        if value in task.labels:
            return task.labels.index(value)
        if int(value) != float(value):
            raise ValueError("between two labels")
        return int(value)
    except (TypeError, ValueError) as error:
        expected = "a number" if task.is_regression else f"one of: {', '.join(task.labels)}"
        raise UserError(f"{where}: the label is {value!r}; it must be {expected}") from error


def _table(file: Path) -> pa.Table:
    try:
        checksum(file)  # raises for a file that is not what the hub sent
        table = pq.ParquetFile(file).read()
        table.validate(full=True)  # also for texts that are not UTF-8
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} cannot be read as parquet: {' '.join(str(error).split())}") from error
    return table


def _draw(dataset: datasets.Dataset, size: int | None, seed: int) -> datasets.Dataset:
    """`size` rows at random; all rows if size is None."""
    if size is None or size >= len(dataset):
        return dataset
    return dataset.shuffle(seed=seed, keep_in_memory=True).select(range(size))


def _hold_out(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """A random `fraction` of the examples (at least two) and the rest, as (rest, held out), both in their order."""
    size = max(2, round(fraction * len(train)))
    if size >= len(train):
        raise UserError(f"data.holdout is {fraction}; of {len(train)} examples that leaves none to train on")
    drawn = set(random.Random(seed).sample(range(len(train)), size))
    return train.select([i for i in range(len(train)) if i not in drawn]), train.select(sorted(drawn), HELD_OUT)


def _split(task: Task, name: str, dataset: datasets.Dataset) -> Split:
    """A table as a split, after its columns and rows are checked against GLUE's."""
    where = f"{task.name}/{name}"
    _check_columns(task, where, dataset)
    texts = list(zip(*(dataset[column] for column in task.columns), strict=True))
    labels = list(dataset["label"])
    idx = list(dataset["idx"]) if "idx" in dataset.column_names else list(range(len(dataset)))
    for row, values in enumerate(zip(texts, labels, idx, strict=True)):
        _check_row(task, f"{where}, row {row}", *values)
    return Split(name, texts, [float(x) for x in labels] if task.is_regression else labels, idx)


def _check_columns(task: Task, where: str, dataset: datasets.Dataset) -> None:
    if absent := [column for column in (*task.columns, "label") if column not in dataset.column_names]:
        raise UserError(f"{where} has no column {absent[0]}; its columns are: {', '.join(dataset.column_names)}")
    if len(dataset) == 0:
        raise UserError(f"{where} has no rows")
    named = getattr(dataset.features["label"], "names", None)
    if named is not None and tuple(named) != task.labels:
        raise UserError(f"{where} names its labels {', '.join(named)}; GLUE has {', '.join(task.labels)}")


def _check_row(task: Task, where: str, text: tuple[object, ...], label: object, idx: object) -> None:
    if not all(isinstance(part, str) for part in text):
        raise UserError(f"{where}: {' or '.join(task.columns)} is not a text")
    if not _is_label(task, label):
        scores = f"a number from {task.lowest:g} to {task.highest:g}"
        expected = scores if task.is_regression else f"one of 0 to {task.outputs - 1}"
        raise UserError(f"{where}: the label is {label}; it must be {expected}")
    if not isinstance(idx, int):
        raise UserError(f"{where}: idx is {idx!r}; it must be a whole number")


def _is_label(task: Task, label: object) -> bool:
    if task.is_regression:
        return isinstance(label, int | float) and math.isfinite(label) and task.lowest <= label <= task.highest
    return isinstance(label, int) and 0 <= label < task.outputs
