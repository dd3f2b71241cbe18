"""The layouts in which people have GLUE on disk: how a split is found in each, and how it is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from core.console import counted, log
from core.errors import UserError, no_folder, refused
from core.hub import SHARD, absent_shards, checksum
from tasks.glue import GLUE, Task
from tasks.rows import READERS, Row, as_dataset, as_table, no_column, read_rows, read_with, tab_separated


@dataclass(frozen=True)
class Layout:
    """One row: a layout.

    Attributes:
        name: what a run and its record call it.
        shape: the path of a split, for messages; `label` and `dev` are what the old download calls task and split.
        find: the files of a split in a folder; none if the folder is not in this layout.
        read: those files as a table in the hub's columns. A UserError names a file that is damaged, or its row.
    """

    name: str
    shape: str
    find: Callable[[Path, Task, str], list[Path]]
    read: Callable[[Task, str, list[Path]], datasets.Dataset]

    def path(self, task: Task, split: str) -> str:
        """The shape, filled in."""
        return self.shape.format(task=task.name, label=task.label, split=split, dev=_old_name(split))


def layout_of(folder: Path, task: Task, splits: Sequence[str]) -> Layout:
    """The layout in which a folder has these splits of a task.

    Raises:
        UserError: there is no such folder, it is in no layout, or it lacks a split.
    """
    if not folder.is_dir():
        raise UserError(f"data.path: {no_folder(folder)}")
    best = max(LAYOUTS, key=lambda layout: len(_found(layout, folder, task, splits)))  # of two, the earlier one
    if lacking := [split for split in splits if not best.find(folder, task, split)]:
        raise UserError(f"data.path: {folder} has no {_lack(best, folder, task, splits, lacking)}")
    return best


def _found(layout: Layout, folder: Path, task: Task, splits: Sequence[str]) -> list[str]:
    return [split for split in splits if layout.find(folder, task, split)]


def _lack(best: Layout, folder: Path, task: Task, splits: Sequence[str], lacking: Sequence[str]) -> str:
    """What the folder lacks, and what exists instead, in it or in the folder above it."""
    lack = f"{best.path(task, lacking[0])} ({best.name})"
    if len(lacking) == len(splits):
        shapes = "; ".join(f"{layout.path(task, splits[0])} ({layout.name})" for layout in LAYOUTS)
        tasks = [name for name in GLUE if any(layout.find(folder, GLUE[name], "train") for layout in LAYOUTS)]
        lack = f"{task.name} in any of the layouts: {shapes}; the tasks there are: {', '.join(tasks) or 'none'}"
        if task.name in tasks:
            lack = f"{' and no '.join(lacking)} split of {task.name}, whose training set it has"
    if any(len(_found(layout, folder.parent, task, splits)) == len(splits) for layout in LAYOUTS):
        lack += f"; give the folder above it, {folder.parent}"
    return lack


# The hub's parquet files, and its cache


def _find_parquet(folder: Path, task: Task, split: str) -> list[Path]:
    return sorted((folder / task.name).glob(f"{split}-*.parquet"))


def _find_cached(folder: Path, task: Task, split: str) -> list[Path]:
    """In the cache's root, or in its folder of one data set; of every revision there."""
    repositories = [folder, *(place for place in folder.glob("datasets--*") if place.name.endswith("--glue"))]
    return sorted(file for place in repositories for file in place.glob(f"snapshots/*/{task.name}/{split}-*.parquet"))


def _read_cached(task: Task, split: str, files: list[Path]) -> datasets.Dataset:
    there = {file.parents[1] for place in files for file in place.parents[2].glob(f"*/{task.name}/*.parquet")}
    if len(there) > 1:
        revisions = ", ".join(sorted(map(str, there)))
        raise UserError(f"data.path: the cache has several revisions of {task.name}; give one of: {revisions}")
    return _read_parquet(task, split, files)


def _require_shards(files: list[Path]) -> None:
    """Raises a UserError unless the files are the shards of one table, and all of them, as far as their names tell."""
    for one, other in pairwise(files):  # sorted: the shards of two tables with the same number are neighbours
        a, b = SHARD.fullmatch(one.name), SHARD.fullmatch(other.name)
        if (a and a["total"]) != (b and b["total"]) or (a and b and a["number"] == b["number"]):
            raise UserError(f"{one} and {other.name} are not shards of one table; remove what does not belong there")
    if absent := absent_shards(files):
        raise UserError(
            f"{files[0].parent} lacks {absent[0]}, a shard of the same table as {files[0].name}; copy all shards there"
        )


def _read_parquet(task: Task, split: str, files: list[Path]) -> datasets.Dataset:
    _require_shards(files)
    tables = [_table(file) for file in files]
    where = str(files[0]) if len(files) == 1 else f"{files[0].parent / split}-*.parquet"
    try:
        return _labelled(task, split, where, as_dataset(pa.concat_tables(tables)))
    except (pa.ArrowException, LookupError, TypeError, ValueError) as error:  # in the metadata, which datasets reads
        raise UserError(f"{where} makes no table: {' '.join(str(error).split())}") from error


def _labelled(task: Task, split: str, where: str, table: datasets.Dataset) -> datasets.Dataset:
    """The table with the hub's labels: as it is if it names them, which are checked later, or read as a user's own rows."""
    if isinstance(table.features.get("label"), datasets.ClassLabel):
        return table
    return as_table(task, where, table.to_list(), not _is_test(split))


