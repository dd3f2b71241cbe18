"""Command lines: composed within this process, or run as a user does."""

import json
import os
from pathlib import Path

from support.warm import ROOT, WarmProcess

TINY = [
    "profile=offline",
    "backbone=tiny",
    "logger=none",
    "data.train_size=48",
    "data.eval_size=20",
    "trainer.batch_size=8",
    "trainer.epochs=2",
]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(output: Path, *words: str, piped: bool = False) -> WarmProcess:
    """A sweep; its runs are processes of their own, as always."""
    return WarmProcess(["-m", *TINY, f"output_dir={output}", *words], ENVIRONMENT, output, piped=piped)


def run_script(script: str, *words: str) -> tuple[int, str, str]:
    """`python scripts/SCRIPT WORDS`, in a process of its own: its status and what it printed."""
    process = WarmProcess(words, ENVIRONMENT, ROOT, script=ROOT / "scripts" / script)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def call(output: Path, *words: str) -> tuple[int, str, str]:
    process = start(output, *words)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def science(output: Path) -> dict[str, dict]:
    """What equal runs share to the bit, by run."""
    records = {path.parent.name: json.loads(path.read_text()) for path in output.rglob("result.json")}
    return {
        name: {key: record[key] for key in ("status", "history", "best", "config_hash", "parameters")}
        for name, record in records.items()
    }


def compose(*overrides: str):
    """The typed settings of a command line."""
    from experiments.sweep import composer

    return composer().run(overrides)
