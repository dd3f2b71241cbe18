"""Each layout of GLUE on disk gives the same examples; other folders, and rows that are not whole, are refused."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.command_line import compose

import train
from core.errors import UserError
from experiments.record import read_record
from tasks.generated import generate
from tasks.glue import GLUE
from tasks.layouts import layout_of
from tasks.loading import fingerprint, layout_name, load_splits, load_test
from tasks.settings import DataConfig

ODD = (
    *('"Quoted," she said.', 'An "open quote.', '"', "'", "back\\slash \\n", "a, b; c | d", "trailing space ", " ", ""),
    *(
        "e\u0301 is not \u00e9",
        "\u2028 and \x85 end no line",
        "no\u00a0break",
        "🙂 שלום",
        "NA",
        "null",
        "#1 String",
        "-1",
    ),
)
OLD = {  # the old download's header, and our columns among it
    "mnli": (
        "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
        "sentence1 sentence2 label1 gold_label",
        {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
    ),
    "sst2": ("sentence label", {}),
    "qnli": ("index question sentence label", {}),
    "qqp": ("id qid1 qid2 question1 question2 is_duplicate", {"is_duplicate": "label"}),
    "rte": ("index sentence1 sentence2 label", {}),
    "stsb": ("index genre filename year old_index source1 source2 sentence1 sentence2 score", {"score": "label"}),
    "wnli": ("index sentence1 sentence2 label", {}),
}
OLD_TEST = {"sst2": "index sentence", "cola": "index sentence"}
MRPC = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
NAMED = ("mnli", "qnli", "rte")  # tasks whose labels have names in the old download


def tables(task: str) -> dict[str, dict[str, list]]:
    """Columns of our own examples, some of them odd, by split: the test splits too."""
    found = {}
    for split in ("train", *GLUE[task].validation):
        found[split] = generate(task, split, 24, seed=0)
        for column in GLUE[task].columns:
            found[split][column][3 : 3 + len(ODD)] = ODD
        if GLUE[task].is_regression:
            found[split]["label"][:3] = [3.8, 0.1, 2.567]  # no float32 is one of these
    return found | {split.replace("validation", "test"): found[split] for split in GLUE[task].validation}


def hub_dataset(task: str, table: dict[str, list]) -> datasets.Dataset:
    row = GLUE[task]
    label = datasets.Value("float32") if row.is_regression else datasets.ClassLabel(names=list(row.labels))
    texts = dict.fromkeys(row.columns, datasets.Value("string"))
    return datasets.Dataset.from_dict(
        table, datasets.Features(texts | {"label": label, "idx": datasets.Value("int32")})
    )


def hub_files(folder: Path, task: str) -> None:
    (folder / task).mkdir(parents=True)
    for split, table in tables(task).items():
        hub_dataset(task, table).to_parquet(folder / task / f"{split}-00000-of-00001.parquet")


def hub_cache(folder: Path, task: str) -> None:
    """As huggingface_hub keeps files: a snapshot of links to blobs."""
    repository = folder / "datasets--nyu-mll--glue"
    hub_files(repository / "blobs", task)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("bcdcba79")
    snapshot = repository / "snapshots/bcdcba79" / task
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted((repository / "blobs" / task).iterdir())):
        blob = file.rename(repository / "blobs" / f"{number:040x}")
        (snapshot / file.name).symlink_to(f"../../../blobs/{blob.name}")


def hub_repository(folder: Path, task: str) -> None:
    """`datasets--nyu-mll--glue` itself."""
    hub_cache(folder, task)
    for part in ("blobs", "refs", "snapshots"):
        (folder / "datasets--nyu-mll--glue" / part).rename(folder / part)


def lines(file: Path, rows: list[list], encoding: str = "utf-8") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    file.write_text(text, encoding=encoding, newline="")


def examples(table: dict[str, list]) -> list[dict]:
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def old_download(folder: Path, task: str) -> None:
    if task == "mrpc":
        return old_mrpc(folder)
    for split, table in tables(task).items():
        file, is_test = folder / GLUE[task].label / f"{split.replace('validation', 'dev')}.tsv", "test" in split
        if task in NAMED:
            table = table | {"label": [GLUE[task].labels[label] for label in table["label"]]}
        if task == "cola" and not is_test:
            lines(
                file, [["gj04", row["label"], "" if row["label"] else "*", row["sentence"]] for row in examples(table)]
            )
            continue
        header, names = OLD.get(task, ("", {}))
        columns = header.split()
        if is_test:
            columns = OLD_TEST[task].split() if task in OLD_TEST else columns[:-1]
        rows = [
            [row["idx"] if name in ("index", "id") else row.get(names.get(name, name), "x") for name in columns]
            for row in examples(table)
        ]
        lines(file, [columns, *rows])
    return None


def mrpc_lines(table: dict[str, list], first_id: int) -> list[list]:
    return [
        [row["label"], first_id + number, 7, row["sentence1"], row["sentence2"]]
        for number, row in enumerate(examples(table))
    ]


def old_mrpc(folder: Path) -> None:
    """As the download script writes it; it copies the byte order mark of Microsoft's file."""
    found, header = tables("mrpc"), MRPC.split("\t")
    lines(folder / "MRPC/train.tsv", [header, *mrpc_lines(found["train"], 100)], "utf-8-sig")
    lines(folder / "MRPC/dev.tsv", [header, *mrpc_lines(found["validation"], 500)], "utf-8-sig")
    numbered = [[number, *row[1:]] for number, row in enumerate(mrpc_lines(found["test"], 900))]
    lines(folder / "MRPC/test.tsv", [["index", *header[1:]], *numbered])


