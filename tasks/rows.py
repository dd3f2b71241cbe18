"""Rows of files that a user has (.csv, .tsv, .jsonl, .parquet): read, checked, and as a table in GLUE's columns."""

import csv
import difflib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import UserError, reason
from tasks.glue import GLUE, Task

Row = dict[str, Any]

QUOTED = re.compile(r"""(?<![^\t\r\n])"([^"]*+(?:""[^"]*+)*+)"(?![^\t\r\n])""")  # in tabs, a field as csv quotes it


def read_rows(file: Path) -> list[Row]:
    """The rows of a file, which its suffix says how to read.

    Raises:
        UserError: it is missing, of another kind, or damaged.
    """
    if file.suffix not in READERS:
        raise UserError(f"{file} is not one of: {', '.join(f'*{suffix}' for suffix in READERS)}")
    return read_with(READERS[file.suffix], file)


def read_with(reader: Callable[[Path], list[Row]], file: Path) -> list[Row]:
    """The rows that `reader` finds in a file.

    Raises:
        UserError: it is missing, or damaged.
    """
    try:
        return reader(file)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {reason(error)}") from error
    except (ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error


def _separated(file: Path, columns: list[str] | None = None, may_lack: bool = False, **dialect: Any) -> list[Row]:
    """The rows of a file.

    Args:
        columns: its header if it has none of its own.
        may_lack: whether rows may have too few fields, which are then None; not the last row, which was then cut.

    Raises:
        ValueError: a row has more or fewer fields than the header, or a quote that does not end; or two columns have the
            same name.
    """
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, columns, strict=True, **dialect)
        rows: list[Row] = []
        try:
            rows.extend(reader)
        except csv.Error as error:
            is_about_quotes = re.search("unexpected end of data|expected after", str(error))
            why = "a quote is not closed, or not doubled within a text" if is_about_quotes else error
            raise ValueError(f"row {len(rows)}: {why}") from error
        header = reader.fieldnames or []
    for number, row in enumerate(rows):
        lacks = None in row.values() and not (may_lack and number < len(rows) - 1)
        if lacks or None in row:  # csv's value for missing fields, and its key for surplus ones
            raise ValueError(f"row {number} has too few fields or too many; they are: {', '.join(header)}")
    if len(set(header)) < len(header):
        raise ValueError("two of its columns have the same name")
    return rows


def _json_lines(file: Path) -> list[Row]:
    lines = file.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also split within some texts
    rows: list[Row] = []
    for line in filter(str.strip, lines):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"row {len(rows)} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"row {len(rows)} is not an object")
        rows.append(row)
    return rows


tab_separated = partial(_separated, delimiter="\t", quoting=csv.QUOTE_NONE)


def _own_tabs(file: Path) -> list[Row]:
    """The rows of a .tsv, whose quotes are part of its texts, as in GLUE's files, or csv's around a field, as from pandas.

    They are csv's if csv could have written each of them, and would have had to: for the quotes or tabs that its field
    holds, or because it quotes all fields, the header's too.

    Raises:
        ValueError: as above, or the quotes can be either.
    """
    with file.open(newline="", encoding="utf-8-sig") as stream:
        text = stream.read()
    fields = list(QUOTED.finditer(text))
    if not fields or '"' in QUOTED.sub("", text):
        return tab_separated(file)
    try:
        rows = _separated(file, delimiter="\t")
    except (ValueError, csv.Error):
        return tab_separated(file)
    unsure = [field for field in fields if not _needs_quotes(field[1])]
    if unsure and not text.startswith('"'):
        line = text.count("\n", 0, unsure[0].start()) + 1
        raise ValueError(f"the quotes in line {line} can be the text's own or csv's: write the file as .csv or .jsonl")
    return rows


def _needs_quotes(field: str) -> bool:
    """Whether csv alone writes a field so. One that ends a line may span two texts that have a quote each."""
    return '""' in field or ("\t" in field and not re.search(r"[\r\n]", field))


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".csv": _separated,
    ".tsv": _own_tabs,
    ".jsonl": _json_lines,
    ".parquet": lambda file: pq.read_table(file).to_pylist(),
}


