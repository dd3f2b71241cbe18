"""Exports a run: merged into a plain transformers checkpoint, or as PEFT's adapter; each with a model card."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, init_empty_weights
from huggingface_hub import EvalResult, ModelCardData
from torch import nn
from transformers import AutoModelForSequenceClassification

from adapters.peft_format import write_adapter
from core.errors import UserError
from core.io import write_json, write_text
from experiments.restore import Restored, load_data
from methods.base import merge, trained_state
from models.batches import Encoded, encode
from models.packed import forward_path
from training.evaluation import judge, predict

TOLERANCE = 1e-3  # on logits: they sum hundreds of float32 products, in another order after merging


def export_merged(restored: Restored, folder: Path, accelerator: Accelerator) -> dict[str, dict[str, float]]:
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
    if task.labels:
        merged.config.id2label = dict(enumerate(task.labels))
        merged.config.label2id = {label: i for i, label in enumerate(task.labels)}
    merged.save_pretrained(folder)
    restored.tokenizer.save_pretrained(folder)
    again = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    numbers, first = {}, None
    for name, each in (("as trained", model), ("merged", merged), ("saved and loaded", again)):
        logits = _logits(each, data, accelerator, run.trainer.eval_batch_size)
        first = first or logits
        metrics = judge(logits, data, task).summary.metrics
        numbers[name] = metrics | {"largest difference": max(_difference(logits[k], first[k]) for k in logits)}
    if (worst := numbers["saved and loaded"]["largest difference"]) > TOLERANCE:
        raise UserError(f"merging changed a logit by {worst:.2g}: nothing is written")
    write_json(folder / "merging.json", numbers)
    write_text(folder / "README.md", card(restored, "transformers") + "\n" + merging_table(numbers))
    return numbers


def export_adapter(restored: Restored, folder: Path) -> None:
    """Writes the adapter, the tokenizer and a card.

    Raises:
        UserError: PEFT does not know the method.
    """
    method, model = restored.run.method, restored.model
    if not method.peft_names:
        raise UserError(f"form=adapter: PEFT has no format for method={method.name}; use form=merged")
    write_adapter(folder, model, method, trained_state(model), restored.record)
    restored.tokenizer.save_pretrained(folder)
    write_text(folder / "README.md", card(restored, "peft"))


def require_plain(merged: nn.Module, method: str) -> None:
    """Raises a UserError unless the merged model has exactly the weights of its plain architecture."""
    with init_empty_weights():
        plain = AutoModelForSequenceClassification.from_config(merged.config)
    if merged.state_dict().keys() != plain.state_dict().keys():
        raise UserError(f"method={method} does not merge into a plain model: what it adds stays beside the weights")


def _logits(
    model: nn.Module, data: dict[str, Encoded], accelerator: Accelerator, batch_size: int
) -> dict[str, np.ndarray]:
    path = forward_path(model.to(accelerator.device).eval(), "packed")
    return {name: predict(path, split, accelerator, batch_size) for name, split in data.items()}


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def card(restored: Restored, library: str) -> str:
    """A model card with the record's numbers, in Markdown under the hub's YAML."""
    run, record = restored.run, restored.record
    name, best = f"{run.backbone.name}-{run.task.name}-{run.method.name}", record["best"]
    metrics = [metric for metric in run.task.row.metrics if metric in best]  # a record may be older than a metric
    source = run.data.repository if run.data.name == "hub" else f"{run.data.name} data"
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=run.data.repository,
            dataset_name=f"GLUE {run.task.name}",
            dataset_config=run.task.name,
            dataset_split="validation",
            metric_type=metric,
            metric_value=best[metric],
        )
        for metric in metrics
        if run.data.name == "hub" and run.data.eval_size is None  # only such a score is GLUE's
    ]
    hub = run.backbone.source if run.backbone.revision else None
    header = ModelCardData(
        base_model=hub,
        library_name=library,
        language="en",
        model_name=name,
        tags=["glue"],
        eval_results=results or None,
    )
    trainer, provenance, trained = run.trainer, record["provenance"], record["parameters"]
    scores = ", ".join(f"{metric} {best[metric]:.4f}" for metric in metrics)
    settings = ", ".join(f"{k} {v}" for k, v in record["config"]["method"].items() if k != "name").replace("|", "\\|")
    quantized = (
        " The adapter belongs on the backbone in 4 bits, as it was trained." if run.method.name == "qlora" else ""
    )
    return f"""---
{header.to_yaml()}
---

# {name}

{run.backbone.name}, trained by {run.method.name} on GLUE's {run.task.name} ({source}).{quantized}

**{scores}** on the validation set, at the best of {len(record["history"])} evaluations there (epoch {best["epoch"]:g}).

| | |
|---|---|
| settings of the method | {settings or "none"} |
| learning rate, of the head | {trainer.learning_rate:g}, {trainer.head_learning_rate:g} |
| epochs, batch size, seed | {trainer.epochs}, {trainer.batch_size}, {run.seed} |
| parameters trained, without the head | {trained["trained"]:,}, {trained["trained_without_head"]:,} |
| weights of the backbone | {provenance["backbone"]["source"]}, sha256 {provenance["backbone"]["sha256"]} |
| data, a hash of | {provenance["data_fingerprint"]} |
| code's commit | {provenance["git"]["commit"]} |
| settings, a hash of | {record["config_hash"]} |
"""


def merging_table(numbers: dict[str, dict[str, float]]) -> str:
    """A Markdown table of the metrics before merging, after it, and after saving."""
    names = list(next(iter(numbers.values())))
    rows = [
        f"| {what} | " + " | ".join(f"{entry[name]:.4g}" for name in names) + " |" for what, entry in numbers.items()
    ]
    return "\n".join([f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names), *rows]) + "\n"