def microsofts_mrpc(folder: Path, task: str) -> None:
    """One training set, in which validation's examples are scattered; dev_ids.tsv lists them."""
    assert task == "mrpc"
    found, header = tables(task), MRPC.split("\t")
    train, validation = mrpc_lines(found["train"], 100), mrpc_lines(found["validation"], 500)
    mixed = [row for pair in zip(validation, train, strict=True) for row in pair]
    lines(folder / "MRPC/msr_paraphrase_train.txt", [header, *mixed], "utf-8-sig")
    lines(folder / "MRPC/msr_paraphrase_test.txt", [header, *mrpc_lines(found["test"], 900)], "utf-8-sig")
    lines(folder / "MRPC/dev_ids.tsv", [row[1:3] for row in reversed(validation)])


def saved(folder: Path, task: str) -> None:
    parts = {split: hub_dataset(task, table) for split, table in tables(task).items()}
    datasets.DatasetDict(parts).save_to_disk(folder / task)


def saved_by_split(folder: Path, task: str) -> None:
    """Single Datasets, whose labels are plain values, in the folder itself."""
    for split, table in tables(task).items():
        datasets.Dataset.from_dict(table).save_to_disk(folder / split)


def saved_strings(folder: Path, task: str) -> None:
    """What a Dataset is that was made of a CSV: labels by name."""
    for split, table in tables(task).items():
        names = GLUE[task].labels
        table = table | ({"label": [names[label] for label in table["label"]]} if names else {})
        datasets.Dataset.from_dict(table).with_format("numpy").save_to_disk(folder / task / split)


def hub_files_without_types(folder: Path, task: str) -> None:
    """The hub's layout by another library than datasets: labels by name, or as numbers in strings, and no idx."""
    (folder / task).mkdir(parents=True)
    for split, table in tables(task).items():
        names = GLUE[task].labels
        columns = {column: table[column] for column in GLUE[task].columns}
        labels = [names[label] if names else str(label) for label in table["label"]]
        pq.write_table(pa.table(columns | {"label": labels}), folder / task / f"{split}-00000-of-00001.parquet")


def own(suffix: str):
    def write(folder: Path, task: str) -> None:
        for split, table in tables(task).items():
            write_own(folder / f"{split}{suffix}", table)

    return write


def write_own(file: Path, table: dict[str, list]) -> None:
    rows = examples(table)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif file.suffix == ".parquet":
        pq.write_table(datasets.Dataset.from_dict(table).data.table, file)
    elif file.suffix == ".tsv":
        lines(file, [list(table), *(row.values() for row in rows)])
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(table))
            writer.writeheader()
            writer.writerows(rows)


