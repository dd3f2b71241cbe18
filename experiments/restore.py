"""A finished run's model at its best epoch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from core.errors import Damaged, UserError
from experiments.config import RunConfig, from_dict
from experiments.inputs import apply_method
from experiments.record import RECORD, read_finished, read_record
from experiments.run_folder import RunFolder
from methods.base import load_trained_state
from models.backbone import Backbone, load_backbone
from tasks.loading import Split, fingerprint, load_splits


def load_data(run: RunConfig, record: dict[str, Any]) -> dict[str, Split]:
    """The splits that the run was trained and evaluated on.

    Raises:
        UserError: the data have changed since.
    """
    splits = load_splits(run.task.row, run.data)
    if fingerprint(splits) != record["provenance"]["data_fingerprint"]:
        raise UserError(
            "the data are not those that the run was trained and evaluated on: data.path=DIR says where these are"
        )
    return splits


@dataclass(frozen=True)
class Restored:
    """A model in evaluation mode, on the CPU, with the settings that trained it.

    Attributes:
        run: the settings; precision and device are reset, so that predictions do not depend on the training machine.
    """

    run: RunConfig
    record: dict[str, Any]
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase


def restore(
    folder: Path, data_path: str | None = None, source: str | None = None, tokenizer: str | None = None
) -> Restored:
    """Builds the model of a finished run and loads its best state.

    Args:
        data_path, source, tokenizer: the folders with the data, the backbone and its tokenizer, if they have moved.

    Raises:
        UserError: the folder holds no finished run or a damaged one, or the backbone's weights have changed.
    """
    run, record = finished(folder, data_path, source, tokenizer)
    backbone = pretrained(folder, run, record)
    apply_method(run, backbone)
    state = RunFolder(folder, record["config_hash"]).best()
    run.method.shape(backbone.model, state)
    load_trained_state(backbone.model, state)
    return Restored(run, record, backbone.model.eval(), backbone.tokenizer)


def finished(
    folder: Path, data_path: str | None = None, source: str | None = None, tokenizer: str | None = None
) -> tuple[RunConfig, dict[str, Any]]:
    """The settings and the record of a finished run, whose data and backbone may have moved.

    Raises:
        UserError: the folder holds none, or a damaged one.
    """
    try:
        record = read_finished(folder)
    except Damaged as error:
        raise Damaged(f"{error}; the command that trained the run sets it aside and trains it again") from error
    if record is None and (below := sorted(folder.glob(f"*/{RECORD}"))):
        raise UserError(f"{folder} is a folder of runs: name one of them, as in {below[0].parent}")
    if record is None and (begun := read_record(folder)) and begun["status"] != "complete":
        raise UserError(
            f"{folder} holds a run that is {begun['status']}: the command that began it ends it (or retry=true)"
        )
    if record is None:
        raise UserError(f"{folder} holds no finished run: name the folder of a result.json")
    run = from_dict(record["config"])
    trainer = replace(run.trainer, precision="fp32", device="auto", forward="packed", threads=None)
    data = replace(run.data, path=data_path or run.data.path)
    backbone = replace(run.backbone, source=source, revision=None) if source else run.backbone
    backbone = replace(backbone, tokenizer=tokenizer or backbone.tokenizer)
    return replace(run, trainer=trainer, data=data, backbone=backbone), record


def pretrained(folder: Path, run: RunConfig, record: dict[str, Any]) -> Backbone:
    """The backbone that a finished run began with.

    Raises:
        UserError: its weights or its tokenizer have changed.
    """

    def texts() -> Iterator[tuple[str, ...]]:  # read only if the tokenizer has to be trained again
        yield from load_data(run, record)["train"].texts

    backbone = load_backbone(run.backbone, run.task.row, run.seed, texts())
    here, there = backbone.provenance, record["provenance"]["backbone"]
    if here.get("tokenizer") != there.get("tokenizer"):  # first: the sha256 of random weights covers the tokenizer
        raise UserError(f"{folder} was trained with another tokenizer: backbone.tokenizer=DIR says where that one is")
    if here["sha256"] != there["sha256"]:
        raise UserError(f"{folder} was trained on other weights of {run.backbone.name} than the present ones")
    return backbone
