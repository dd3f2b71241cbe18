"""How long a forward pass takes under each method, as LoRA's table 1 asks: `python scripts/latency.py [overrides]`.

    python scripts/latency.py backbone=minilm                                       # on a CPU
    python scripts/latency.py backbone=roberta-base batches=1,16,32 lengths=128,256,512   # on a GPU

The plain model, LoRA merged into it, LoRA, DoRA and VeRA unmerged, Houlsby's, Lin's and Pfeiffer's adapters, in turns: in
each of `repeats=20` turns every one takes one pass over the same inputs, for each of `batches=1,8,32` and of
`lengths=16,64,128` (tokens). The backbone is its architecture with random weights, so nothing is downloaded; precision,
device and threads are the trainer's (overrides as for `train.py`), methods are at their own defaults.

Writes a record to `records/latency/` and the table `latency` in `into=paper_tables`, where `make_tables.py` makes it again.
Leave the machine to it: two processes share their caches, and neither's time is its own.
"""

import copy
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from analysis.latency import FOLDER, MERGED, PLAIN, VARIANTS, table, verdict
from analysis.records import describe_hardware
from core.errors import UserError
from core.io import write_json
from core.seeding import seeded
from experiments.config import RunConfig, file_name
from experiments.record import git_state, hardware, versions
from experiments.sweep import ROOT, compose
from methods.adapter import Houlsby, Lin, Pfeiffer
from methods.base import merge, parameter_counts
from methods.dora import DoRA
from methods.full import Full
from methods.lora import LoRA
from methods.vera import VeRA
from models.backbone import build, max_length
from scripts.cli import command, parse, whole
from training.accelerator import describe_machine, make_accelerator

WARM_UP = 3  # turns
OWN = {"batches": "1,8,32", "lengths": "16,64,128", "repeats": "20", "into": str(ROOT / "paper_tables")}
FITTED = (LoRA(), LoRA(), DoRA(), VeRA(), Houlsby(), Lin(), Pfeiffer())
METHODS = {PLAIN: Full(), **dict(zip(VARIANTS, FITTED, strict=True))}


def build_all(run: RunConfig) -> tuple[dict[str, nn.Module], dict[str, int]]:
    """A model for each variant, for inference; and how many parameters its method trains.

    All share the encoder's tensors: copies of them, elsewhere in memory, are a few percent faster or slower on a CPU.
    """
    with seeded(run.seed, "backbone"):
        plain = build(run.backbone, outputs=2).eval()
    models, trained = {}, {}
    for name, method in METHODS.items():
        models[name] = copy.deepcopy(plain, {id(p): p for p in plain.parameters()})
        method.apply(models[name])
        trained[name] = parameter_counts(models[name], {})["trained_without_head"]
    merge(models[MERGED])
    return models, trained


@torch.inference_mode()
def seconds(model: nn.Module, ids: Tensor, accelerator: Accelerator) -> float:
    """Of one forward pass; the device is idle before and after."""
    wait = torch.cuda.synchronize if ids.is_cuda else lambda: None
    wait()
    begin = time.perf_counter()
    with accelerator.autocast():
        model(input_ids=ids)
    wait()
    return time.perf_counter() - begin


def measure(
    models: dict[str, nn.Module], ids: Tensor, repeats: int, accelerator: Accelerator
) -> dict[str, list[float]]:
    """Seconds of every turn, by variant; nobody always comes after the same one."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(WARM_UP + repeats):
        for name in random.Random(turn).sample(list(models), len(models)):
            taken[name].append(seconds(models[name], ids, accelerator))
    return {name: times[WARM_UP:] for name, times in taken.items()}


def record(run: RunConfig, batches: list[int], lengths: list[int], repeats: int) -> dict[str, Any]:
    """What is written down of one backbone.

    Raises:
        UserError: a length is above the backbone's.
    """
    accelerator = make_accelerator(run.trainer, run.deterministic)
    models, trained = build_all(run)
    config = models[PLAIN].config
    if max(lengths) > (longest := max_length(models[PLAIN])):
        raise UserError(f"lengths has {max(lengths)}; {run.backbone.name} takes at most {longest}")
    for model in models.values():
        model.to(accelerator.device)
    cells = []
    for batch, length in [(batch, length) for batch in batches for length in lengths]:
        ids = torch.randint(config.pad_token_id + 1, config.vocab_size, (batch, length)).to(accelerator.device)
        cells.append({"batch": batch, "length": length, "seconds": measure(models, ids, repeats, accelerator)})
        print(f"batch {batch}, length {length}: measured", flush=True)
    provenance = {"git": git_state(), "versions": versions(), "hardware": hardware() | describe_machine(accelerator)}
    return {
        **{"latency": 1, "backbone": run.backbone.name, "architecture": run.backbone.architecture},
        **{"methods": {name: asdict(method) for name, method in METHODS.items()}, "trained": trained},
        **{"provenance": provenance, "cells": cells},
    }


def settings(words: list[str]) -> RunConfig:
    """Those of the overrides.

    Raises:
        UserError: among them is one of the method, which is measured at its defaults.
    """
    if odd := [word for word in words if word.partition("=")[0].partition(".")[0] == "method"]:
        raise UserError(f"{odd[0]}: every method is measured, at its own defaults; leave it out")
    return compose(words)


@command
def main(words: list[str]) -> None:
    own, overrides = parse(words, OWN)
    batches, lengths = ([whole(key, word) for word in own[key].split(",")] for key in ("batches", "lengths"))
    repeats = whole("repeats", own["repeats"])
    run = settings(overrides)
    records = Path(own["into"]) / "records" / FOLDER.name
    records.mkdir(parents=True, exist_ok=True)
    measured = record(run, batches, lengths, repeats)
    own_machine = measured["provenance"]["hardware"]
    parts = (run.backbone.name, describe_hardware(own_machine), own_machine["precision"])
    path = records / f"{'-'.join(map(file_name, parts))}.json"
    write_json(path, measured)
    holds, figures = verdict(measured)
    word = {True: "holds", False: "fails", None: "undecided"}[holds]
    print(f"adapters add latency where merged LoRA adds none: {word}; {figures}")
    print(f"record: {path}", *table(records).write(Path(own["into"])), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
