"""The classification head alone: linear probing, the floor that every method must exceed.

tokens ── encoder ── [head]
          frozen      trains
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods.base import Method, freeze_encoder, register


@register
@dataclass
class Head(Method):
    """Trains no weight of the encoder. No paper's table has this row: it shows how much the head alone explains."""

    label: ClassVar[str] = "Head alone"
    learning_rate: ClassVar[float] = 1e-3

    name: str = "head"

    def apply(self, model: nn.Module) -> None:
        freeze_encoder(model)
