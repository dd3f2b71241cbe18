"""Malformed tables in GLUE's layout are loaded completely or refused; some of them are trained on."""

import io
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.command_line import compose

from core.errors import UserError
from faults.inputs import guarded, require_line, train_in, tries
from tasks.generated import generate
from tasks.glue import GLUE
from tasks.loading import fingerprint, load_splits

ROWS = 12
SENTENCES = (
    *("", " \n\t", "word " * 10_000, "a" * 100_000, "a\0b", "\u202eabc\u202c", "שלום", "🙂" * 9, "\ufeff", "\x1b[31m"),
    *(
        "<s></s><pad><mask>",
        "[CLS] [SEP] [PAD]",
        "\ud7ff\uffff",
        "a\r\nb",
        "e\u0301" * 50,
        None,
        7,
        b"\xff",
        ["a"],
        1.5,
    ),
)
LABELS = (math.nan, math.inf, -math.inf, -1, 0, 1, 2, 7, 5.1, 0.5, 2**40, None, "1", True, [1], b"x", {"a": 1})
IDX = (0, -1, None, "x", 0.5, math.nan, [1], b"a", 2**40)
METADATA = (b"nonsense", b"7", b'{"info": 7}', b'{"info": {"features": {"label": {"_type": "Nope"}}}}')


@st.composite
def tables(draw: st.DrawFn, task: str) -> bytes:
    """A parquet file with one to three changes, some of them harmless."""
    table = generate(task, "train", ROWS, 0)
    columns = {"label": LABELS, "idx": IDX} | dict.fromkeys(GLUE[task].columns, SENTENCES)
    for column in draw(st.lists(st.sampled_from(sorted(columns)), max_size=2)):
        match draw(st.sampled_from(("all", "all", "one", "drop"))):
            case "all":
                table[column] = [draw(st.sampled_from(columns[column]))] * ROWS
            case "one" if column in table:
                one = draw(st.sampled_from(columns[column]))
                table[column] = [
                    one if row == 3 or type(one) is not type(x) else x for row, x in enumerate(table[column])
                ]
            case "drop":
                table.pop(column, None)
    result = pa.table(table).slice(0, draw(st.sampled_from((ROWS, ROWS, ROWS, 0, 1, 2))))
    if draw(st.sampled_from((False, False, False, True))):
        result = result.replace_schema_metadata({b"huggingface": draw(st.sampled_from(METADATA))})
    if draw(st.sampled_from((False, False, False, True))):
        result = result.append_column(result.column_names[0], result.column(0)) if result.column_names else result
    return damaged(draw, encoded(result))


def encoded(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """Cut short, emptied or with one bit flipped; often unchanged."""
    place = draw(st.integers(0, len(raw) - 1))
    match draw(st.sampled_from(("whole", "whole", "whole", "cut", "empty", "flip", "flip"))):
        case "cut":
            return raw[:place]
        case "empty":
            return b""
        case "flip":
            return raw[:place] + bytes([raw[place] ^ 1 << draw(st.integers(0, 7))]) + raw[place + 1 :]
    return raw


def mirror(folder, task: str) -> None:
    (folder / task).mkdir(parents=True, exist_ok=True)
    for file in (folder / task).iterdir():
        file.unlink()
    for split in ("train", *GLUE[task].validation):
        pq.write_table(pa.table(generate(task, split, ROWS, 0)), folder / task / f"{split}-0.parquet")


@pytest.mark.parametrize("task", GLUE)
def test_a_table_is_loaded_whole_or_refused(task, is_long, tally, tmp_path):
    words = ("profile=offline", "backbone=tiny", f"task={task}", "data=local", f"data.path={tmp_path}")
    settings = [compose(*words, *more).data for more in ((), ("data.train_size=5",), ("data.holdout=0.2",))]
    labels = generate(task, "train", ROWS, 0)
    tried = []

    @tries(10, 150, is_long)
    @given(tables(task), st.sampled_from(("train", *GLUE[task].validation)), st.booleans(), st.sampled_from(settings))
    @example(encoded(pa.table(labels | {"idx": ["x"] * ROWS})), "train", False, settings[0])
    @example(encoded(pa.table(labels).replace_schema_metadata({b"huggingface": b"{}7"})), "train", False, settings[0])
    def attempt(raw: bytes, split: str, is_second: bool, config) -> None:
        tried.append(raw)
        mirror(tmp_path, task)
        (tmp_path / task / f"{split}-{int(is_second)}.parquet").write_bytes(raw)  # another shard, or the one
        with guarded():
            try:
                splits = load_splits(GLUE[task], config)
            except UserError as error:
                require_line(str(error))
                return
        assert fingerprint(splits)
        for examples in splits.values():
            assert {len(text) for text in examples.texts} == {len(GLUE[task].columns)}
            assert all(0 <= label < max(GLUE[task].outputs, 6) for label in examples.labels)

    attempt()
    tally("inputs tried", len(tried))


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_a_table_is_trained_on_or_refused(task, is_long, tally, tmp_path):
    tried, words = [], (f"task={task}", "data=local", f"data.path={tmp_path / 'glue'}")

    @tries(3, 60, is_long)
    @given(tables(task), st.sampled_from(("train", "validation")))
    def attempt(raw: bytes, split: str) -> None:
        tried.append(raw)
        mirror(tmp_path / "glue", task)
        (tmp_path / "glue" / task / f"{split}-0.parquet").write_bytes(raw)
        train_in(tmp_path / "x", *words)

    attempt()
    tally("inputs tried", len(tried))


def test_a_folder_in_place_of_a_table_is_refused(tmp_path):
    mirror(tmp_path, "rte")
    (tmp_path / "rte/validation-0.parquet").unlink()
    config = compose("profile=offline", "backbone=tiny", "task=rte", "data=local", f"data.path={tmp_path}").data
    with pytest.raises(UserError, match=r"has no rte/validation-\*.parquet"):
        load_splits(GLUE["rte"], config)
    (tmp_path / "rte/validation-0.parquet").mkdir()
    with pytest.raises(UserError, match=r"validation-0.parquet cannot be read as parquet"):
        load_splits(GLUE["rte"], config)
