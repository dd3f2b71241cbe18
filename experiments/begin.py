"""What a run's model is at its first step: the method applied, and the state of a checkpoint, another run or a probe."""

from dataclasses import dataclass

from accelerate import Accelerator

from experiments.config import RunConfig
from experiments.inputs import Inputs, apply_method
from experiments.warm_start import load_initial_state
from methods.base import parameter_counts
from training.checkpoint import Checkpoint
from training.probe import probe


@dataclass(frozen=True)
class Beginning:
    """The result of `begin`.

    Attributes:
        unused: see `apply_method`.
        parameters: the record's counts.
        seconds: of the probe.
    """

    unused: list[str]
    parameters: dict[str, int]
    seconds: float


def begin(
    run: RunConfig, start: RunConfig | None, inputs: Inputs, checkpoint: Checkpoint | None, accelerator: Accelerator
) -> Beginning:
    """Applies the method to the backbone's model, in place, and gives it the shape in which it trains.

    The trainer restores the checkpoint.

    Args:
        start: the run that `run.start` names.

    Raises:
        UserError: the method does not fit the model, or the state that the run begins from is another model's.
        Diverged: the probe diverged.
    """
    model, seconds = inputs.backbone.model, 0.0
    backbone = {name: p.numel() for name, p in model.named_parameters()}
    unused = apply_method(run, inputs.backbone, accelerator)
    if checkpoint:
        run.method.shape(model, checkpoint.model)
    elif not load_initial_state(run, start, model, inputs.backbone.provenance):
        train = inputs.encoded["train"]
        seconds = probe(model, run.method, run.trainer, run.task.row, train, run.seed, accelerator)
    return Beginning(unused, parameter_counts(model, backbone), seconds)
