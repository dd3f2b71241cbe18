"""The small scripts, run as a user runs them."""

import csv
import io
import json
import sys
from itertools import product

import pytest
from support.architectures import save_base
from support.command_line import ROOT, compose, run_script

import scripts.results
from experiments.config import to_dict
from experiments.record import SCHEMA, write_record


def leave(folder, method: str, task: str, seed: int, score: float, *more: str, collapsed: bool = False) -> None:
    config = compose(f"method={method}", f"task={task}", f"seed={seed}", "profile=offline", *more)
    metric = config.task.row.metrics[0]
    record = {
        "schema": SCHEMA,
        "experiment": config.experiment,
        "config_hash": config.hash,
        "status": "complete",
        "method": method,
        "task": task,
        "backbone": "minilm",
        "data": "generated",
        "seed": seed,
        "metric": metric,
        "reason": None,
        "best": {metric: score, "collapsed": collapsed},
        "history": [{metric: score, "collapsed": collapsed}],
        "parameters": {"trained_without_head": 1234, "total": 4321},
        "speed": dict.fromkeys(("samples_per_second", "tokens_per_second", "step_ms_median"), 10.0),
        "memory": dict.fromkeys(("peak_bytes", "peak_kind", "weights", "gradients", "optimizer", "activations"), 1000),
        "provenance": {"hardware": {"cpu": "a", "threads": 1, "precision": "fp32"}},
        "config": to_dict(config),
    }
    write_record(folder / config.folder.name, record)


def test_results_are_means_over_seeds_and_never_over_settings(tmp_path):
    for seed, score in ((0, 0.5), (1, 0.7), (2, 0.6)):
        leave(tmp_path, "vera", "cola", seed, score)
    leave(tmp_path, "vera", "cola", 0, 0.1, "method.rank=2")
    leave(tmp_path, "full", "rte", 0, 0.9)
    leave(tmp_path, "full", "cola", 0, 0.0, collapsed=True)
    (tmp_path / "odd.json").write_text("[1]")
    leave(tmp_path, "lora", "cola", 0, 0.5)
    [damaged] = tmp_path.glob("lora-*/result.json")
    damaged.write_text(damaged.read_text().replace("0.5", "0.7"))
    status, out, err = run_script("results.py", str(tmp_path))
    assert status == 0
    assert err.startswith(f"warning: {damaged} is damaged: its checksum is of another content: left out")
    assert err.count("\n") == 1
    assert "minilm, data=generated" in out
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert rows[0] == "| method | learning_rate | rank | trained | CoLA (Matthews) | RTE (accuracy) |"
    assert rows[2:] == [
        "| Full FT | 4e-05 |  | 1,234 | 0.0 ‡1 | 90.0 |",  # it has no rank
        "| VeRA | 0.01 | 2 | 1,234 | 10.0 |  |",
        "| VeRA | 0.01 | 1024 | 1,234 | 60.0 (35.2 to 84.8, n = 3) |  |",
    ]
    [line] = [
        line for line in json.loads(run_script("results.py", str(tmp_path), "format=json")[1]) if line["seeds"] == 3
    ]
    assert (line["method"], line["rank"], line["median"], len(line["runs"])) == ("vera", 1024, 60.0, 3)


def test_a_sweep_over_any_two_settings_is_a_row_for_each_of_their_pairs(tmp_path):
    """Settings that no table names: what differs labels the row, and only seeds are averaged."""
    for seed in (0, 1):
        for decay in ("0.0", "0.1"):
            for dropout in ("0.0", "0.5"):
                words = (f"trainer.weight_decay={decay}", f"method.dropout={dropout}")
                leave(tmp_path, "lora", "cola", seed, float(decay) + float(dropout), *words)
    _, out, _ = run_script("results.py", str(tmp_path), "format=csv")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [(line["dropout"], line["weight_decay"]) for line in lines] == list(product(("0.0", "0.5"), ("0.0", "0.1")))
    assert [line["seeds"] for line in lines] == ["2"] * 4
    assert [float(line["mean"]) for line in lines] == pytest.approx([0, 10, 50, 60])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "there is no nowhere; give folders of runs"),
        (("format=xml",), "format is 'xml'; choose one of: md, csv, json"),
        (("fromat=csv",), "unknown option 'fromat'"),
    ],
)
def test_results_refuses_what_it_does_not_know(words, message, tmp_path, monkeypatch, capsys):
    leave(tmp_path, "lora", "cola", 0, 0.5)
    monkeypatch.setattr(sys, "argv", ["results.py", str(tmp_path), *words])
    assert scripts.results.main() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_a_folder_without_results_is_one_sentence(tmp_path):
    status, _, err = run_script("results.py", str(tmp_path))
    assert (status, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tasks=cola,colla", "unknown task 'colla'; .*did you mean cola"),
        ("--tasks=cola", "options have no dashes: write tasks=cola"),
        (
            "backbones=tiny",
            "unknown backbone 'tiny'; there are: deberta-v2-xxlarge, minilm, roberta-base, roberta-large",
        ),
        ("backbones=roberta-base", "'FacebookAI/roberta-base' is not in the cache"),
    ],
)
def test_download_names_what_it_cannot_get(word, message):
    import re

    status, _, err = run_script("download.py", word)
    assert status == 2
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err


def test_the_reference_trains_the_same_run(tmp_path):
    pytest.importorskip("peft", reason="peft is in requirements-dev.txt")
    words = ["method=dora", "task=mrpc", "profile=offline", "backbone=tiny", "data.train_size=40", "data.eval_size=20"]
    status, out, err = run_script("reference.py", *words, "trainer.epochs=2", "method.rank=2", f"output_dir={tmp_path}")
    assert status == 0, err
    record = json.loads((ROOT / out.splitlines()[-1].removeprefix("result: ")).read_text())
    assert [entry["step"] for entry in record["history"]] == [2, 4]
    assert set(record["best"]) >= {"accuracy", "f1"}
    status, _, err = run_script("reference.py", *words, "method=lora_fa_corrected", f"output_dir={tmp_path}")
    assert status == 2
    assert "method is 'lora_fa_corrected'; choose one of: full, lora, dora, lora_fa, vera, qlora" in err


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_the_reference_scores_a_model_that_returns_more_than_logits(architecture, tmp_path):
    pytest.importorskip("peft", reason="peft is in requirements-dev.txt")
    save_base(tmp_path / "backbone", architecture)
    words = [
        "method=full",
        "task=cola",
        "profile=offline",
        "backbone=custom",
        f"backbone.source={tmp_path / 'backbone'}",
    ]
    sizes = ["data.train_size=16", "data.eval_size=20", "task.max_length=32", "trainer.max_steps=1"]
    status, out, err = run_script("reference.py", *words, *sizes, f"output_dir={tmp_path}")
    assert status == 0, err
    assert "step 1: matthews_correlation " in out