WRITERS = {
    "hub-without-types": (hub_files_without_types, "the hub's files"),
    "cache": (hub_cache, "the hub's cache"),
    "repository": (hub_repository, "the hub's cache"),
    "download": (old_download, "GLUE's old download"),
    "microsoft": (microsofts_mrpc, "GLUE's old download"),
    "saved": (saved, "save_to_disk"),
    "saved-by-split": (saved_by_split, "save_to_disk"),
    "saved-strings": (saved_strings, "save_to_disk"),
    **{suffix: (own(suffix), "own files") for suffix in (".csv", ".tsv", ".jsonl", ".parquet")},
}
CASES = [(task, way) for task in GLUE for way in WRITERS if way != "microsoft" or task == "mrpc"]


def local(folder: Path) -> DataConfig:
    return DataConfig(name="local", path=str(folder))


def load(folder: Path, task: str, **changes):
    return load_splits(GLUE[task], replace(local(folder), **changes))


@pytest.fixture(scope="module")
def hubs(tmp_path_factory) -> Path:
    """All tasks in the hub's layout, which the others are compared with."""
    folder = tmp_path_factory.mktemp("hub")
    for task in GLUE:
        hub_files(folder, task)
    return folder


@pytest.mark.parametrize(("task", "way"), CASES, ids=["-".join(case) for case in CASES])
def test_every_layout_gives_the_hubs_examples(task, way, hubs, tmp_path):
    write, name = WRITERS[way]
    write(tmp_path, task)
    config = local(tmp_path)
    found, expected = load_splits(GLUE[task], config), load(hubs, task)
    assert layout_name(GLUE[task], config) == name
    for split, table in tables(task).items():
        if "test" not in split:
            assert found[split].texts == list(zip(*(table[column] for column in GLUE[task].columns), strict=True))
    assert fingerprint(found) == fingerprint(expected)
    drawn = {"train_size": 9, "eval_size": 5, "holdout": 0.3}
    assert fingerprint(load(tmp_path, task, **drawn)) == fingerprint(load(hubs, task, **drawn))
    if way == "microsoft":  # there an idx counts the rows of the whole training set, as the hub's own does
        assert [found["validation"].idx, found["train"].idx] == [list(range(0, 48, 2)), list(range(1, 48, 2))]
    else:
        assert {split: part.idx for split, part in found.items()} == {
            split: part.idx for split, part in expected.items()
        }
    assert load_test(GLUE[task], config) == load_test(GLUE[task], local(hubs))


def test_a_snapshot_of_the_hubs_cache_is_in_the_hubs_layout(hubs, tmp_path):
    hub_cache(tmp_path, "rte")
    snapshot = tmp_path / "datasets--nyu-mll--glue/snapshots/bcdcba79"
    assert layout_name(GLUE["rte"], local(snapshot)) == "the hub's files"
    assert fingerprint(load(snapshot, "rte")) == fingerprint(load(hubs, "rte"))


def test_two_revisions_in_the_cache_are_refused(tmp_path):
    hub_cache(tmp_path, "rte")
    snapshots = tmp_path / "datasets--nyu-mll--glue/snapshots"
    shutil.copytree(snapshots / "bcdcba79", snapshots / "other", symlinks=True)
    with pytest.raises(UserError, match=r"several revisions of rte; give one of: .*snapshots/bcdcba79, .*other$"):
        load(tmp_path, "rte")


ONE, TWO, OTHER = "train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([TWO], f"rte lacks {OTHER}.parquet, a shard of the same table as {TWO}.parquet"),
        ([OTHER], f"rte lacks {TWO}.parquet, a shard of the same table as {OTHER}.parquet"),
        ([ONE, TWO], f"{ONE}.parquet and {TWO}.parquet are not shards of one table"),
        ([ONE, f"{ONE}-b42a775f407cee45"], f"{ONE}-b42a775f407cee45.parquet and {ONE}.parquet are not shards of one"),
        ([ONE, "train-0"], f"train-0.parquet and {ONE}.parquet are not shards of one table"),
    ],
)
@pytest.mark.parametrize("way", ["cache", "hub"])
def test_a_shard_too_few_or_too_many_is_named(way, names, message, tmp_path):
    (hub_cache if way == "cache" else hub_files)(tmp_path, "rte")
    [file] = tmp_path.rglob(f"{ONE}.parquet")
    files = [file.with_name(f"{name}.parquet") for name in names]
    content = file.read_bytes()
    file.unlink()
    for file in files:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path, "rte")


