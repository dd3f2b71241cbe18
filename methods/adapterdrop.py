"""AdapterDrop (Rücklé et al. 2020, arXiv 2010.11918): adapters in the upper layers alone.

  layer ── layer ── layer + adapter ── ... ── layer + adapter
  dropped_layers without                      the backward pass ends at the lowest adapter

The adapters are Pfeiffer's (methods/adapter.py). This is the paper's specialised variant: the same layers have no adapter in
training and in inference. The robust variant, which draws their number for each batch, is not implemented.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import nn

from core.checks import number
from core.errors import UserError
from methods.adapter import Pfeiffer
from methods.base import encoder_layers, register


@register
@dataclass
class AdapterDrop(Pfeiffer):
    """No adapter in the lowest five of RoBERTa-base's twelve layers, the paper's own example.

    Attributes:
        dropped_layers: how many, counted from the bottom.
    """

    label: ClassVar[str] = "AdapterDrop"

    name: str = "adapterdrop"
    dropped_layers: Annotated[int, number(at_least=0)] = 5

    def layers(self, model: nn.Module) -> Iterable[nn.Module]:
        stack = encoder_layers(model)
        if self.dropped_layers >= (count := len(stack)):
            raise UserError(f"method.dropped_layers is {self.dropped_layers}, of {count} layers: leave at least one")
        return stack[self.dropped_layers :]
