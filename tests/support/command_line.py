"""Command lines: composed within this process, or run as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
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


def start(output: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train.py"), "-m", *TINY, f"output_dir={output}", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=ENVIRONMENT, cwd=output, **pipes)


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
    import hydra

    from experiments.config import from_hydra

    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return from_hydra(hydra.compose("config", list(overrides)))