def test_all_shards_of_a_table_are_read_in_their_order(hubs, tmp_path):
    hub_files(tmp_path, "rte")
    file = tmp_path / f"rte/{ONE}.parquet"
    table = pq.read_table(file)
    file.unlink()
    for name, part in ((OTHER, table.slice(9)), (f"{TWO}-b42a775f407cee45", table.slice(0, 9))):
        pq.write_table(part, tmp_path / f"rte/{name}.parquet")
    assert fingerprint(load(tmp_path, "rte")) == fingerprint(load(hubs, "rte"))


def test_a_drawn_example_keeps_its_row_as_idx(tmp_path):
    own(".jsonl")(tmp_path, "cola")
    for file in tmp_path.iterdir():
        rows = [json.loads(line) for line in file.read_text().split("\n") if line]
        file.write_text("".join(json.dumps({"sentence": row["sentence"], "label": 1}) + "\n" for row in rows))
    whole, drawn = load(tmp_path, "cola")["train"], load(tmp_path, "cola", train_size=9)["train"]
    assert drawn.texts == [whole.texts[i] for i in drawn.idx]


def test_csv_and_jsonl_keep_tabs_and_line_ends_within_texts(tmp_path):
    texts = ["a\tb", "a\nb", "a\r\nb", "a\rb", '"a"\n', "\ta\n"]
    for split in ("train", "validation"):
        (tmp_path / "json").mkdir(exist_ok=True)
        rows = [{"sentence": text, "label": 1} for text in texts]
        (tmp_path / f"json/{split}.jsonl").write_text("".join(json.dumps(row) + "\r\n" for row in rows))
        with (tmp_path / f"{split}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([["sentence", "label"], *([text, 1] for text in texts)])
    for folder in (tmp_path, tmp_path / "json"):
        assert load(folder, "cola")["train"].texts == [(text,) for text in texts]


PLAIN, CSVS = ("a cat", 'She said "so".', "it's"), ("a\tb", '"All of it."', '"', '"a" b "c"', "no quote")
MINIMAL, ALL, NON_NUMERIC = csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC


def write_tabs(folder: Path, texts, quoting: int, end: str = "\n") -> None:
    """As pandas does, whose writer is csv's."""
    for split in ("train", "validation"):
        with (folder / f"{split}.tsv").open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t", quoting=quoting, lineterminator=end)
            writer.writerows([["sentence", "label"], *([text, 1] for text in texts)])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("texts", "quoting"),
    [(PLAIN, MINIMAL), (CSVS, MINIMAL), (CSVS, ALL), (CSVS, NON_NUMERIC), (("", "two\nlines", '""'), ALL)],
)
def test_a_tsv_that_csv_wrote_loses_csvs_quotes(texts, quoting, end, tmp_path):
    write_tabs(tmp_path, texts, quoting, end)
    assert load(tmp_path, "cola")["train"].texts == [(text,) for text in texts]


@pytest.mark.parametrize(
    "texts",
    [
        ('"All of it."', 'One "word".'),
        ('"All of it."', '"Open.'),
        ('"All of it."', 'Closed."'),
        ('"So," he said, "is it."', "plain"),
        ('"a"b"', '"c"'),
    ],
)
def test_a_tsv_with_quotes_that_csv_does_not_write_keeps_them_all(texts, tmp_path):
    for split in ("train", "validation"):
        lines(tmp_path / f"{split}.tsv", [["sentence", "label"], *([text, 1] for text in texts)])
    assert load(tmp_path, "cola")["train"].texts == [(text,) for text in texts]


@pytest.mark.parametrize(
    "texts",
    [("plain", '"All of it."'), ("plain", '"Open.', 'Closed."'), ("plain", '""'), ("plain", '"two\nlines"')],
)
def test_a_tsv_whose_quotes_can_be_either_is_refused_with_the_way_out(texts, tmp_path):
    for split in ("train", "validation"):
        lines(tmp_path / f"{split}.tsv", [["sentence", "label"], *([text, 1] for text in texts)])
    with pytest.raises(
        UserError, match=r"train.tsv cannot be read: the quotes in line 3 can be the text's own or csv's"
    ):
        load(tmp_path, "cola")


