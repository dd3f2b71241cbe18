"""LoRA-FA (Zhang et al. 2023, arXiv 2308.03303): LoRA with A frozen where it starts; B alone trains.

The gradient of B needs A·x alone, so the backward pass keeps (batch, seq, r) numbers a layer, not the input x itself.

Version 2 of the paper corrects the gradient so that the step s·g_B·A in W comes nearest, in Frobenius norm, to full
fine-tuning's gradient g:  min_{g_B} ‖s·g_B·A - g‖²  is solved by  g_B = s⁻²·(∂L/∂B)·(A·Aᵀ)⁻¹.

Deviations: the correction is a hook on the gradient, so it comes before clipping and works with any optimizer. PEFT has it
inside its own AdamW, after clipping, and rounds the product to bfloat16.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.base import register
from methods.lora import LoRA, LoRALinear


class LoRAFALinear(LoRALinear):
    """h = W·x + b + s·B·A·drop(x), A a buffer."""

    def __init__(self, base: nn.Linear, config: "LoRAFA"):
        super().__init__(base, config)
        A = self.A.detach()
        del self.A
        self.register_buffer("A", A)


class CorrectedLoRAFALinear(LoRAFALinear):
    """LoRA-FA whose gradient of B is that of the best approximation to full fine-tuning's step."""

    def __init__(self, base: nn.Linear, config: "LoRAFA"):
        super().__init__(base, config)
        self.B.register_hook(self.correct)

    def correct(self, gradient: Tensor) -> Tensor:
        """s⁻²·(∂L/∂B)·(A·Aᵀ)⁻¹, shape (out, r)."""
        with torch.autocast(self.A.device.type, enabled=False):  # solve takes no bf16
            gram = self.A @ self.A.T  # (r, r); r rows of a random A are linearly independent
            return torch.linalg.solve_ex(gram, gradient, left=False).result / self.scale**2


@register
@dataclass
class LoRAFA(LoRA):
    """Version 1. We do not know the paper's RoBERTa-base settings; these are LoRA's, at twice its learning rate."""

    label: ClassVar[str] = "LoRA-FA"
    layer: ClassVar[type[LoRALinear]] = LoRAFALinear
    learning_rate: ClassVar[float] = 8e-4

    name: str = "lora_fa"


@register
@dataclass
class LoRAFACorrected(LoRAFA):
    """Version 2, with the corrected gradient."""

    label: ClassVar[str] = "LoRA-FA, corrected"
    layer: ClassVar[type[LoRALinear]] = CorrectedLoRAFALinear

    name: str = "lora_fa_corrected"
