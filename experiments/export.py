"""Exports a run: merged into a plain transformers checkpoint, or as PEFT's adapter; each with a model card."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, init_empty_weights
from torch import nn
from transformers import AutoModelForSequenceClassification

from adapters import peft_check
from adapters.peft_format import write_adapter
from core.errors import UserError
from core.io import follow_umask, write_json, write_text
from experiments.card import card
from experiments.restore import Restored, load_data
from methods.base import merge
from models.batches import Encoded, encode
from models.packed import forward_path
from training.evaluation import judge, predict

TOLERANCE = 1e-3  # on logits: they sum hundreds of float32 products, in another order after merging


def export_merged(
    restored: Restored, folder: Path, accelerator: Accelerator, place: str
) -> dict[str, dict[str, float]]:
    """Writes config, weights, tokenizer and card; evaluates before, after, and after saving and loading again.

    Returns:
        The metrics of the three evaluations, and the largest difference of a logit from the first.

    Raises:
        UserError: the method does not merge, or merging changed the logits.
    """
    run, model, task = restored.run, restored.model, restored.run.task.row
    merged: Any = merge(deepcopy(model))
    require_plain(merged, run.method.name)
    splits = load_data(run, restored.record)
    data = {name: encode(splits[name], restored.tokenizer, run.task.max_length) for name in task.validation}
    merged.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        follow_umask(file)
    restored.tokenizer.save_pretrained(folder)
    again = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    numbers, first = {}, None
    for name, each, forward in (
        ("as trained", model, "packed"),
        ("merged", merged, "packed"),
        ("saved and loaded", again, "padded"),  # called as its users call it: model(**inputs)
    ):
        logits = _logits(each, data, accelerator, run.trainer.eval_batch_size, forward)
        first = first or logits
        metrics = judge(logits, data, task).summary.metrics
        numbers[name] = metrics | {"largest difference": max(_difference(logits[k], first[k]) for k in logits)}
    if (worst := numbers["saved and loaded"]["largest difference"]) > TOLERANCE:
        raise UserError(
            f"merging changed a logit by {worst:.2g}: nothing is written; do the layers of method={run.method.name} compute "
            "with their effective_weight()?"
        )
    write_json(folder / "merging.json", numbers)
    write_text(folder / "README.md", card(restored, "transformers", place) + "\n" + merging_table(numbers))
    return numbers


def export_adapter(restored: Restored, folder: Path, place: str) -> None:
    """Writes the adapter, the tokenizer and a card.

    Raises:
        UserError: PEFT does not know the method.
    """
    method, model = restored.run.method, restored.model
    why = (
        peft_check.difference(model, method)
        if method.peft_names
        else f"method={method.name} has no format of PEFT's here (peft_names)"
    )
    if why:
        raise UserError(
            f"form=adapter: {why}; "
            "form=merged writes what merges into plain weights, and predict.py takes the run as it is"
        )
    write_adapter(folder, model, method, restored.record)
    restored.tokenizer.save_pretrained(folder)
    write_text(folder / "README.md", card(restored, "peft", place))


def require_plain(merged: nn.Module, method: str) -> None:
    """Raises a UserError unless the merged model has exactly the weights of its plain architecture."""
    with init_empty_weights():
        plain = AutoModelForSequenceClassification.from_config(merged.config)
    if merged.state_dict().keys() != plain.state_dict().keys():
        raise UserError(f"method={method} does not merge into a plain model: what it adds stays beside the weights")


def _logits(
    model: nn.Module, data: dict[str, Encoded], accelerator: Accelerator, batch_size: int, forward: str
) -> dict[str, np.ndarray]:
    path = forward_path(model.to(accelerator.device).eval(), forward)
    return {name: predict(path, split, accelerator, batch_size) for name, split in data.items()}


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def merging_table(numbers: dict[str, dict[str, float]]) -> str:
    """A Markdown table of the metrics before merging, after it, and after saving."""
    names = list(next(iter(numbers.values())))
    rows = [
        f"| {what} | " + " | ".join(f"{entry[name]:.4g}" for name in names) + " |" for what, entry in numbers.items()
    ]
    return "\n".join([f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names), *rows]) + "\n"
