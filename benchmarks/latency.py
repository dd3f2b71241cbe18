"""Time of a forward pass with each method; all variants in one process, in turns."""

import copy
import random
import time
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from analysis.latency import MERGED, PLAIN, VARIANTS
from core.errors import UserError
from core.seeding import seeded
from experiments.config import RunConfig
from experiments.record import git_state, hardware, versions
from methods.adapter import Houlsby, Lin, Pfeiffer
from methods.base import merge, parameter_counts
from methods.dora import DoRA
from methods.full import Full
from methods.lora import LoRA
from methods.vera import VeRA
from models.backbone import max_length
from models.random_init import build
from tasks.glue import GLUE
from training.accelerator import describe_machine, make_accelerator

WARM_UP = 3  # turns
FITTED = (LoRA(), LoRA(), DoRA(), VeRA(), Houlsby(), Lin(), Pfeiffer())
METHODS = {PLAIN: Full(), **dict(zip(VARIANTS, FITTED, strict=True))}


def build_all(run: RunConfig) -> tuple[dict[str, PreTrainedModel], dict[str, int]]:
    """A model for each variant, in evaluation mode, and how many parameters its method trains.

    All share the encoder's tensors: copies elsewhere in memory would be a few percent faster or slower on a CPU.
    """
    with seeded(run.seed, "backbone"):
        plain = build(run.backbone, GLUE["cola"]).eval()
    models, trained = {}, {}
    for name, method in METHODS.items():
        models[name] = copy.deepcopy(plain, {id(p): p for p in plain.parameters()})
        method.apply(models[name])
        trained[name] = parameter_counts(models[name], {})["trained_without_head"]
    merge(models[MERGED])
    return models, trained


@torch.inference_mode()
def seconds(model: PreTrainedModel, ids: Tensor, accelerator: Accelerator) -> float:
    """Seconds of one forward pass; the device is idle before and after."""
    wait = torch.cuda.synchronize if ids.is_cuda else lambda: None
    wait()
    begin = time.perf_counter()
    with accelerator.autocast():
        model(input_ids=ids)
    wait()
    return time.perf_counter() - begin


def measure(
    models: dict[str, PreTrainedModel], ids: Tensor, repeats: int, accelerator: Accelerator
) -> dict[str, list[float]]:
    """Seconds of every turn, by variant; each turn has a random order."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(WARM_UP + repeats):
        for name in random.Random(turn).sample(list(models), len(models)):
            taken[name].append(seconds(models[name], ids, accelerator))
    return {name: times[WARM_UP:] for name, times in taken.items()}


def record(run: RunConfig, batches: list[int], lengths: list[int], repeats: int) -> dict[str, Any]:
    """The record of one backbone.

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
