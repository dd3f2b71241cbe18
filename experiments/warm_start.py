"""What a run starts from other than pretrained weights: the best state of another run, or a PEFT adapter's folder."""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from adapters import peft_format
from core.errors import UserError, no_folder
from experiments.config import RunConfig, to_dict
from experiments.record import RECORD, read_finished
from experiments.run_folder import BEST, RunFolder
from methods.base import load_trained_state
from models.settings import why_other

FREE = ("dropout",)  # a setting of methods that a finished state does not depend on


def describe_start(run: RunConfig, start: RunConfig | None) -> dict[str, Any] | None:
    """What the record says of a run's start: the other run's hash, or a hash of the weights at `init_from`.

    A run resumes without its `init_from`: its own checkpoint says what it started from.

    Raises:
        UserError: there is no finished run or adapter.
    """
    if start:
        return {"task": start.task.name, "config_hash": start.hash}
    if run.init_from is None:
        return None
    if not Path(run.init_from).is_dir() and not run.force and (noted := RunFolder.of(run).start()):
        return noted
    with _weights(Path(run.init_from)).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "head": run.init_head}


def load_initial_state(run: RunConfig, start: RunConfig | None, model: nn.Module, backbone: dict[str, Any]) -> bool:
    """Copies what the run starts from into a model that the method was applied to.

    Args:
        start: the run that `run.start` names.
        backbone: where the model's weights come from.

    Returns:
        Whether it starts from something other than pretrained weights.

    Raises:
        UserError: the state is of another method, setting, backbone or, with `init_head=kept`, task.
    """
    if start:
        state = RunFolder.of(start).best()
        run.method.shape(model, state)
        load_trained_state(model, state, head=False)
    elif run.init_from:
        _load(Path(run.init_from), run, model, backbone)
    return bool(start or run.init_from)


def _load(folder: Path, run: RunConfig, model: nn.Module, backbone: dict[str, Any]) -> None:
    there: dict[str, Any] | None
    if record := read_finished(folder):
        there = {"method": record["config"]["method"], "task": record["task"]}
        there["backbone"] = record["provenance"]["backbone"]
        state = RunFolder(folder, record["config_hash"]).best()
    else:
        there, state = peft_format.header(folder), peft_format.read_adapter(folder, model, run.method, backbone)
    try:
        if there:  # PEFT's own folders do not say
            _check(there, run, backbone)
        run.method.shape(model, state)
        load_trained_state(model, state, head=run.init_head == "kept")
    except UserError as error:
        raise UserError(f"init_from={folder}: {error}") from error


def _check(there: dict[str, Any], run: RunConfig, backbone: dict[str, Any]) -> None:
    """Raises a UserError unless method, settings and backbone agree, and the task if the head is kept."""
    theirs, here = there["method"], to_dict(run.method)
    for key in ["name", *sorted((theirs.keys() | here.keys()) - {"name", *FREE})]:
        if theirs.get(key) != here.get(key):
            raise UserError(f"it was trained with method.{key}={theirs.get(key)}, this run has {here.get(key)}")
    if there["backbone"].get("tokenizer") != backbone.get("tokenizer"):
        raise UserError("it was trained with another tokenizer: give backbone.tokenizer as it was there")
    theirs, ours = there["backbone"]["sha256"], backbone["sha256"]
    if theirs != ours:  # a folder that moved is the same backbone
        why = why_other(there["backbone"], backbone)
        raise UserError(f"it was trained on a backbone with sha256 '{theirs}', this run's has '{ours}'{why}")
    if run.init_head == "kept" and there["task"] != run.task.name:
        raise UserError(f"its head is of the task {there['task']}: leave out init_head=kept")


def _weights(folder: Path) -> Path:
    """The file that the state is read from."""
    if not folder.is_dir():
        raise UserError(f"init_from: {no_folder(folder)}")
    if not (folder / RECORD).exists():
        peft_format.require_adapter(folder)
        return folder / peft_format.WEIGHTS
    if read_finished(folder) is None:
        raise UserError(f"init_from: {folder} holds a run that is not finished")
    if not (folder / BEST).exists():
        raise UserError(f"init_from: {folder} has lost its {BEST}")
    return folder / BEST
