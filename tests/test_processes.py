"""`train.py` as a process: two that train together, W&B without a key. What breaks a process is in faults/."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TINY = [
    "profile=offline",
    "backbone=tiny",
    "data.train_size=96",
    "data.eval_size=40",
    "method.rank=4",
    "trainer.batch_size=8",
]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"OMP_NUM_THREADS": "1"}


def start(
    output: Path, *words: str, launch: tuple[str, ...] = (sys.executable,), environment: dict | None = None, **options
) -> subprocess.Popen:
    command = [*launch, str(ROOT / "train.py"), *TINY, f"output_dir={output}", *words]
    pipe = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT | (environment or {}), cwd=output, **pipe, **options)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def record(output: Path) -> dict:
    return json.loads(next(output.rglob("result.json")).read_text())


def test_two_processes_train_as_one_does(tmp_path):
    """Same batches, same sums: but for rounding, as dropout is off."""
    quiet = [f"+backbone.architecture.{name}_probs_dropout_prob=0" for name in ("attention",)]
    words = ["task=stsb", "logger=none", "+backbone.architecture.hidden_dropout_prob=0", *quiet, "data.train_size=97"]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    status, _, err = finish(start(tmp_path / "one", *words))
    assert status == 0, err
    # accelerate starts several processes of a CPU through its multi-GPU launcher alone; they find no GPU and meet over gloo
    flags = (
        "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    )
    launcher = (sys.executable, "-m", "accelerate.commands.launch", *flags.split())
    status, out, err = finish(start(tmp_path / "two", *words, launch=launcher))
    assert status == 0, err
    assert out.count("result: ") == 1
    one, two = record(tmp_path / "one"), record(tmp_path / "two")
    assert [run["provenance"]["hardware"]["processes"] for run in (one, two)] == [1, 2]
    assert len(one["history"]) == len(two["history"]) == 3
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["pearson"] == pytest.approx(b["pearson"], abs=1e-3)


def test_wandb_logs_offline_without_a_key_and_never_asks(tmp_path):
    status, out, err = finish(start(tmp_path, "logger=wandb", "trainer.max_steps=20"))
    assert status == 0, err
    assert "to upload: wandb sync" in out
    folder = ROOT / out.split("wandb sync ")[1].splitlines()[0]
    assert list(folder.glob("run-*.wandb"))


def test_wandb_out_of_reach_is_said_and_logged_offline(tmp_path):
    """A key, but nobody answers at the port: the run neither fails nor waits for longer than the start may take."""
    nobody = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    status, out, err = finish(start(tmp_path, "logger=wandb", "trainer.max_steps=5", environment=nobody))
    assert status == 0, err
    assert "W&B cannot be reached" in out
    assert "to upload: wandb sync" in out
    assert record(tmp_path)["status"] == "complete"