def _table(file: Path) -> pa.Table:
    try:
        checksum(file)  # raises for a file that is not what the hub sent
        table = pq.ParquetFile(file).read()
        table.validate(full=True)  # also for texts that are not UTF-8
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} cannot be read as parquet: {' '.join(str(error).split())}") from error
    return table


# The download of gluebenchmark.com, as its script unpacks it

OLD_COLUMNS = {  # our columns that have another name there
    "mnli": {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
    "mrpc": {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"},
    "qqp": {"label": "is_duplicate"},
    "stsb": {"label": "score"},
}
COLA_HEADER = ["source", "label", "mark", "sentence"]  # its train.tsv and dev.tsv have none
PAIR_IDS = ["#1 ID", "#2 ID"]
# Some lines of QQP/train.tsv have too few fields (nyu-mll/GLUE-baselines, issue 5). The script that made the hub's data set
# (glue.py of datasets) counts all lines and then leaves these out, so the number of a row here is its idx there. How many
# there are in which version of the zip is not known here.
WITH_SHORT_ROWS = ("qqp",)


def _old_name(split: str) -> str:
    return split.replace("validation", "dev")


def _is_test(split: str) -> bool:
    return split.startswith("test")


def _find_download(folder: Path, task: Task, split: str) -> list[Path]:
    """`SPLIT.tsv`; or for MRPC the corpus as Microsoft has it, and the ids that divide its training set."""
    if task.name not in GLUE:
        return []
    place = folder / task.label
    file = place / f"{_old_name(split)}.tsv"
    corpus = place / f"msr_paraphrase_{'test' if _is_test(split) else 'train'}.txt"
    if task.name == "mrpc" and corpus.is_file() and not file.is_file():
        return [corpus] if _is_test(split) else [corpus, place / "dev_ids.tsv"]
    return [file] if file.is_file() else []


def _read_download(task: Task, split: str, files: list[Path]) -> datasets.Dataset:
    file, *ids = files
    is_headless = task.name == "cola" and not _is_test(split)
    may_lack = task.name in WITH_SHORT_ROWS and not _is_test(split)  # a submission needs every row
    rows = read_with(lambda path: tab_separated(path, COLA_HEADER if is_headless else None, may_lack), file)
    wanted = task.columns if _is_test(split) else (*task.columns, "label")
    names = {column: OLD_COLUMNS.get(task.name, {}).get(column, column) for column in wanted}
    _require_columns(file, rows, list(names.values()))
    whole = [number for number, row in enumerate(rows) if None not in row.values()]
    if short := sorted({*range(len(rows))} - {*whole}):
        what = f"{counted(len(short), 'row')} with too few fields, the first of them row {short[0]}"
        log.warning(f"{file}: left out {what}, as the hub's data set does")
    renamed = [{column: rows[number][name] for column, name in names.items()} for number in whole]
    table = as_table(task, str(file), renamed, not _is_test(split), whole)
    return table.select(_part(rows, file, ids[0], split), keep_in_memory=True) if ids else table


def _part(rows: list[Row], file: Path, ids: Path, split: str) -> list[int]:
    """The rows of MRPC in a split: validation has those whose pair of ids is in the list, train the others."""
    _require_columns(file, rows, PAIR_IDS)
    listed = {tuple(pair.values()) for pair in read_with(lambda path: tab_separated(path, PAIR_IDS), ids)}
    pairs = [tuple(row[name] for name in PAIR_IDS) for row in rows]
    return [number for number, pair in enumerate(pairs) if (pair in listed) == (split != "train")]


def _require_columns(file: Path, rows: list[Row], names: list[str]) -> None:
    """Raises a UserError unless the rows, which all have the same columns, have these."""
    if rows and (absent := [name for name in names if name not in rows[0]]):
        raise no_column(str(file), absent[0], rows[0], names)


# What datasets' save_to_disk writes: for a DatasetDict a folder with one folder for each split


def _find_saved(folder: Path, task: Task, split: str) -> list[Path]:
    places = [place / split for place in (folder / task.name, folder)]
    return [place for place in places if (place / "state.json").is_file()][:1]


def _read_saved(task: Task, split: str, files: list[Path]) -> datasets.Dataset:
    [folder] = files
    with refused(f"{folder} cannot be read as a data set"):
        dataset = datasets.Dataset.load_from_disk(str(folder)).with_format(None)
        dataset.data.validate(full=True)
        return _labelled(task, split, str(folder), dataset)


# A user's own files


def _find_file(folder: Path, task: Task, split: str) -> list[Path]:
    for place in (folder / task.name, folder):
        files = [file for suffix in READERS if (file := place / f"{split}{suffix}").is_file()]
        if len(files) > 1:
            raise UserError(f"{place} has {files[0].name} and {files[1].name}: keep one of them")
        if files:
            return files
    return []


def _read_file(task: Task, split: str, files: list[Path]) -> datasets.Dataset:
    [file] = files
    return as_table(task, str(file), read_rows(file), not _is_test(split))


LAYOUTS = (
    Layout("the hub's files", "{task}/{split}-*.parquet", _find_parquet, _read_parquet),
    Layout("the hub's cache", "datasets--*--glue/snapshots/*/{task}/{split}-*.parquet", _find_cached, _read_cached),
    Layout("GLUE's old download", "{label}/{dev}.tsv", _find_download, _read_download),
    Layout("save_to_disk", "[{task}/]{split}/state.json", _find_saved, _read_saved),
    Layout("own files", "[{task}/]{split}" + " or ".join(READERS), _find_file, _read_file),
)
