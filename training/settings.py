"""The settings of training, the same for every method."""

import math
import os
from dataclasses import dataclass
from typing import Annotated

from core.checks import COUNT, FRACTION, POSITIVE, check, number, one_of
from core.errors import UserError


@dataclass
class TrainerConfig:
    """How every method is trained.

    Attributes:
        epochs: passes over the training set; 0.5 is half of it.
        max_steps: the most steps of a run; null: no limit.
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
        weight_decay: of matrices; biases, norms and other vectors are not decayed. With adamw a step shrinks a matrix by rate
            x decay. With sgd decay is part of the gradient, as torch has it, and momentum repeats it: rate x decay /
            (1 - momentum), which at SGD's rates can keep it from learning.
        schedule: linear, cosine or constant, after a warm-up over `warmup_ratio` of all steps.
        max_grad_norm: gradients are clipped to it; null: no clipping.
        precision: fp32, bf16 (autocast), or auto: bf16 where the GPU has it.
        device: auto, cpu or cuda.
        eval_every: steps between evaluations, each with a checkpoint; null: at the end of each epoch.
        log_every: steps between log lines, at which the loss is checked for divergence.
        threads: CPU threads; null: torch's choice.
        patience: the run ends after this many evaluations without a better one, on held-out data if there are any; the
            schedule is that of the whole run. null: it trains to its last step.
    """

    epochs: Annotated[float, POSITIVE] = 10
    max_steps: Annotated[int | None, COUNT] = None
    batch_size: Annotated[int, COUNT] = 32
    micro_batch_size: Annotated[int | None, COUNT] = None
    eval_batch_size: Annotated[int, COUNT] = 64
    similar_length: bool = True
    forward: Annotated[str, one_of("packed", "padded", "compiled")] = "packed"
    optimizer: Annotated[str, one_of("adamw", "sgd")] = "adamw"
    learning_rate: Annotated[float | None, POSITIVE] = None
    head_learning_rate: Annotated[float | None, POSITIVE] = None
    beta1: Annotated[float, FRACTION] = 0.9
    beta2: Annotated[float, FRACTION] = 0.999
    epsilon: Annotated[float, POSITIVE] = 1e-8
    momentum: Annotated[float, FRACTION] = 0.9
    weight_decay: Annotated[float, number(at_least=0)] = 0.1
    schedule: Annotated[str, one_of("linear", "cosine", "constant")] = "linear"
    warmup_ratio: Annotated[float, FRACTION] = 0.06
    max_grad_norm: Annotated[float | None, POSITIVE] = 1.0
    precision: Annotated[str, one_of("auto", "fp32", "bf16")] = "auto"
    device: Annotated[str, one_of("auto", "cpu", "cuda")] = "auto"
    eval_every: Annotated[int | None, COUNT] = None
    log_every: Annotated[int, COUNT] = 10
    threads: Annotated[int | None, COUNT] = None
    patience: Annotated[int | None, COUNT] = None

    @property
    def rates(self) -> tuple[float, float]:
        """The rates of the method's parameters and of the head, once `RunConfig` has filled them in."""
        assert self.learning_rate is not None
        assert self.head_learning_rate is not None
        return self.learning_rate, self.head_learning_rate

    def total_steps(self, examples: int) -> int:
        """Optimizer steps of a run on `examples` examples."""
        steps = math.ceil(self.epochs * math.ceil(examples / self.batch_size))
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def __post_init__(self) -> None:
        check(self, "trainer.")
        self.epochs = int(self.epochs) if self.epochs == int(self.epochs) else self.epochs  # as older records have it
        if self.forward == "compiled" and self.micro_batch_size:  # a graph's next replay would overwrite its gradients
            raise UserError("trainer.forward=compiled takes a step at once: leave out trainer.micro_batch_size")
        if self.threads and self.threads > (cores := os.cpu_count() or 1):
            raise UserError(f"trainer.threads is {self.threads}; this machine has {cores} cores")
