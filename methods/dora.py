"""DoRA (Liu et al. 2024, arXiv 2402.09353): W' = m · V / ‖V‖_c with V = W + s·B·A, eq. 5.

  m (out)  trained, starts at ‖W‖_c, so that W' = W when B = 0
  ‖V‖_c    the norm of each row of the (out, in) matrix that PyTorch stores; constant in the backward pass, section 4.3

  h = (m / ‖V‖_c) · (W·x + s·B·A·drop(x)) + b        the bias is added after scaling, never scaled

V is never built: row by row, with P = W·Aᵀ (out, r) and Q = A·Aᵀ (r, r),
  ‖V‖² = ‖W‖² + 2s·⟨B, P⟩ + s²·⟨B·Q, B⟩

Deviations: with dropout, the authors' code and PEFT also drop elements of x in the term (m/‖V‖ - 1)·W·x. Here W·x always
takes the whole x, which saves one matrix product. Without dropout the two are equal.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import register
from methods.lora import LoRA, LoRALinear


class DoRALinear(LoRALinear):
    """h = (m / ‖V‖_c) · (W·x + s·B·A·drop(x)) + b."""

    reads_base: ClassVar[bool] = True  # ‖V‖ is exact in a bf16 run too

    W_squared: Tensor

    def __init__(self, base: nn.Linear, config: "DoRA"):
        super().__init__(base, config)
        self.register_buffer("W_squared", base.weight.detach().float().square().sum(1), persistent=False)  # (out)
        self.m = nn.Parameter(self.norm())

    @torch.no_grad()
    def norm(self) -> Tensor:
        """‖V‖_c, shape (out); in float32, since ‖V‖² is a sum of terms that cancel."""
        with torch.autocast(self.A.device.type, enabled=False):
            W, A, B, s = self.base.weight.float(), self.A, self.B, self.scale
            P, Q = W @ A.T, A @ A.T
            squared = self.W_squared + 2 * s * (B * P).sum(1) + s**2 * (B @ Q * B).sum(1)
            return squared.clamp_min(torch.finfo(torch.float32).tiny).sqrt()  # a row of zeros stays one

    def forward(self, x: Tensor) -> Tensor:
        V_x = F.linear(x, self.base.weight) + self.low_rank(x)
        h = ((self.m / self.norm()) * V_x).to(V_x.dtype)  # under autocast m, in float32, would lift all that follows
        return h if self.base.bias is None else h + self.base.bias.to(h.dtype)

    def effective_weight(self) -> Tensor:
        return (self.m / self.norm()).unsqueeze(1) * super().effective_weight()


@register
@dataclass
class DoRA(LoRA):
    """LoRA's settings, at a slightly lower learning rate as the authors advise (their README)."""

    label: ClassVar[str] = "DoRA"
    layer: ClassVar[type[LoRALinear]] = DoRALinear
    learning_rate: ClassVar[float] = 3e-4
    peft_names: ClassVar[dict[str, str]] = LoRA.peft_names | {"m": "lora_magnitude_vector"}

    name: str = "dora"

    def peft_config(self) -> dict[str, Any]:
        return super().peft_config() | {"use_dora": True}
