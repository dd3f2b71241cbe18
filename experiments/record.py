"""`result.json`: a run's settings and results. Tables, figures and notebooks read nothing else."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from core.errors import Damaged, reason
from core.io import CHECKSUM, require_file, with_checksum, write_json
from experiments.config import RunConfig, to_dict

COMMITTED = Path(__file__).parent.parent / "paper_tables" / "records"  # EXPERIMENT/RUN.json, what tables are made of
SCHEMA = 3
LAST_WITHOUT_CHECKSUM = 2  # records up to this schema have no checksum
RECORD = "result.json"
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "bitsandbytes",
    "numpy",
    "scikit-learn",
    "scipy",
)


def describe(
    run: RunConfig,
    backbone: dict[str, Any],
    data_fingerprint: str,
    data_layout: str | None,
    machine: dict[str, Any],
    start: dict[str, Any] | None,
) -> dict[str, Any]:
    """The part of a record that is known before training.

    Args:
        backbone: where its weights come from.
        data_fingerprint: a hash of every text and label.
        data_layout: the layout in which `data.path` has them; None for other sources.
        machine: what the run trains on: device, precision, processes.
        start: what the run starts from, if not from pretrained weights.
    """
    return {
        "schema": SCHEMA,
        "status": None,
        "reason": None,
        "method": run.method.name,
        "task": run.task.name,
        "backbone": run.backbone.name,
        "data": run.data.name,
        "seed": run.seed,
        "experiment": run.experiment,
        "metric": run.task.row.metrics[0],
        "config": to_dict(run),
        "config_hash": run.hash,
        "provenance": {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "git": git_state(),
            "versions": versions(),
            "hardware": hardware() | machine,
            "data_fingerprint": data_fingerprint,
            "data_layout": data_layout,
            "backbone": backbone,
            "start": start,
        },
    }


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A record's settings as they are committed: without the paths of the machine, which shape no result."""
    changed = config | {"output_dir": "runs", "data": config["data"] | {"path": None}}
    if tokenizer := config["backbone"].get("tokenizer"):
        changed["backbone"] = config["backbone"] | {"tokenizer": Path(tokenizer).name}
    if begun := config.get("init_from"):
        changed["init_from"] = Path(begun).name
    return changed


def origin(record: dict[str, Any]) -> dict[str, Any]:
    """What must match for an unfinished run to resume, or a finished one to count."""
    provenance = record["provenance"]
    hardware = {key: provenance["hardware"][key] for key in ("device", "precision", "processes")}
    return {
        "settings": record["config_hash"],
        "data": provenance["data_fingerprint"],
        "backbone": provenance["backbone"],
        "start": provenance.get("start"),
    } | hardware


def read_record(folder: Path) -> dict[str, Any] | None:
    """The folder's record, if it has one.

    Raises:
        Damaged: it is not as it was written.
    """
    file = folder / RECORD
    return parse(file) if file.exists() else None


def read_own_record(folder: Path, config_hash: str) -> dict[str, Any] | None:
    """The record that the run with these settings left in its folder, if it has one.

    Raises:
        Damaged: it is not as it was written, or another run's.
    """
    record = read_record(folder)
    if record and record["config_hash"] != config_hash:
        raise Damaged(f"{folder / RECORD} is damaged: it is another run's")
    return record


def parse(file: Path) -> dict[str, Any]:
    """A record's file.

    Raises:
        Damaged: it cannot be read, or is not as it was written.
    """
    try:
        require_file(file)
        record = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Damaged(f"{file} is damaged: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{file} is damaged: it is not JSON") from error
    if not isinstance(record, dict) or not {"status", "config_hash"} <= record.keys():
        raise Damaged(f"{file} is damaged: it holds no record")
    if CHECKSUM not in record and record.get("schema") in range(LAST_WITHOUT_CHECKSUM + 1):
        return record
    if with_checksum(record) != record:
        raise Damaged(f"{file} is damaged: its checksum is of another content")
    return record


def read_finished(folder: Path) -> dict[str, Any] | None:
    """The record of a complete run, if the folder holds an undamaged one."""
    record = read_record(folder)
    if record is None or not record.keys() >= {"task", "config", "provenance"}:
        return None
    return record if record["status"] == "complete" else None


def write_record(folder: Path, record: dict[str, Any]) -> Path:
    """Writes the record, last of all files; returns its path."""
    write_json(folder / RECORD, with_checksum(record))
    return folder / RECORD


def git_state(root: Path = Path(__file__).parent.parent) -> dict[str, Any]:
    """The commit of this code, and whether files differ from it, new code and settings included; None outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        new = git("ls-files", "--others", "--exclude-standard", "--", "*.py", "conf/")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed or new)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "absent"

    return {"python": platform.python_version()} | {package: installed(package) for package in PACKAGES}


def hardware() -> dict[str, Any]:
    """The machine, as its system describes it."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
