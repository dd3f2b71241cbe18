"""Optimizers and schedules. The method defines the parameter groups; weight decay is the same for all methods."""

import math
from typing import Any

import torch
from torch import nn

from methods.base import Method, head_parameters
from training.settings import TrainerConfig


def build_optimizer(model: nn.Module, method: Method, config: TrainerConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the method's groups and the head's, each split into what is decayed and what is not.

    Matrices are decayed. Vectors are not: biases and norms, and DoRA's m and VeRA's d and b, which decay would pull away
    from the pretrained model.
    """
    rate, head_rate = config.rates
    head = [p for p in head_parameters(model) if p.requires_grad]
    groups = [*method.param_groups(model, rate), {"params": head, "lr": head_rate}]
    split = [part for group in groups for part in _split_decay(group, config.weight_decay) if part["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(split, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(split, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True)


def _split_decay(group: dict[str, Any], weight_decay: float) -> list[dict[str, Any]]:
    """Splits a group into one with and one without decay; each keeps the peak rate that the schedule scales."""
    matrices = [p for p in group["params"] if p.ndim > 1]
    vectors = [p for p in group["params"] if p.ndim <= 1]
    rest = {key: value for key, value in group.items() if key != "params"} | {"peak_lr": group["lr"]}
    return [
        rest | {"params": matrices, "weight_decay": weight_decay},
        rest | {"params": vectors, "weight_decay": 0.0},
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, total: int, config: TrainerConfig) -> None:
    """Sets each group's rate for the next step after `step` finished ones."""
    factor = schedule(config.schedule, step, total, config.warmup_ratio)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def schedule(name: str, step: int, total: int, warmup_ratio: float) -> float:
    """The fraction of the peak rate after `step` of `total` steps, as in transformers' schedules of these names."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return {"linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress)), "constant": 1.0}[name]
