"""A finished run's best state at every rank that it was trained for."""

from pathlib import Path
from typing import Any

from core.errors import UserError
from core.io import with_checksum, write_json
from experiments.restore import Restored, load_data
from models.batches import Encoded, encode
from models.packed import forward_path
from tasks.settings import HELD_OUT
from training.accelerator import make_accelerator
from training.evaluation import evaluate

FILE = "ranks.json"  # in a run's folder


def by_rank(restored: Restored) -> list[dict[str, Any]]:
    """The metrics on the validation splits at each rank, and under `held_out` on what was held out of training.

    Leaves the model at the highest rank.

    Raises:
        UserError: the method trains for one rank alone, or the data have changed since.
    """
    run, model, task = restored.run, restored.model, restored.run.task.row
    if not run.method.ranks:
        raise UserError(f"method={run.method.name} trains for one rank alone: name a run of method=dylora")
    splits = load_data(run, restored.record)
    data = {name: encode(splits[name], restored.tokenizer, run.task.max_length) for name in splits if name != "train"}
    held_out = {name: data.pop(name) for name in list(data) if name == HELD_OUT}
    accelerator = make_accelerator(run.trainer, run.deterministic)
    path = forward_path(model.to(accelerator.device), run.trainer.forward)

    def metrics(part: dict[str, Encoded]) -> dict[str, float]:
        return evaluate(path, part, task, accelerator, run.trainer.eval_batch_size).summary.metrics

    entries: list[dict[str, Any]] = []
    for rank in run.method.ranks:
        run.method.evaluate_at(model, rank)
        entries.append({"rank": rank, **metrics(data)})
        if held_out:
            entries[-1][HELD_OUT] = metrics(held_out)
    return entries


def write(file: Path, restored: Restored, entries: list[dict[str, Any]]) -> Path:
    """Writes the metrics and which run they belong to; returns the file."""
    record = restored.record
    kept = {key: record[key] for key in ("experiment", "method", "task", "backbone", "seed", "config_hash", "metric")}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, with_checksum(kept | {"step": record["best"]["step"], "ranks": entries}))
    return file
