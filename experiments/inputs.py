"""What a run begins with: splits, backbone, method. train.py, benchmarks and the outside check all load it here."""

from dataclasses import dataclass

from torch import nn

from core.seeding import seeded
from experiments.config import RunConfig
from models.backbone import Backbone, load_backbone
from models.batches import Encoded, encode
from tasks.loading import Split, load_splits


@dataclass(frozen=True)
class Inputs:
    """The splits, and the encoder with a fresh head, before the method is applied."""

    run: RunConfig
    splits: dict[str, Split]
    backbone: Backbone

    def encoded(self) -> dict[str, Encoded]:
        """The splits in the backbone's tokens."""
        length, tokenizer = self.run.task.max_length, self.backbone.tokenizer
        return {name: encode(split, tokenizer, length) for name, split in self.splits.items()}


def load_inputs(run: RunConfig) -> Inputs:
    """Raises a UserError if data or backbone are missing, or are not what the settings say."""
    splits = load_splits(run.task.row, run.data)
    backbone = load_backbone(run.backbone, run.task.row, run.seed, splits["train"].texts)
    backbone.require_length(run.task.max_length)
    return Inputs(run, splits, backbone)


def apply_method(run: RunConfig, model: nn.Module) -> None:
    """Applies the method to a model in place; what it draws comes from the seed's stream for adapters."""
    with seeded(run.seed, "adapter"):
        run.method.apply(model)
