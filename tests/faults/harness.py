"""`train.py` as a process that tests break from outside, and what two equal runs must share."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil
from support.command_line import ROOT
from support.warm import TRAIN, WarmProcess

from core.io import read_tensors
from experiments.record import read_record
from experiments.run_folder import LOCK

TINY = (
    "profile=offline",
    "backbone=tiny",
    "logger=none",
    "data.train_size=96",
    "data.eval_size=40",
    "method.rank=4",
    "trainer.batch_size=8",
)
RUN = ("method=dora", "trainer.epochs=6", "trainer.eval_every=5", "trainer.log_every=4")  # 72 steps, 15 evaluations
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"OMP_NUM_THREADS": "1"}
PATIENCE = 120  # seconds until a process counts as hung


class Hang(AssertionError):
    """A process did not end."""


class Lost(AssertionError):
    """A finished record is gone, or the same command no longer leads to it."""


class Ended(NamedTuple):
    """Exit status (minus the signal's number for a killed one) and what was printed."""

    status: int
    out: str
    err: str


def start(
    output: Path,
    *words: str,
    tiny: tuple[str, ...] = TINY,
    launch: tuple[str, ...] = (),
    within: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    fresh: bool = False,
    piped: bool = False,
    **options,
) -> subprocess.Popen | WarmProcess:
    """`python train.py` on the smallest run, its folder below `output`, in a process group of its own.

    Args:
        words: overrides after those of `tiny`.
        launch: what stands before `train.py` in place of the interpreter, as in `accelerate launch`.
        within: a Python file that runs `train.py` within it, and its first arguments.
        environment: variables to add; if a library reads them while it is imported, the run has to be `fresh`.
        fresh: in a new interpreter, which takes seconds to import, rather than forked from a warm one; so is one with
            `launch` or other options.
        piped: a warm run prints into a pipe, as a fresh one does, rather than into a file.
    """
    output.mkdir(parents=True, exist_ok=True)
    variables = ENVIRONMENT | (environment or {})
    if not (launch or fresh or options):
        program = [*within, TRAIN, *tiny, f"output_dir={output}", *words]
        return WarmProcess(program[1:], variables, output, script=program[0], piped=piped)
    command = [*(launch or (sys.executable,)), str(ROOT / "train.py"), *tiny, f"output_dir={output}", *words]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=variables, cwd=output, start_new_session=True, **(pipes | options))


def finish(process: subprocess.Popen | WarmProcess, patience: float = PATIENCE) -> Ended:
    """Waits for the end; a process that does not end in time is killed, with all that it started."""
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        for child in descendants(process):  # W&B's service has a process group of its own
            child.kill()
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise Hang(f"no end after {patience} s\n{out}\n{err}") from None
    return Ended(process.returncode, out or "", err or "")


def descendants(process: subprocess.Popen | WarmProcess) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []


def call(output: Path, *words: str, **options) -> Ended:
    return finish(start(output, *words, **options))


def require_sentence(ended: Ended) -> None:
    """A refusal: one sentence on the error stream, and a status that is not 0."""
    assert ended.status in (1, 2, 130), ended
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith(("error: ", "interrupted")), ended.err


def require_whole(output: Path, killed: bool = False) -> None:
    """Every file below `output` is complete under its final name; only a killed process leaves partial files."""
    for folder in [path.parent for path in output.rglob(LOCK)]:
        read_record(folder)
        for file in folder.glob("*.safetensors"):
            read_tensors(file)
        if not killed:
            assert not list(folder.rglob("*.unfinished"))


def run_folder(output: Path) -> Path:
    """Of the one run below `output`."""
    [folder] = (path for path in output.glob("*/*") if path.is_dir() and not path.name.startswith("."))
    return folder


def outcome(output: Path) -> dict:
    """All of the one finished run below `output` that an equal run must share to the bit."""
    folder = run_folder(output)
    if not (folder / "result.json").exists():
        raise Lost(f"{folder} has no record: {sorted(path.name for path in folder.iterdir())}")
    record = json.loads((folder / "result.json").read_text())
    shared = ("status", "config_hash", "history", "best", "last", "selected", "parameters")
    files = ["predictions.jsonl", "best.safetensors", "last.safetensors", *_below(folder / "adapter")]
    return {key: record[key] for key in shared} | {name: (folder / name).read_bytes() for name in files}


def _below(folder: Path) -> list[str]:
    return [f"{folder.name}/{path.name}" for path in sorted(folder.glob("*"))]