def no_column(where: str, column: str, columns: Iterable[Any], required: Sequence[str]) -> UserError:
    """The error for a table or a row without a column; it points to one with a similar name."""
    there = [*map(str, columns)]
    close = difflib.get_close_matches(column, [name for name in there if name not in required], n=1)
    hint = f"; if {close[0]} is meant, call it {column}" if close else ""
    if len(there) == 1 and (odd := next((mark for mark in ";\t|" if mark in there[0]), None)):
        hint = f"; separate the columns of a .csv by commas, not by {odd!r}"
    return UserError(f"{where} has no column {column}; its columns are: {', '.join(there)}{hint}")


def is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can encode; not every JSON string is."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode() == value


def require_texts(task: Task, where: str, rows: list[Row], numbers: Sequence[int] | None = None) -> None:
    """Raises a UserError if there are no rows, or one lacks a column of text; `numbers` are the rows' in the file."""
    if not rows:
        raise UserError(f"{where} has no rows")
    for number, row in zip(numbers or range(len(rows)), rows, strict=True):
        for column in task.columns:
            if column not in row:
                raise no_column(f"{where}, row {number}", column, row, task.columns)
            if not is_text(row[column]):
                raise UserError(f"{where}, row {number}: {column} is not a text")


def as_table(
    task: Task, where: str, rows: list[Row], is_labelled: bool = True, numbers: Sequence[int] | None = None
) -> datasets.Dataset:
    """Rows as a table in the hub's columns and types; a row without idx has its number as idx.

    Args:
        is_labelled: whether there are labels, by name or by number; they become ids, or scores.
        numbers: the rows' numbers in their file; by default they are all its rows.

    Raises:
        UserError: there are no rows, or one lacks a text or a label, or has an invalid label or idx.
    """
    numbers = numbers or range(len(rows))
    require_texts(task, where, rows, numbers)
    columns: dict[str, Any] = {column: [row[column] for row in rows] for column in task.columns}
    if is_labelled:
        labels = [_label(task, f"{where}, row {number}", row) for number, row in zip(numbers, rows, strict=True)]
        is_hubs_score = task.is_regression and task.name in GLUE
        columns["label"] = pa.array(labels, pa.float32()) if is_hubs_score else labels
    columns["idx"] = [
        _idx(f"{where}, row {number}", row.get("idx", number)) for number, row in zip(numbers, rows, strict=True)
    ]
    return as_dataset(pa.table(columns))


def as_dataset(table: pa.Table) -> datasets.Dataset:
    """The table, without the fingerprint that `datasets` makes of all its bytes for a cache that is not used here."""
    return datasets.Dataset(table, fingerprint="none")


def _label(task: Task, where: str, row: Row) -> int | float:
    if "label" not in row:
        raise no_column(where, "label", row, task.columns)
    value = row["label"]
    try:
        return float(value) if task.is_regression else _label_id(task.labels, value)
    except (TypeError, ValueError, OverflowError) as error:
        expected = "a number" if task.is_regression else f"one of: {', '.join(task.labels)}"
        raise UserError(
            f"{where}: the label is {'missing' if value is None else repr(value)}; it must be {expected}"
        ) from error


def _label_id(names: tuple[str, ...], value: Any) -> int:
    """The id of a label by name or id. 1, 1.0, "1" and "1.0" are the same, as libraries write one for the other.

    Raises:
        TypeError, ValueError, OverflowError: there is no such label.
    """
    if value in names:
        return names.index(value)
    numbers = [_number(name) for name in names]
    if any(number is not None for number in numbers):  # then a number is a name, and no id
        return numbers.index(float(value))
    label = int(float(value))
    if label != float(value) or not 0 <= label < len(names):
        raise ValueError("no label's id")
    return label


def _number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None


def _idx(where: str, value: Any) -> int:
    try:
        idx = int(str(value))
        if abs(idx) >= 2**63:
            raise ValueError("more than 64 bits")
        return idx
    except ValueError as error:
        raise UserError(f"{where}: idx is {value!r}; it must be a whole number") from error
