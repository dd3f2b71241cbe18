"""Dropout for the CPU at a quarter of torch's cost, which is a third of a LoRA step.

torch draws a 64-bit double for each element; here 64 bits make four decisions of 16 bits each. The result is the same: an
element becomes 0 with probability p and is divided by 1 - p otherwise, with p rounded to a multiple of 2⁻¹⁶ in both places.
A GPU's own dropout is cheap and stays.
"""

from typing import Any

import torch
from torch import Tensor, nn

RANGE = 2**16  # values of a 16-bit integer, from -2¹⁵


class _Dropout(torch.autograd.Function):
    """Keeps one byte an element for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        dropped = min(round(p * RANGE), RANGE - 1)  # of RANGE values
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = (draws.view(torch.int16) >= dropped - RANGE // 2)[: x.numel()].view(x.shape)
        ctx.save_for_backward(kept)
        ctx.scale = RANGE / (RANGE - dropped)
        return _masked(x, kept, ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _masked(gradient, kept, ctx.scale), None


def _masked(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    return (x * kept.view(torch.int8)).mul_(scale)  # a product with a bool takes twice as long


def dropout(x: Tensor, p: float) -> Tensor:
    """Zeroes each element of a CPU tensor with probability p, and divides the others by 1 - p."""
    return _Dropout.apply(x, p) if p else x


class Dropout(nn.Dropout):
    """`nn.Dropout` with the function above."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def replace_dropout(model: nn.Module) -> None:
    """Replaces every `nn.Dropout` of a model on the CPU by the class above."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