def test_the_layout_is_printed_and_recorded_and_the_runs_name_stays(tmp_path, capsys):
    folders = {way: tmp_path / way for way in ("download", ".csv")}
    words = ["profile=offline", "backbone=tiny", "backbone.random_init=true", "task=rte", "data=local", "logger=none"]
    quick = ["trainer.max_steps=1", "trainer.batch_size=2", f"output_dir={tmp_path / 'runs'}", "data.train_size=4"]
    runs = {}
    for way, folder in folders.items():
        folder.mkdir()
        WRITERS[way][0](folder, "rte")
        runs[way] = compose(*words, *quick, f"data.path={folder}")
    train.train(runs["download"])
    assert capsys.readouterr().out.splitlines()[0] == f"data: GLUE's old download in {folders['download']}"
    record = read_record(runs["download"].folder)
    assert record["provenance"]["data_layout"] == "GLUE's old download"
    train.train(runs[".csv"])  # the same examples: the run is finished
    assert read_record(runs[".csv"].folder) == record


def write_split(folder: Path, way: str, split: str, table: dict[str, list]) -> None:
    """A table of QQP as it is."""
    if way == "hub":
        (folder / "qqp").mkdir(exist_ok=True)
        pq.write_table(pa.table(table), folder / f"qqp/{split}-00000-of-00001.parquet")
    elif way == "saved-by-split":
        datasets.Dataset.from_dict(table).save_to_disk(folder / split)
    elif way == "download":
        header = OLD["qqp"][0].split()
        rows = [[0, 0, 0, *values] for values in zip(*table.values(), strict=True)]
        lines(folder / f"QQP/{split.replace('validation', 'dev')}.tsv", [header, *rows])
    else:
        write_own(folder / f"{split}{way}", table)


