"""What a run begins with, loaded alike by train.py, the benchmarks and the outside check: splits, backbone, method."""

from dataclasses import dataclass

from torch import nn

from core.seeding import seeded
from experiments.config import RunConfig
from models.backbone import Backbone, load_backbone
from models.batches import Encoded, encode
from tasks.loading import Split, load_splits


@dataclass(frozen=True)
class Inputs:
    """The settings' splits and the encoder with a fresh head, as yet without the method."""

    run: RunConfig
    splits: dict[str, Split]
    backbone: Backbone

    def encoded(self) -> dict[str, Encoded]:
        """The splits in the backbone's tokens."""
        length, tokenizer = self.run.task.max_length, self.backbone.tokenizer
        return {name: encode(split, tokenizer, length) for name, split in self.splits.items()}


def load_inputs(run: RunConfig) -> Inputs:
    """Raises a UserError where data or backbone are not there, or not what the settings say."""
    splits = load_splits(run.task.row, run.data)
    backbone = load_backbone(run.backbone, run.task.row, run.seed, splits["train"].texts)
    backbone.require_length(run.task.max_length)
    return Inputs(run, splits, backbone)


def apply_method(run: RunConfig, model: nn.Module) -> None:
    """Adapts a model in place, from the seed's own stream for adapters."""
    with seeded(run.seed, "adapter"):
        run.method.apply(model)
