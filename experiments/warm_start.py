"""What a run begins at other than pretrained weights: the best state of another run, or a PEFT adapter's folder."""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from adapters import peft_format
from core.errors import UserError
from experiments.config import RunConfig, to_dict
from experiments.record import NAME, read_finished, read_record
from experiments.restore import read_best
from methods.base import load_trained_state
from training import checkpoint
from training.trainer import BEST

FREE = ("dropout",)  # of a method's settings: a finished state does not depend on it


def describe_start(run: RunConfig) -> dict[str, Any] | None:
    """What the record keeps of `run.init_from`: a hash of the weights. None without one.

    A run that has begun does without the folder, if that is gone: what it began with is in the run's own state.

    Raises:
        UserError: there is neither a finished run nor an adapter.
    """
    if run.init_from is None:
        return None
    if not Path(run.init_from).is_dir() and not run.force and (noted := _noted(run.folder)):
        return noted
    with _weights(Path(run.init_from)).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "head": run.init_head}


def begin(run: RunConfig, model: nn.Module, backbone: dict[str, Any]) -> None:
    """Copies the state at `run.init_from` into a model that the method was applied to.

    Args:
        backbone: where the model's weights come from.

    Raises:
        UserError: the state is of another method, setting, backbone or, with `init_head=kept`, task.
    """
    folder = Path(run.init_from)
    if (folder / NAME).exists():
        record = read_finished(folder)
        there = {"method": record["config"]["method"], "task": record["task"]}
        there["backbone"] = record["provenance"]["backbone"]
        state = read_best(folder, record["config_hash"])
    else:
        there, state = peft_format.header(folder), peft_format.read_adapter(folder, model, run.method, backbone)
    try:
        if there:  # PEFT's own folders do not say
            _check(there, run, backbone)
        load_trained_state(model, state, head=run.init_head == "kept")
    except UserError as error:
        raise UserError(f"init_from={folder}: {error}") from error


def _check(there: dict[str, Any], run: RunConfig, backbone: dict[str, Any]) -> None:
    """Raises a UserError unless method, settings and backbone agree, and with a kept head the task."""
    theirs, here = there["method"], to_dict(run.method)
    for key in ["name", *sorted((theirs.keys() | here.keys()) - {"name", *FREE})]:
        if theirs.get(key) != here.get(key):
            raise UserError(f"it was trained with method.{key}={theirs.get(key)}, this run has {here.get(key)}")
    for key, value in there["backbone"].items():
        if value != backbone[key]:
            raise UserError(f"it was trained on a backbone with {key} '{value}', this run's has '{backbone[key]}'")
    if run.init_head == "kept" and there["task"] != run.task.name:
        raise UserError(f"its head is of the task {there['task']}: leave out init_head=kept")


def _noted(folder: Path) -> dict[str, Any] | None:
    """What the unfinished or finished run in a folder began at."""
    if identity := checkpoint.read_identity(folder):
        return identity["start"]
    record = read_record(folder)
    return record["provenance"].get("start") if record else None


def _weights(folder: Path) -> Path:
    """The file that the state is read from."""
    if not folder.is_dir():
        raise UserError(f"init_from: there is no folder {folder}")
    if not (folder / NAME).exists():
        peft_format.require_adapter(folder)
        return folder / peft_format.WEIGHTS
    if read_finished(folder) is None:
        raise UserError(f"init_from: {folder} holds a run that is not finished")
    if not (folder / BEST).exists():
        raise UserError(f"init_from: {folder} has lost its {BEST}")
    return folder / BEST
