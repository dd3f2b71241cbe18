"""Full fine-tuning: W' = W + ΔW with ΔW free. Every parameter trains, embeddings included."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods.base import Method, register


@register
@dataclass
class Full(Method):
    """The upper baseline. RoBERTa's paper sweeps learning rates 1e-5, 2e-5 and 3e-5 (Liu et al. 2019, table 10)."""

    label: ClassVar[str] = "Full FT"
    learning_rate: ClassVar[float] = 2e-5

    name: str = "full"

    def apply(self, model: nn.Module) -> None:
        model.requires_grad_(True)
