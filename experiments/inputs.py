"""What a run begins with: splits, backbone, method. train.py, benchmarks and the outside check all load it here."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

from accelerate import Accelerator

from core.console import say
from core.errors import UserError, out_of_memory
from core.seeding import seeded
from experiments.config import RunConfig
from models.backbone import PADDING, Backbone, beside_padding, load_backbone, samples, takes_mask
from models.batches import Encoded, collate, encode
from tasks.loading import Split, layout_name, load_splits

PADDING_BF16 = 0.1  # in place of PADDING: eight bits round a logit by a percent or more


@dataclass(frozen=True)
class Inputs:
    """The splits, and the encoder with a fresh head, before the method is applied.

    Attributes:
        layout: the one in which `data.path` has the splits; None for other sources.
    """

    run: RunConfig
    splits: dict[str, Split]
    layout: str | None
    backbone: Backbone

    @cached_property
    def encoded(self) -> dict[str, Encoded]:
        """The splits in the backbone's tokens."""
        length, tokenizer = self.run.task.max_length, self.backbone.tokenizer
        return {name: encode(split, tokenizer, length) for name, split in self.splits.items()}

    def tell(self, unused: list[str]) -> None:
        """Prints what a run says about its inputs before it trains; `unused` as from `apply_method`."""
        if self.layout:
            say(f"data: {self.layout} in {self.run.data.path}")
        if unused:
            say(f"frozen, since no gradient reaches them: {', '.join(unused)}")


def load_inputs(run: RunConfig) -> Inputs:
    """Raises a UserError if data or backbone are missing, or are not what the settings say."""
    splits = load_splits(run.task.row, run.data)
    backbone = load_backbone(run.backbone, run.task.row, run.seed, splits["train"].texts)
    backbone.require_length(run.task.max_length, run.method.positions)
    return Inputs(run, splits, layout_name(run.task.row, run.data), backbone)


def apply_method(run: RunConfig, backbone: Backbone, accelerator: Accelerator | None = None) -> list[str]:
    """Applies the method to the model in place, and freezes what trains but gets no gradient.

    What the method draws comes from the seed's stream for adapters.

    Args:
        accelerator: the run's; the model is tried in its precision. None: in fp32.

    Returns:
        The names of the parameters that get no gradient, such as those of a pooler that the head does not read.

    Raises:
        UserError: the method does not fit the model, or the model does not train in this precision.
    """
    model = backbone.model
    with seeded(run.seed, "adapter"):
        run.method.apply(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"method={run.method.name} trains nothing on {type(model).__name__}: give another method")
    data = samples(backbone.tokenizer, run.task.row, backbone.max_length - run.method.positions)
    batch = collate(data, [0, 1]).to(next(model.parameters()).device)
    is_bf16 = accelerator is not None and accelerator.mixed_precision == "bf16"
    try:
        with accelerator.autocast() if accelerator else nullcontext():
            _, depends = beside_padding(model, data, PADDING_BF16 if is_bf16 else PADDING)
            loss = model(**batch.inputs).logits.float().sum()
        loss.backward()
    except RuntimeError as error:
        if not is_bf16 or out_of_memory(error):
            raise
        reason = str(error).partition(".")[0]
        raise UserError(f"{backbone.name} does not train in bf16 ({reason}): give trainer.precision=fp32") from error
    if depends and takes_mask(model):
        raise UserError(
            f"method={run.method.name}: a text's logits depend on the padding beside it; what it adds must leave padding out"
        )
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    model.zero_grad(set_to_none=True)
    for name in unused:
        model.get_parameter(name).requires_grad_(False)
    return unused
