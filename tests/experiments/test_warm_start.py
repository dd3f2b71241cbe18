"""A run that starts from the best state of the same method on another task."""

import json

import pytest
from safetensors.torch import load_file
from support.command_line import TINY, call, compose

import train
from experiments.record import read_record

STILL = ("trainer.learning_rate=1e-12", "trainer.head_learning_rate=1e-12", "trainer.epochs=1")
METHODS = ("full", "lora", "dora", "lora_fa", "lora_fa_corrected", "vera", "qlora", "bitfit", "houlsby", "pfeiffer")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_starts_from_the_best_state_of_the_other_task_with_a_fresh_head(method, tmp_path):
    rank = ["method.rank=4"] if hasattr(compose(f"method={method}").method, "rank") else []
    words = (*TINY, f"method={method}", f"output_dir={tmp_path}", *rank)
    mnli = compose(*words, "task=mnli", "trainer.epochs=2")
    train.train(mnli)
    started, fresh = compose(*words, *STILL, "task=rte", "start=mnli"), compose(*words, *STILL, "task=rte")
    train.train(started, mnli)
    train.train(fresh)
    assert started.folder != fresh.folder
    there, begun, plain = (load_file(run.folder / "best.safetensors") for run in (mnli, started, fresh))
    assert there.keys() == begun.keys()
    moved = 0
    for name, tensor in begun.items():
        expected = plain if name.startswith("classifier.") else there
        assert (tensor - expected[name]).abs().max() < 1e-6, name
        moved += not name.startswith("classifier.") and (tensor - plain[name]).abs().max() > 1e-5
    assert moved
    assert read_record(started.folder)["provenance"]["start"] == {"task": "mnli", "config_hash": mnli.hash}


def test_the_run_to_start_from_is_trained_first_and_only_once(tmp_path):
    words = ("method=lora", "task=rte", "start=null,mnli", "method.rank=4")
    status, out, err = call(tmp_path, *words)
    assert status == 0, err
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    assert sorted((record["task"], record["config"]["start"] or "") for record in records) == [
        ("mnli", ""),
        ("rte", ""),
        ("rte", "mnli"),
    ]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    status, out, _ = call(tmp_path, *words, "task=rte,mrpc")
    assert status == 0
    assert "4 runs, 2 of them to train" in out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
