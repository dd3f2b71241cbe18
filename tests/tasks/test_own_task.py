"""A task of the user's own: columns, labels and metrics from settings, examples from files of several kinds."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.command_line import compose

import train
from core.errors import UserError
from experiments.record import read_record
from experiments.restore import restore
from tasks.loading import fingerprint, load_splits

ROWS = [("win a prize", "spam"), ("see you at lunch", "ham"), ("free, call now", "spam"), ("the report is done", "ham")]
OWN = ["task=custom", "task.name=mail", "task.columns=[text]", "task.labels=[ham,spam]", "data=local"]
QUICK = ["backbone=tiny", "backbone.random_init=true", "logger=none", "trainer.epochs=1", "trainer.batch_size=2"]


def write(folder, suffix: str, rows=ROWS, labels=lambda label: label) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = [{"text": text, "label": labels(label)} for text, label in rows]
    for split in ("train", "validation"):
        file = folder / f"{split}{suffix}"
        if suffix in (".csv", ".tsv"):
            with file.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, ["text", "label"], delimiter="," if suffix == ".csv" else "\t")
                writer.writeheader()
                writer.writerows(table)
        elif suffix == ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in table))
        else:
            pq.write_table(pa.Table.from_pylist(table), file)


def splits(path, *words: str):
    run = compose(*OWN, f"data.path={path}", *words)
    return load_splits(run.task.row, run.data)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_file_gives_the_same_examples_by_labels_name_or_number(suffix, tmp_path):
    write(tmp_path / "names", suffix)
    write(tmp_path / "numbers/mail", suffix, labels=["ham", "spam"].index)
    by_name, by_number = splits(tmp_path / "names"), splits(tmp_path / "numbers")
    assert by_name["train"].labels == [1, 0, 1, 0]
    assert by_name["train"].texts == [(text,) for text, _ in ROWS]
    assert fingerprint(by_name) == fingerprint(by_number)


def test_an_own_task_trains_predicts_and_keeps_its_labels(tmp_path):
    write(tmp_path / "data", ".csv")
    words = ["task.metrics=[f1,accuracy]", f"data.path={tmp_path / 'data'}", f"output_dir={tmp_path / 'runs'}"]
    run = compose(*OWN, *QUICK, *words)
    train.train(run)
    record = read_record(run.folder)
    assert (record["status"], record["task"], record["metric"]) == ("complete", "mail", "f1")
    assert {"f1", "accuracy"} <= record["best"].keys()
    assert restore(run.folder).run.task.row.labels == ("ham", "spam")


def test_an_own_score_is_regressed_over_pairs(tmp_path):
    for split in ("train", "validation"):
        lines = [f'{{"a": "x {i}", "b": "y", "label": {i * 10 - 20}}}\n' for i in range(6)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    words = ["task.columns=[a,b]", "task.labels=[]", "task.metrics=[pearson]", f"data.path={tmp_path}"]
    run = compose(*OWN, *QUICK, *words, f"output_dir={tmp_path / 'runs'}")
    train.train(run)
    assert "pearson" in read_record(run.folder)["best"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task.name=rte"], "task.name is 'rte'; give your task a name"),
        (["task.name=a/b"], "task.name is 'a/b'; give your task a name"),
        (["task.columns=[a,b,c]"], "give one column of text or two"),
        (["task.columns=[label]"], "give one column of text or two"),
        (["task.labels=[yes]"], "give two different labels or more"),
        (["task.labels=[a,a]"], "give two different labels or more"),
        (
            ["task.metrics=[acuracy]"],
            r"task.metrics is \['acuracy'\]; for 2 labels choose from: accuracy, f1, matthews",
        ),
        (["task.metrics=[pearson]"], "for 2 labels choose from"),
        (["task.labels=[a,b,c]", "task.metrics=[f1]"], "for 3 labels choose from: accuracy, matthews_correlation"),
        (["task.labels=[]"], "for a score choose from: pearson, spearmanr"),
        (["data=generated"], "there are no generated data for task mail; give data=local"),
    ],
)
def test_an_own_task_that_is_not_complete_is_one_sentence(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        splits(tmp_path, *words)


def test_a_csv_with_another_separator_is_told_so(tmp_path):
    write(tmp_path, ".csv")
    (tmp_path / "train.csv").write_text("text;label\na;ham\n")
    with pytest.raises(UserError, match=r"are: text;label; separate the columns of a \.csv by commas, not by ';'$"):
        splits(tmp_path)


def test_a_label_outside_the_task_is_named_with_its_row(tmp_path):
    write(tmp_path, ".csv", [*ROWS, ("what", "egg")])
    with pytest.raises(UserError, match="row 4: the label is 'egg'; it must be one of: ham, spam"):
        splits(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("label", [1, 1.0, "1"])
def test_a_number_is_a_name_where_labels_are_numbers(label, suffix, tmp_path):
    write(tmp_path, suffix, labels=lambda _: label)
    assert splits(tmp_path, "task.labels=['1','2']")["train"].labels == [0, 0, 0, 0]
    for wrong in (type(label)(0), 1.7):
        write(tmp_path, suffix, labels=lambda _, wrong=wrong: wrong)
        with pytest.raises(UserError, match=r"row 0: the label is .*; it must be one of: 1, 2"):
            splits(tmp_path, "task.labels=['1','2']")


@pytest.mark.parametrize(
    ("names", "value", "label"), [("'1.0','0.0'", 1.0, 0), ("'-1','-2'", -1, 0), ("'0.5','1'", 0.5, 0)]
)
def test_a_number_is_the_name_of_the_same_value(names, value, label, tmp_path):
    write(tmp_path, ".jsonl", labels=lambda _: value)
    assert splits(tmp_path, f"task.labels=[{names}]")["train"].labels == [label] * 4


def test_a_number_between_two_labels_is_not_a_label(tmp_path):
    write(tmp_path, ".jsonl", labels=lambda label: 0.7)
    with pytest.raises(UserError, match=r"row 0: the label is 0\.7; it must be one of: ham, spam"):
        splits(tmp_path)
