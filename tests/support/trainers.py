"""A trainer over a small model on the CPU, for what is tested a step at a time."""

import torch
from torch import nn

from methods.base import Method
from support.tiny import encoded
from tasks.glue import GLUE
from training.accelerator import make_accelerator
from training.settings import TrainerConfig
from training.trainer import Trainer


def tiny_trainer(model: nn.Module, method: Method, forward: str, **more) -> Trainer:
    """One epoch over the ten examples of `encoded` in two steps, each in two micro-batches of unequal lengths.

    Args:
        model: after `method.apply`, with three outputs.
        more: other settings of the trainer.
    """
    own = {"learning_rate": 1e-3, "head_learning_rate": 1e-3, "epochs": 1, "batch_size": 5, "micro_batch_size": 3}
    settings = TrainerConfig(**own | {"device": "cpu", "precision": "fp32", "forward": forward} | more)
    with torch.device("cpu"):  # the ids are drawn there, whatever a test's default
        data = encoded(model.config.model_type)
    splits = {"train": data, "validation": data}
    return Trainer(model, method, settings, GLUE["mnli"], splits, 0, make_accelerator(settings, deterministic=False))
