"""Delta-LoRA (Zi et al. 2023, arXiv 2309.02411): LoRA whose W moves too, by λ times each step's change of B·A.

            x  (batch, seq, in)
          ┌─┴─┐
          │   │ A  (rank, in)       trained, as in LoRA
        W │   │ B  (out, rank)      trained, zero at the start
          └─+─┘
            h = W·x + s·B·A·x

  W(t+1) = W(t) + λ·s·(B(t+1)·A(t+1) - B(t)·A(t))   if t > K      (algorithm 1; t counts from 0, s = alpha / rank)

W gets no gradient and has no moments: only the optimizer's step, with its moments and weight decay, moves it. There is no
dropout before A, so that the gradient of B·A is that of W.

The changes telescope. With A_K and B_K, the factors after step K + 1, the last one before W moves,

  W(t) = W(0) + λ·s·(B(t)·A(t) - B_K·A_K)

and the merged weight is W(0) + (1 + λ)·s·B·A - λ·s·B_K·A_K. So the layer keeps W(0) as it is and computes the move from the
two pairs, the present one without gradient. A saved state has four small matrices a layer and no W, the move is never rounded
to W's precision, and PEFT loads the adapter as LoRA of rank 2·rank. Until W moves, A_K and B_K follow A and B.

Deviations: none in the formulas that we know of. No authors' code was released, and we know the paper by its algorithm
and by what others quote of it: λ = 2, K = 500, rank 8. The paper writes the product as A·B and draws its A at random; we
do not know on which side of x its A stands, and take it as LoRA's A, beside x. Its alpha, rates, batch sizes, epochs and
adapted layers for RoBERTa-base are not known here: LoRA's are used. We do not know whether λ and K differ between tasks
there. A run that begins from a Delta-LoRA adapter whose W has moved goes on moving it from its first step, without
waiting for K.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.checks import number
from core.errors import UserError
from methods.base import register
from methods.lora import LoRA, LoRALinear


class DeltaLoRALinear(LoRALinear):
    """h = W(0)·x + bias + s·B·A·x + λ·s·(B·A - B_K·A_K)·x, the last term without gradient for A and B.

    Attributes:
        A_K, B_K: (rank, in) and (out, rank): the factors from which W began to move; the present ones until then.
        follows: whether A_K and B_K follow A and B, a tensor, so that no step waits; None: before this process's first step.
    """

    A_K: Tensor
    B_K: Tensor

    def __init__(self, base: nn.Linear, config: "DeltaLoRA"):
        super().__init__(base, config)
        self.register_buffer("A_K", self.A.detach().clone())
        self.register_buffer("B_K", self.B.detach().clone())
        self.follows: Tensor | None = None
        self.move_scale = config.update_ratio * config.scale  # λ·s

    def low_rank(self, x: Tensor) -> Tensor:
        now = F.linear(F.linear(x, self.A.detach()), self.B.detach())
        start = F.linear(F.linear(x, self.A_K), self.B_K)
        return super().low_rank(x) + self.move_scale * (now - start)  # exactly 0 until W moves

    def effective_weight(self) -> Tensor:
        return super().effective_weight() + self.move_scale * (self.B @ self.A - self.B_K @ self.A_K)


@register
@dataclass
class DeltaLoRA(LoRA):
    """λ and K as others quote them, and LoRA's settings for all else: r = alpha = 8 on query and value.

    Attributes:
        update_ratio: λ.
        start_steps: K; W moves from the optimizer's step K + 2 on, counted from 1. A run that is shorter is LoRA.
    """

    label: ClassVar[str] = "Delta-LoRA"
    layer: ClassVar[type[LoRALinear]] = DeltaLoRALinear

    name: str = "delta_lora"
    update_ratio: Annotated[float, number(above=0, at_most=1e6)] = 2.0
    start_steps: Annotated[int, number(at_least=0)] = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout:
            raise UserError(
                f"method.dropout is {self.dropout}; Delta-LoRA has none: with it W would move by another gradient"
            )

    def before_step(self, model: nn.Module, step: int, seed: int) -> None:
        for layer in layers(model):
            if layer.follows is None:
                layer.follows = (layer.A == layer.A_K).all() & (layer.B == layer.B_K).all()

    def after_step(self, model: nn.Module, step: int) -> None:
        for layer in layers(model) if step <= self.start_steps + 1 else []:
            for kept, now in ((layer.A_K, layer.A.detach()), (layer.B_K, layer.B.detach())):
                kept.copy_(now if layer.follows is None else torch.where(layer.follows, now, kept))

    def peft_config(self) -> dict[str, Any]:
        """LoRA of twice the rank, with the same s."""
        alpha = self.alpha * (2**0.5 if self.rank_stabilized else 2)
        return super().peft_config() | {"r": 2 * self.rank, "lora_alpha": alpha}

    def to_peft(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        B, B_K = (1 + self.update_ratio) * own["B"], -self.update_ratio * own["B_K"]
        return dict(
            zip(self.peft_names.values(), (torch.cat([own["A"], own["A_K"]]), torch.cat([B, B_K], 1)), strict=True)
        )

    def from_peft(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        A, B = (theirs[name] for name in self.peft_names.values())
        r = self.rank
        if (A.shape[:1], B.shape[1:]) != ((2 * r,), (2 * r,)):
            raise UserError(
                f"lora_A and lora_B have shapes {tuple(A.shape)} and {tuple(B.shape)}: the rank is not {2 * r}"
            )
        own = {"A": A[:r], "A_K": A[r:], "B": B[:, :r] / (1 + self.update_ratio), "B_K": B[:, r:] / -self.update_ratio}
        return {name: tensor.contiguous() for name, tensor in own.items()}


def layers(model: nn.Module) -> list[DeltaLoRALinear]:
    return [module for module in model.modules() if isinstance(module, DeltaLoRALinear)]
