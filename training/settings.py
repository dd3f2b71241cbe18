"""The settings of training: every method has the same."""

import os
from dataclasses import dataclass

from core.checks import above_zero, at_least, choose, fraction
from core.errors import UserError


@dataclass
class TrainerConfig:
    """How every method is trained.

    Attributes:
        epochs: passes over the training set.
        max_steps: ends the run sooner; null: never.
        batch_size: examples in an optimizer step, over all devices.
        micro_batch_size: examples in a forward pass on a device, gradients accumulated over a step; null: all of them.
        eval_batch_size: examples in a forward pass of an evaluation.
        similar_length: batches of examples of similar length; false: random batches.
        forward: packed: examples end to end, without padding, on encoders that models/packed.py knows; padded: to their
            longest, through transformers' own forward pass; compiled: that pass through torch.compile and CUDA graphs, for
            short steps on a GPU. The mathematics is the same, and so is the run's name.
        optimizer: adamw or sgd.
        learning_rate: of the method's parameters; null: what suits method and backbone.
        head_learning_rate: of the head; null: what suits the backbone or the method (VeRA), or else `learning_rate`.
        weight_decay: of matrices; biases, norms and other vectors are spared.
        schedule: linear, cosine or constant, after a warm-up over `warmup_ratio` of all steps.
        max_grad_norm: gradients are clipped to it; null: never.
        precision: fp32, bf16 (autocast), or auto: bf16 where the GPU has it.
        device: auto, cpu or cuda.
        eval_every: steps between evaluations; null: at the end of each epoch. A checkpoint goes with each.
        log_every: steps between log lines; the loss is looked at, and can end the run, as often.
        threads: of the CPU; null: torch's choice.
    """

    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 32
    micro_batch_size: int | None = None
    eval_batch_size: int = 64
    similar_length: bool = True
    forward: str = "packed"
    optimizer: str = "adamw"
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.1
    schedule: str = "linear"
    warmup_ratio: float = 0.06
    max_grad_norm: float | None = 1.0
    precision: str = "auto"
    device: str = "auto"
    eval_every: int | None = None
    log_every: int = 10
    threads: int | None = None

    def __post_init__(self) -> None:
        choose("trainer.forward", self.forward, ("packed", "padded", "compiled"))
        choose("trainer.optimizer", self.optimizer, ("adamw", "sgd"))
        choose("trainer.schedule", self.schedule, ("linear", "cosine", "constant"))
        choose("trainer.precision", self.precision, ("auto", "fp32", "bf16"))
        choose("trainer.device", self.device, ("auto", "cpu", "cuda"))
        for key in (
            "epochs",
            "max_steps",
            "batch_size",
            "micro_batch_size",
            "eval_batch_size",
            "eval_every",
            "log_every",
            "threads",
        ):
            at_least(f"trainer.{key}", getattr(self, key), 1)
        for key in ("epsilon", "max_grad_norm"):
            above_zero(f"trainer.{key}", getattr(self, key))
        for key in ("beta1", "beta2", "momentum", "warmup_ratio"):
            fraction(f"trainer.{key}", getattr(self, key))
        at_least("trainer.weight_decay", self.weight_decay, 0)
        if self.forward == "compiled" and self.micro_batch_size:  # a graph's next replay would overwrite its gradients
            raise UserError("trainer.forward=compiled takes a step at once: leave out trainer.micro_batch_size")
        if self.threads and self.threads > (cores := os.cpu_count() or 1):
            raise UserError(f"trainer.threads is {self.threads}; this machine has {cores} cores")