@pytest.mark.parametrize("way", ["download", "hub", "saved-by-split", ".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("label", ["name", 1, 1.0, "1", "1.0"])
def test_a_label_is_read_alike_in_every_layout(label, way, tmp_path):
    label = "duplicate" if label == "name" else label
    table = {"question1": ["a"] * 4, "question2": ["b"] * 4, "label": [label] * 4}
    for split in ("train", "validation"):
        write_split(tmp_path, way, split, table)
    assert load(tmp_path, "qqp")["train"].labels == [1, 1, 1, 1]


@pytest.mark.parametrize("way", ["hub", "saved-by-split", ".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("wanted", "there"), [("label", "labels"), ("label", "Label"), ("question1", "question_1")])
def test_a_column_of_nearly_the_right_name_is_pointed_to(wanted, there, way, tmp_path):
    table = {"question1": ["a"] * 4, "question2": ["b"] * 4, "label": [1] * 4}
    table = {there if column == wanted else column: values for column, values in table.items()}
    for split in ("train", "validation"):
        write_split(tmp_path, way, split, table)
    message = f"has no column {wanted}; its columns are: {', '.join(table)}; if {there} is meant, call it {wanted}$"
    with pytest.raises(UserError, match=message):
        load(tmp_path, "qqp")


def test_a_folder_in_no_layout_is_refused_with_the_known_layouts(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        load(tmp_path / "empty", "mnli")
    message = str(error.value)
    for shape in (
        "mnli/train-*.parquet (the hub's files)",
        "datasets--*--glue/snapshots/*/mnli/train-*.parquet (the hub's cache)",
        "MNLI/train.tsv (GLUE's old download)",
        "[mnli/]train/state.json (save_to_disk)",
        "[mnli/]train.csv or .tsv or .jsonl or .parquet (own files)",
    ):
        assert shape in message
    assert message.endswith("; the tasks there are: none")
    assert "\n" not in message


def test_two_files_of_a_split_are_refused(tmp_path):
    for suffix in (".csv", ".tsv"):
        own(suffix)(tmp_path, "cola")
    with pytest.raises(UserError, match=r"has train.csv and train.tsv: keep one of them$"):
        load(tmp_path, "cola")


@pytest.mark.parametrize("way", ["download", "saved"])
def test_a_folder_of_other_tasks_says_which(way, tmp_path):
    for task in ("rte", "stsb"):
        WRITERS[way][0](tmp_path, task)
    with pytest.raises(UserError, match=r"has no cola in any of the layouts: .*; the tasks there are: rte, stsb$"):
        load(tmp_path, "cola")


def test_a_missing_split_of_an_existing_task_is_named(tmp_path):
    WRITERS["download"][0](tmp_path, "rte")
    for file in tmp_path.rglob("test*"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no test split of rte, whose training set it has$"):
        layout_of(tmp_path, GLUE["rte"], ["test"])


def test_the_folder_of_one_task_points_to_the_one_above(hubs, tmp_path):
    old_download(tmp_path, "rte")
    for folder in (tmp_path / "RTE", hubs / "rte"):
        with pytest.raises(UserError, match=f"; give the folder above it, {folder.parent}$"):
            load(folder, "rte")


def test_a_missing_split_is_named_as_its_layout_calls_it(tmp_path):
    old_download(tmp_path, "mnli")
    (tmp_path / "MNLI/dev_mismatched.tsv").unlink()
    with pytest.raises(UserError, match=r"has no MNLI/dev_mismatched.tsv \(GLUE's old download\)$"):
        load(tmp_path, "mnli")
    (tmp_path / "MNLI/test_matched.tsv").unlink()
    with pytest.raises(UserError, match=r"has no MNLI/test_matched.tsv \(GLUE's old download\)$"):
        load_test(GLUE["mnli"], local(tmp_path))


def test_microsofts_mrpc_without_the_ids_of_validation_is_refused(tmp_path):
    microsofts_mrpc(tmp_path, "mrpc")
    (tmp_path / "MRPC/dev_ids.tsv").unlink()
    with pytest.raises(UserError, match=r"MRPC/dev_ids.tsv cannot be read: .*No such file"):
        load(tmp_path, "mrpc")


DAMAGE = [  # task, way, file, the line to write as its fifth, message
    (
        "cola",
        "download",
        "CoLA/train.tsv",
        "gj04\t1\t",
        "row 4 has too few fields or too many; .*: source, label, mark",
    ),
    ("cola", "download", "CoLA/dev.tsv", "gj04\tx\t\tA sentence.", "row 4: the label is 'x'; it must be one of: unacc"),
    ("qqp", "download", "QQP/test.tsv", "3\tOne?", "row 3 has too few fields or too many; they are: id, qid1, qid2"),
    ("qqp", "download", "QQP/train.tsv", "\t".join("0123456"), "row 3 has too few fields or too many; they are: id"),
    ("qnli", "download", "QNLI/train.tsv", "3\tOne?", "row 3 has too few fields or too many; they are: index, ques"),
    ("sst2", "download", "SST-2/dev.tsv", "a\tb\t1", "row 3 has too few fields or too many; they are: sentence, label"),
    ("mnli", "download", "MNLI/dev_matched.tsv", "\t".join("0123456789a-"), "row 3: the label is '-'; it must be"),
    ("stsb", "download", "STS-B/train.tsv", "\t".join("0123456789"), "row 3: the label is 9.0; .* from 0 to 5"),
    ("stsb", "download", "STS-B/dev.tsv", "\t".join("012345678x"), "row 3: the label is 'x'; it must be a number"),
    ("mrpc", "download", "MRPC/train.tsv", "1\t5\t6\tA b.", "row 3 has too few fields or too many; they are: Quality"),
    ("mrpc", "microsoft", "MRPC/msr_paraphrase_train.txt", "2\t5\t6\tA\tB", "row 3: the label is '2'; it must be one"),
    ("mrpc", "microsoft", "MRPC/dev_ids.tsv", "7", "row 4 has too few fields or too many; they are: #1 ID, #2 ID"),
    ("rte", ".csv", "train.csv", "A,B", "row 3 has too few fields or too many; they are: sentence1, sentence2, label"),
    ("rte", ".csv", "train.csv", "A,B,1,x", "row 3: idx is 'x'; it must be a whole number"),
    ("rte", ".csv", "train.csv", f"A,B,1,{2**64}", "row 3: idx is .*; it must be a whole number"),
    ("rte", ".csv", "train.csv", f"A,B,{2**70},1", "row 3: the label is .*; it must be one of: entailment"),
    ("rte", ".jsonl", "train.jsonl", '{"sentence1": "A", "label": 1}', "row 4 has no column sentence2; its columns"),
    ("rte", ".jsonl", "train.jsonl", '{"sentence1": "A", "sentence2": "B"}', "row 4 has no column label; its columns"),
    (
        "rte",
        ".jsonl",
        "train.jsonl",
        '{"sentence1": "A", "sentence2": "B", "label": null}',
        "row 4: the label is missing",
    ),
    ("rte", ".jsonl", "train.jsonl", '{"sentence1": "A", "sentence2": null}', "row 4: sentence2 is not a text"),
    ("rte", ".jsonl", "train.jsonl", '{"sentence1": "A", "sentence2": "B", "label": Infinity}', "row 4: the label is"),
]


@pytest.mark.parametrize(("task", "way", "name", "line", "message"), DAMAGE, ids=range(len(DAMAGE)))
def test_a_row_that_is_not_whole_is_named_with_its_file(task, way, name, line, message, tmp_path):
    WRITERS[way][0](tmp_path, task)
    text = (tmp_path / name).read_bytes().decode().split("\n")
    text[4] = line
    (tmp_path / name).write_bytes("\n".join(text).encode())
    place = f"{task}/train, " if "label is 9.0" in message else f"{tmp_path / name}(,| cannot be read:) "
    with pytest.raises(UserError, match=place + message):
        load_test(GLUE[task], local(tmp_path)) if "test" in name else load(tmp_path, task)


def test_short_rows_of_qqps_download_are_left_out_and_counted(hubs, capsys, tmp_path):
    old_download(tmp_path, "qqp")
    expected = load(hubs, "qqp")["train"]
    file = tmp_path / "QQP/train.tsv"
    text = file.read_bytes().decode().split("\n")
    text[6:6] = text[9:9] = ["\tWas he a real historical figure?\t0"]
    file.write_bytes("\n".join(text).encode())
    found = load(tmp_path, "qqp")["train"]
    assert (found.texts, found.labels) == (expected.texts, expected.labels)
    assert found.idx == [number for number in range(26) if number not in (5, 8)]  # the hub's script counted them too
    assert capsys.readouterr().err == (
        f"warning: {file}: left out 2 rows with too few fields, the first of them row 5, as the hub's data set does\n"
    )
    text[12] = "\t".join("01234x")
    file.write_bytes("\n".join(text).encode())
    with pytest.raises(UserError, match=r"train.tsv, row 11: the label is 'x'"):
        load(tmp_path, "qqp")
    text[-2] = text[-2][:20]  # the file was cut
    file.write_bytes("\n".join(text).encode())
    with pytest.raises(UserError, match=r"train.tsv cannot be read: row 25 has too few fields"):
        load(tmp_path, "qqp")


def test_a_column_that_the_download_lacks_is_named_as_it_is_there(tmp_path):
    old_download(tmp_path, "qqp")
    file = tmp_path / "QQP/train.tsv"
    file.write_text(file.read_text().replace("is_duplicate", "label", 1))
    with pytest.raises(UserError, match=r"QQP/train.tsv has no column is_duplicate; its columns are: id, qid1"):
        load(tmp_path, "qqp")


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", [None, b"{}", b"[1]", b"\xff"])
def test_a_damaged_saved_data_set_is_refused(name, content, tmp_path):
    saved(tmp_path, "wnli")
    file = tmp_path / "wnli/validation" / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    if (name, content) == ("dataset_info.json", b"{}"):  # the table has types of its own
        assert load(tmp_path, "wnli")
        return
    with pytest.raises(UserError) as error:
        load(tmp_path, "wnli")
    assert "validation" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_saved_data_set_with_labels_in_another_order_is_refused(tmp_path):
    saved(tmp_path, "rte")
    dataset = hub_dataset("rte", tables("rte")["train"])
    swapped = dataset.cast_column("label", datasets.ClassLabel(names=["not_entailment", "entailment"]))
    shutil.rmtree(tmp_path / "rte/train")
    swapped.save_to_disk(tmp_path / "rte/train")
    with pytest.raises(UserError, match="names its labels not_entailment, entailment; GLUE has entailment, not"):
        load(tmp_path, "rte")
