"""BitFit (Ben Zaken et al. 2021, arXiv 2106.10199): every bias of the encoder trains, every matrix stays.

  h = W·x + b            b trains, W is frozen
  LayerNorm: g·x̂ + b     likewise: its shift trains, its gain does not

Nothing is added and nothing has to be merged. Of RoBERTa-base it trains 12 · 11 · 768 + 768 = 102,144 numbers.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from core.errors import UserError
from methods.base import Method, encoder, freeze_encoder, register


@register
@dataclass
class BitFit(Method):
    """The learning rate comes from the authors' code (benzakenelad/BitFit, run_glue.py)."""

    label: ClassVar[str] = "BitFit"
    learning_rate: ClassVar[float] = 1e-3

    name: str = "bitfit"

    def apply(self, model: nn.Module) -> None:
        freeze_encoder(model)
        biases = [p for name, p in encoder(model).named_parameters() if re.search(r"[._]bias$", name)]
        if not biases:
            raise UserError(f"method=bitfit trains biases; {type(encoder(model)).__name__} has none")
        for bias in biases:
            bias.requires_grad_(True)
