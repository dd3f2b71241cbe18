"""Whole runs of `train.py` in this process, with a tiny random RoBERTa on generated data."""

import functools
from pathlib import Path

from safetensors.torch import load_file

import train
from experiments.record import read_record
from support.command_line import ROOT, compose
from training.trainer import Trainer

NAMES = sorted(path.stem for path in (ROOT / "conf/method").glob("*.yaml"))
SMALL = {
    **{"head": [], "full": [], "bitfit": [], "vera": ["method.rank=16"], "top_layers": ["method.layers=1"]},
    **{name: ["method.bottleneck=4"] for name in ("houlsby", "lin", "pfeiffer")},
    **{name: ["method.l_p=4", "method.l_i=2", "task.max_length=96"] for name in ("prefix_embed", "prefix_layer")},
    "lora_drop": ["method.rank=4", "method.probe_steps=6", "method.sample=0.3", "method.threshold=0.3"],
    "ladder_side": ["method.reduction=4"],
    "adapterdrop": ["method.bottleneck=4", "method.dropped_layers=1"],
}


def settings(output: Path, method: str = "lora", task: str = "cola", *more: str) -> list[str]:
    rank = SMALL[method] if method in SMALL else ["method.rank=4"] if has_rank(method) else []
    return [
        f"method={method}",
        f"task={task}",
        "profile=offline",
        "backbone=tiny",
        "logger=none",
        f"output_dir={output}",
        "data.train_size=70",
        "data.eval_size=40",
        "trainer.epochs=2",
        "trainer.batch_size=8",
        "trainer.log_every=3",
        "trainer.learning_rate=1e-3",
        *rank,
        *more,
    ]


@functools.cache
def has_rank(method: str) -> bool:
    return hasattr(compose(f"method={method}").method, "rank")


def run(*arguments) -> tuple[Path, dict]:
    config = compose(*settings(*arguments))
    train.train(config)
    return config.folder, read_record(config.folder)


def stop_at(monkeypatch, step: int) -> None:
    monkeypatch.setattr(Trainer, "is_stop_requested", lambda trainer: trainer.progress.step == step)


def outcome(folder: Path) -> dict:
    """All of a run that two equal runs must share to the bit."""
    record = read_record(folder)
    tensors = {name: load_file(folder / name) for name in ("best.safetensors", "last.safetensors")}
    return {
        "history": record["history"],
        "best": record["best"],
        "predictions": (folder / "predictions.jsonl").read_text(),
        "tensors": {f"{file}/{name}": t.tolist() for file, state in tensors.items() for name, t in state.items()},
    }
