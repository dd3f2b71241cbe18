"""Predictions over the validation splits, and GLUE's metrics of them."""

import json
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from core.errors import Diverged
from models.batches import Encoded, sorted_batches
from models.packed import Packed, Padded
from tasks.glue import Task


@dataclass(frozen=True)
class Summary:
    """What the history keeps of an evaluation; `collapsed`: every example got the same answer."""

    metrics: dict[str, float]
    collapsed: bool


@dataclass(frozen=True)
class Evaluation:
    """A summary, and the predictions as JSON lines (split, idx, label, prediction, logits)."""

    summary: Summary
    predictions: str


def evaluate(
    path: Packed | Padded, splits: dict[str, Encoded], task: Task, accelerator: Accelerator, batch_size: int
) -> Evaluation:
    """Each process evaluates a share of the batches; all receive the full result.

    Raises:
        Diverged: the logits are not finite.
    """
    return judge({name: predict(path, split, accelerator, batch_size) for name, split in splits.items()}, splits, task)


def judge(logits: dict[str, np.ndarray], splits: dict[str, Encoded], task: Task) -> Evaluation:
    """The metrics of each split's logits (examples, outputs), together.

    Raises:
        Diverged: they are not finite.
    """
    from tasks.metrics import score  # seconds to import: a user's mistake should not wait for it

    if not all(np.isfinite(values).all() for values in logits.values()):
        raise Diverged("the logits are not finite: try a lower learning rate")
    predictions = {name: values[:, 0] if task.is_regression else values.argmax(1) for name, values in logits.items()}
    metrics = score(task, {name: (predictions[name], np.array(split.split.labels)) for name, split in splits.items()})
    collapsed = bool(np.ptp(np.concatenate(list(predictions.values()))) < 1e-6)
    lines = [
        json.dumps({"split": name, "idx": idx, "label": label, "prediction": prediction, "logits": row})
        for name, split in splits.items()
        for idx, label, prediction, row in zip(
            split.split.idx, split.split.labels, predictions[name].tolist(), logits[name].tolist(), strict=True
        )
    ]
    return Evaluation(Summary(metrics, collapsed), "\n".join(lines) + "\n")


@torch.no_grad()
def predict(path: Packed | Padded, data: Encoded, accelerator: Accelerator, batch_size: int) -> np.ndarray:
    """Logits of every example, (examples, outputs), in the split's order."""
    path.eval()
    mine = sorted_batches(data.lengths, batch_size)[accelerator.process_index :: accelerator.num_processes]
    outputs = []
    for indices in mine:
        batch = path.collate(data, indices).to(accelerator.device)
        with accelerator.autocast():
            outputs.append(path(batch).float())
    pairs = [(indices, logits.cpu().numpy()) for indices, logits in zip(mine, outputs, strict=True)]
    gathered = gather_object(pairs)
    logits = np.empty((len(data.lengths), gathered[0][1].shape[1]), dtype=np.float32)
    for indices, values in gathered:
        logits[indices] = values
    return logits
