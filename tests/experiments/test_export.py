"""Exports: merged checkpoints, adapters, predictions and GLUE's submission files."""

import ast
import csv
import json
import re
import shutil
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.command_line import compose
from support.files import mirror, save_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import scripts.predict
import train
from core.errors import UserError
from experiments.card import card as export_card
from experiments.export import export_merged
from experiments.record import read_record
from experiments.restore import restore
from methods.base import AdaptedLinear
from scripts import benchmark, latency, serve_bench
from scripts.cli import parse
from scripts.export import OPTIONS as EXPORT
from scripts.export import export, push
from scripts.predict import OPTIONS
from tasks.generated import generate
from tasks.glue import GLUE
from tasks.loading import Split, read_examples
from tasks.submission import SUFFIXES, write_submission
from training.accelerator import make_accelerator

PEFT_METHODS = ("lora", "dora", "vera", "qlora")
QUICK = ("logger=none", "task.max_length=32", "trainer.epochs=2", "trainer.learning_rate=0.01")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A BERT with its tokenizer, and three tasks in the hub's layout, test splits included."""
    folder = tmp_path_factory.mktemp("house")
    save_encoder(folder / "bert", "bert")
    for task in ("cola", "rte", "stsb"):
        (folder / task).mkdir()
        for split, size in (("train", 40), ("validation", 20), ("test", 12)):
            columns = generate(task, split if split != "test" else "validation", size, 0)
            if split == "test":
                columns["label"] = [-1] * size
                columns["idx"] = list(range(size))[::-1]
            pq.write_table(pa.table(columns), folder / task / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def wide_house(tmp_path_factory):
    """The same with a BERT whose widths, 128 and 192, suit bitsandbytes' blocks of 64 weights."""
    folder = tmp_path_factory.mktemp("wide")
    save_encoder(folder / "bert", "bert", width=128)
    for task in ("cola", "rte", "stsb"):
        mirror(folder, task)
    return folder


@pytest.fixture
def answer(monkeypatch, capsys):
    """Calls scripts/predict.py: exit status, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["predict.py", *words])
        return scripts.predict.main(), *capsys.readouterr()

    return call


def trained(house, method: str, *words: str):
    """A finished run."""
    backbone = ("backbone=custom", f"backbone.source={house / 'bert'}")
    data = ("data=local", f"data.path={house}", f"output_dir={house / 'runs'}")
    rank = [] if method == "full" else ["method.rank=4"]
    run = compose(*QUICK, *backbone, *data, f"method={method}", *rank, *(words or ("task=rte",)))
    train.train(run)
    return run


@pytest.mark.parametrize("method", ["full", "lora", "dora", "lora_fa", "vera", "qlora"])
def test_a_merged_checkpoint_is_plain_and_predicts_the_same(method, house, tmp_path):
    run = trained(house, method)
    restored = restore(run.folder)
    numbers = export_merged(
        restored, tmp_path / "out", make_accelerator(restored.run.trainer, restored.run.deterministic), "here"
    )
    assert any(isinstance(module, AdaptedLinear) for module in restored.model.modules()) == (method != "full")
    assert list(numbers) == ["as trained", "merged", "saved and loaded"]
    assert numbers["as trained"]["accuracy"] == pytest.approx(read_record(run.folder)["best"]["accuracy"])
    for entry in numbers.values():
        assert entry["accuracy"] == numbers["as trained"]["accuracy"]
        assert entry["largest difference"] < 1e-4
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert plain.config.id2label == {0: "entailment", 1: "not_entailment"}
    tokens = tokenizer("the cat sat", "a dog ran", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(plain(**tokens).logits, restored.model(**tokens).logits, atol=1e-4, rtol=1e-4)


def test_the_model_card_shows_the_numbers_of_the_record(house, tmp_path):
    run = trained(house, "lora")
    restored = restore(run.folder)
    export_merged(restored, tmp_path, make_accelerator(restored.run.trainer, restored.run.deterministic), "here")
    card, record = (tmp_path / "README.md").read_text(), read_record(run.folder)
    _, header, text = card.split("---\n", 2)
    assert "model-index" not in header  # a score on local data is not GLUE's to the hub
    hub = replace(restored, run=replace(restored.run, data=replace(restored.run.data, name="hub", path=None)))
    model = yaml.safe_load(export_card(hub, "transformers", "here").split("---\n", 2)[1])["model-index"][0]
    expected = [{"type": name, "value": record["best"][name]} for name in GLUE["rte"].metrics]
    assert model["results"][0]["metrics"] == expected
    assert f"accuracy {record['best']['accuracy']:.4f}" in text
    assert record["config_hash"] in text
    assert str(house) not in text.replace(record["provenance"]["backbone"]["source"], "")
    assert "training examples" not in text
    part = replace(restored.run.data, train_size=40, eval_size=20, holdout=0.1)
    cut = export_card(replace(restored, run=replace(restored.run, data=part)), "transformers", "here")
    assert "| training examples | 40, a part of the training set, without the 10 % held out |" in cut
    assert "on 20 examples of the validation set" in cut


def test_a_backbone_that_moved_is_known_by_its_checksum(tmp_path, answer):
    """By predict.py, export.py and init_from; another backbone is refused."""
    save_encoder(tmp_path / "bert", "bert")
    mirror(tmp_path, "rte")
    run = trained(tmp_path, "lora")
    before = answer(f"run={run.folder}", "the cat", "a dog")
    shutil.move(tmp_path / "bert", tmp_path / "moved")
    status, _, error = answer(f"run={run.folder}", "the cat", "a dog")
    assert (status, "there is no folder" in error) == (2, True)
    moved = f"backbone.source={tmp_path / 'moved'}"
    assert answer(f"run={run.folder}", moved, "the cat", "a dog") == before
    export(EXPORT | {"run": str(run.folder), "into": str(tmp_path / "out"), "backbone.source": str(tmp_path / "moved")})
    words = ("backbone=custom", moved, "data=local", f"data.path={tmp_path}", f"output_dir={tmp_path / 'runs'}")
    again = compose(*QUICK, *words, "task=rte", "method=lora", "method.rank=4", f"init_from={run.folder}")
    train.train(again)
    save_encoder(tmp_path / "other", "bert", seed=5)
    status, _, error = answer(f"run={run.folder}", f"backbone.source={tmp_path / 'other'}", "the cat", "a dog")
    assert (status, "was trained on other weights" in error) == (2, True)


def test_a_model_that_does_not_merge_is_not_exported_as_merged(house, tmp_path):
    restored = restore(trained(house, "lora").folder)
    restored.model.classifier = torch.nn.Sequential(restored.model.classifier)
    with pytest.raises(UserError, match="does not merge"):
        export_merged(
            restored, tmp_path / "out", make_accelerator(restored.run.trainer, restored.run.deterministic), "here"
        )
    assert not (tmp_path / "out").exists()


def damage(folder, name: str = "best.safetensors") -> None:
    tensors = load_file(folder / name)
    key = next(key for key in tensors if key.endswith(("A", "lora_A.weight")))
    tensors[key][0, 0] = torch.nan
    save_file(tensors, folder / name)


def test_a_failed_export_leaves_no_partial_files(house, tmp_path, monkeypatch):
    run = trained(house, "lora")
    options = EXPORT | {"run": str(run.folder), "into": str(tmp_path / "out")}
    monkeypatch.setattr("experiments.export.TOLERANCE", -1.0)
    with pytest.raises(UserError, match="nothing is written"):
        export(options)
    assert not list(tmp_path.iterdir())


def test_a_changed_state_file_is_reported_as_damaged(house, tmp_path):
    run = trained(house, "lora")
    shutil.copytree(run.folder, tmp_path / "run")
    file = tmp_path / "run/best.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1  # a number a little other, and finite
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged: its checksum is of another content; force=true trains its run again"):
        restore(tmp_path / "run")
    record = tmp_path / "run/result.json"
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 7'))
    with pytest.raises(
        UserError, match="its checksum is of another content; the command that trained the run sets it aside"
    ):
        restore(tmp_path / "run")
    record.write_text("[1, 2]")
    with pytest.raises(UserError, match="damaged: it holds no record; the command that trained the run sets it aside"):
        restore(tmp_path / "run")


def test_an_export_is_evaluated_on_the_data_of_its_run(house, tmp_path):
    run = trained(house, "lora")
    for split, size in (("train", 40), ("validation", 20)):
        (tmp_path / "rte").mkdir(exist_ok=True)
        table = pa.table(generate("rte", split, size, 9))
        pq.write_table(table, tmp_path / "rte" / f"{split}-00000-of-00001.parquet")
    restored = restore(run.folder, str(tmp_path))
    with pytest.raises(UserError, match="data are not those"):
        export_merged(
            restored, tmp_path / "out", make_accelerator(restored.run.trainer, restored.run.deterministic), "here"
        )
    assert not (tmp_path / "out").exists()


def test_tables_are_read_in_each_format_and_wrong_ones_are_refused(tmp_path):
    cola = GLUE["cola"]
    (tmp_path / "q.tsv").write_text('sentence\tidx\n"It is so, he said.\t7\nplain\t8\n')
    split = read_examples(cola, tmp_path / "q.tsv")
    assert split.texts == [('"It is so, he said.',), ("plain",)]
    (tmp_path / "q.csv").write_text('id,sentence\n1,"one, two"\n2,three\n')
    assert read_examples(cola, tmp_path / "q.csv").texts == [("one, two",), ("three",)]
    wrong = {
        "a.csv": ("sentence\nabc, def\n", "row 0 has too few fields or too many; they are: sentence"),
        "b.csv": ("id,sentence\n1,a\n2\n", "row 1 has too few fields or too many; they are: id, sentence"),
        "n.csv": ('sentence\na\n"b\nc\n', "row 1: a quote is not closed, or not doubled within a text"),
        "o.csv": ('sentence\na\n"b" c\n', "row 1: a quote is not closed, or not doubled within a text"),
        "c.csv": ("sentence,sentence\na,b\n", "the same name"),
        "d.csv": ("text\na\n", "has no column sentence"),
        "e.csv": ("sentence\n", "has no rows"),
        "f.jsonl": ('{"sentence": 1}\n', "sentence is not a text"),
        "g.jsonl": ("[1]\n", "row 0 is not an object"),
        "h.jsonl": ('{"sentence": "a"}\n{\n', "cannot be read: row 1 is not JSON"),
        "i.parquet": ("no parquet", "cannot be read"),
    }
    for name, (text, message) in wrong.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=message):
            read_examples(cola, tmp_path / name)


def test_an_adapter_is_exported_with_its_tokenizer_and_model_card(house, tmp_path):
    run = trained(house, "vera")
    options = EXPORT | {"run": str(run.folder), "into": str(tmp_path / "out"), "form": "adapter"}
    export(options)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    with pytest.raises(UserError, match="name a new folder"):
        export(options)
    with pytest.raises(UserError, match=r"method=full has no format of PEFT's here.*form=merged writes what merges"):
        export(options | {"run": str(trained(house, "full").folder), "into": str(tmp_path / "other")})


def test_push_sends_the_folder_and_reports_errors_in_one_sentence(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, exist_ok: f"https://hub/{name}")
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda self, **words: sent.append(words))
    assert push(tmp_path, "me/mine") == "https://hub/me/mine"
    assert sent == [{"repo_id": "me/mine", "folder_path": tmp_path}]

    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(UserError, match="push=me/mine: no network"):
        push(tmp_path, "me/mine")


def test_predictions_of_sentences_and_of_a_file_agree(house, answer, tmp_path):
    run = trained(house, "dora")
    pairs = [("the cat sat", "a dog ran"), ("a dog ran", "the cat sat on the mat")]
    status, out, err = answer(f"run={run.folder}", *(part for pair in pairs for part in pair))
    assert status == 0, err
    assert [line.split("\t")[0] in ("entailment", "not_entailment") for line in out.splitlines()] == [True, True]
    for suffix, separator in ((".tsv", "\t"), (".csv", ",")):
        with (tmp_path / f"pairs{suffix}").open("w", newline="") as stream:
            csv.writer(stream, delimiter=separator).writerows([("sentence1", "sentence2"), *pairs])
    rows = [dict(zip(("sentence1", "sentence2"), pair, strict=True)) for pair in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "pairs.parquet")
    for suffix in (".tsv", ".csv", ".jsonl", ".parquet"):
        words = (f"run={run.folder}", f"file={tmp_path / f'pairs{suffix}'}", f"into={tmp_path / 'found.jsonl'}")
        status, _, err = answer(*words)
        assert status == 0, err
        found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
        assert [one["sentence1"] for one in found] == [pair[0] for pair in pairs]
        for one, line in zip(found, out.splitlines(), strict=True):
            label, probabilities = line.split("\t")
            assert one["label"] == label
            assert sum(one["probabilities"].values()) == pytest.approx(1)
            assert f"{label} {one['probabilities'][label]:.3f}" in probabilities


def test_a_prediction_from_a_cut_text_says_so(house, answer):
    run = trained(house, "lora", "task=cola", "task.max_length=16")
    warning = "warning: cut, since they are longer than the run's task.max_length=16: 1 of 2 examples\n"
    for words, said in ((["a dog", "the cat sat " * 20], warning), (["a dog", "the cat sat"], "")):
        status, out, err = answer(f"run={run.folder}", *words)
        assert (status, err, len(out.splitlines())) == (0, said, 2)


@pytest.mark.parametrize("task", ["cola", "rte", "stsb"])
def test_a_submission_has_the_format_of_the_glue_server(task, house, answer, tmp_path):
    run = trained(house, "lora", f"task={task}")
    status, out, err = answer(f"run={run.folder}", f"submission={tmp_path}")
    assert status == 0, err
    name = {"cola": "CoLA.tsv", "rte": "RTE.tsv", "stsb": "STS-B.tsv"}[task]
    assert out.strip() == str(tmp_path / name)
    lines = [line.split("\t") for line in (tmp_path / name).read_text().splitlines()]
    assert lines[0] == ["index", "prediction"]
    assert [int(index) for index, _ in lines[1:]] == list(range(12))
    allowed = {"cola": {"0", "1"}, "rte": {"entailment", "not_entailment"}}.get(task)
    assert all(word in allowed if allowed else 0 <= float(word) <= 5 for _, word in lines[1:])


def test_every_task_has_its_submission_file(tmp_path):
    for task in GLUE.values():
        names = [name.replace("validation", "test") for name in task.validation]
        split = Split("test", [("a",)] * 2, [0, 0], [1, 0])
        logits = np.array([[0.0] * (task.outputs - 1) + [7.0], [1.0] + [0.0] * (task.outputs - 1)])
        paths = write_submission(task, dict.fromkeys(names, (split, logits)), tmp_path)
        assert [path.stem for path in paths] == [task.label + SUFFIXES[name] for name in names]
        first, second = (line.split("\t")[1] for line in paths[0].read_text().splitlines()[1:])  # of indices 0 and 1
        if task.is_regression:
            assert (first, second) == ("1.000", "5.000")
        elif task.name in ("mnli", "qnli", "rte"):
            assert (first, second) == (task.labels[0], task.labels[-1])
        else:
            assert (first, second) == ("0", str(task.outputs - 1))


def test_a_sentence_with_an_equals_sign_is_kept_and_a_misspelt_option_refused():
    assert parse(["run=x", "E=mc2", "a = b"], OPTIONS) == (OPTIONS | {"run": "x"}, ["E=mc2", "a = b"])
    overrides = [
        "method=lora",
        "init_from=x",
        "start=mnli",
        "trainer.batch_size=8",
        "trainer.max_steps=3",
        "data.path=x",
    ]
    for script in (benchmark, latency, serve_bench):
        assert parse([*overrides, "into=x"], script.OWN) == (script.OWN | {"into": "x"}, overrides)
    with pytest.raises(UserError, match="did you mean submission"):
        parse(["submision=x"], OPTIONS)


MISTAKES = {
    ("nothing",): "run=... is missing; --help shows how",
    ("run=/nowhere", "a"): "holds no finished run",
    ("run={runs}",): "is a folder of runs: name one of them, as in",
    ("run={run}",): "rte takes sentence1 and sentence2; 0 sentences given",
    ("run={run}", "one"): "1 sentence given",
    ("run={run}", "-"): "standard input is not read: give sentences, or file=FILE",
    ("run={run}", "one", "two", "file=x.tsv"): "leave one out",
    ("run={run}", "file=x.doc"): "is not one of",
    ("run={run}", "file=/nowhere.tsv"): "/nowhere.tsv cannot be read: No such file or directory",
    ("run={run}", "fle=x.tsv"): "unknown option 'fle'",
    ("run={run}", "submission=x", "data.path=/nowhere"): "there is no folder /nowhere",
}


@pytest.mark.parametrize("words", MISTAKES, ids=MISTAKES.values())
def test_a_mistake_is_one_sentence(words, house, answer):
    run = trained(house, "lora")
    status, out, err = answer(*(word.format(run=run.folder, runs=run.folder.parent) for word in words))
    assert status == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert MISTAKES[words] in err


def lines_of_the_card(folder) -> str:
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)[1]


@pytest.mark.parametrize(
    ("form", "method", "task"),
    [("merged", "lora", "cola"), ("merged", "lora", "stsb"), *(("adapter", name, "rte") for name in PEFT_METHODS)],
)
def test_the_cards_lines_run_as_they_stand_and_give_our_models_answer(form, method, task, wide_house, tmp_path, capsys):
    run = trained(wide_house, method, f"task={task}", f"output_dir={tmp_path / 'runs'}", "trainer.learning_rate=0.02")
    folder = tmp_path / "out"
    export(EXPORT | {"run": str(run.folder), "into": str(folder), "form": form})
    capsys.readouterr()
    names: dict = {}
    exec(lines_of_the_card(folder), names)
    restored = restore(run.folder)
    pair = ("One.", "Another.") if len(run.task.row.columns) > 1 else ("A sentence.",)
    with torch.no_grad():
        logits = restored.model(**restored.tokenizer(*pair, return_tensors="pt")).logits[0]
    if form == "adapter":
        for module in names["model"].modules():  # bitsandbytes would round once more for inference on a CPU
            if type(module).__name__ == "Linear4bit":
                module.train()
        with torch.no_grad():
            theirs = names["model"](**names["tokens"]).logits[0]
        close = 2e-3 if method == "qlora" else 1e-4  # some CPUs' layout of 4-bit weights keeps their scales in bf16
        torch.testing.assert_close(theirs, logits, atol=close, rtol=close)
    else:
        expected = logits.item() if task == "stsb" else logits.softmax(0).max().item()
        said = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])
        answer = said[0] if isinstance(said, list) else said
        assert answer["score"] == pytest.approx(expected, abs=1e-4)
