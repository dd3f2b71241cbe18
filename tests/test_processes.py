"""`train.py` as a process: signals, several processes at once, a disk that is full."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_from_which_the_same_command_goes_on(number, tmp_path):
    words = ("logger=none", "trainer.epochs=60", "data.train_size=400")
    process = start(tmp_path, *words)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("checkpoint.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    status, out, err = finish(process)
    assert status == 130, err
    assert record(tmp_path)["status"] == "interrupted"
    assert "the same command (without force) goes on" in err
    assert "Traceback" not in err
    done = record(tmp_path)["last"]["step"]
    assert 0 < done < 60 * 50
    status, out, err = finish(start(tmp_path, *words))
    assert status == 0, err
    assert "goes on from step" in out
    assert record(tmp_path)["status"] == "complete"
    assert record(tmp_path)["last"]["step"] == 60 * 50


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


def test_a_full_disk_is_one_sentence(tmp_path):
    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    status, _, err = finish(start(tmp_path, "logger=none", preexec_fn=small_files))
    assert status == 2
    assert "Traceback" not in err
    assert "cannot be written" in err
