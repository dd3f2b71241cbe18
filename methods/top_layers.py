"""FT^Top2, a baseline of LoRA's table 3 (Hu et al. 2021, arXiv 2106.09685): the last layers alone train.

  embeddings ── layer ── ... ── layer ── [layer ── layer ── head]
  frozen                        frozen    train, and the backward pass ends here

Deviations: the paper has it for GPT-2, quoted from Li and Liang 2021 (arXiv 2101.00190); here it adapts an encoder.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import nn

from core.checks import COUNT
from core.errors import UserError
from methods.base import Method, encoder_layers, freeze_encoder, register


@register
@dataclass
class TopLayers(Method):
    """At full fine-tuning's learning rate.

    Attributes:
        layers: how many of the encoder's layers train, counted from the top.
    """

    label: ClassVar[str] = "Top layers"
    learning_rate: ClassVar[float] = 2e-5

    name: str = "top_layers"
    layers: Annotated[int, COUNT] = 2

    def apply(self, model: nn.Module) -> None:
        stack = encoder_layers(model)
        if self.layers > len(stack):
            raise UserError(f"method.layers is {self.layers}; the encoder has {len(stack)}: choose at most that")
        freeze_encoder(model)
        for layer in stack[-self.layers :]:
            layer.requires_grad_(True)
