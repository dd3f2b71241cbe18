"""LoRA (Hu et al. 2021, arXiv 2106.09685): W' = W + s·B·A, section 4.1.

            x  (batch, seq, in)
          ┌─┴─┐
          │   │ A  (rank, in)    Kaiming-uniform
        W │   │
  frozen  │   │ B  (out, rank)   zero, so that training starts at W
          └─+─┘
            h = W·x + s·B·A·x,  s = alpha / rank, or alpha / √rank (rank-stabilised, arXiv 2312.03732)

Deviations: the paper draws A from a Gaussian; the authors' code and PEFT draw it Kaiming-uniform with a = √5, which is
the default here (`init_A=gaussian`: standard deviation 1 / rank, as in PEFT).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.checks import number, one_of
from core.errors import UserError
from methods.base import (
    LARGEST,
    QUERY_AND_VALUE,
    AdaptedLinear,
    Dropout,
    Method,
    Pattern,
    Width,
    adapt,
    freeze_encoder,
    register,
)

Alpha = Annotated[float, number(above=0, at_most=LARGEST)]


def draw(factor: Tensor, init: str, rank: int) -> Tensor:
    """Fills A (rank, in), or a B (out, rank) that does not start at zero, in place from torch's generator."""
    if init == "gaussian":
        return nn.init.normal_(factor, std=1 / rank)
    return nn.init.kaiming_uniform_(factor, a=math.sqrt(5))


class LoRALinear(AdaptedLinear):
    """h = W·x + b + s·B·A·drop(x)."""

    A: Tensor
    B: Tensor
    scale: float

    def __init__(self, base: nn.Linear, config: "LoRA"):
        super().__init__(base)
        if config.rank > (limit := min(base.in_features, base.out_features)):
            raise UserError(
                f"method.rank is {config.rank}; an adapted layer has {limit} dimensions: choose at most that"
            )
        device, dtype = base.weight.device, torch.float32
        A = torch.empty(config.rank, base.in_features, device=device, dtype=dtype)
        self.A = nn.Parameter(draw(A, config.init_A, config.rank))
        self.B = nn.Parameter(torch.zeros(base.out_features, config.rank, device=device, dtype=dtype))
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.scale

    def low_rank(self, x: Tensor) -> Tensor:
        """s·B·A·drop(x)."""
        return self.scale * F.linear(F.linear(self.dropout(x), self.A), self.B)  # (..., in) -> (..., r) -> (..., out)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.low_rank(x)

    def effective_weight(self) -> Tensor:
        return self.base.weight + self.scale * self.B @ self.A


@register
@dataclass
class LoRA(Method):
    """Settings of the paper's RoBERTa-base runs (table 9): r = alpha = 8 on query and value.

    Attributes:
        rank: r.
        alpha: numerator of the scale.
        dropout: probability for each element of the low-rank path's input.
        target_modules: pattern (`re.search`) over the names of the encoder's linear layers; `.` takes all of them, the
            default whole names (not DeBERTa's pos_query_proj).
        rank_stabilized: s = alpha / √rank in place of alpha / rank.
        init_A: kaiming or gaussian, of the factor that does not start at zero.
    """

    label: ClassVar[str] = "LoRA"
    layer: ClassVar[type[LoRALinear]] = LoRALinear
    learning_rate: ClassVar[float] = 4e-4
    peft_names: ClassVar[dict[str, str]] = {"A": "lora_A.weight", "B": "lora_B.weight"}
    peft_ignored_keys: ClassVar[tuple[str, ...]] = ("lora_dropout",)

    name: str = "lora"
    rank: Width = 8
    alpha: Alpha = 8.0
    dropout: Dropout = 0.0
    target_modules: Pattern = QUERY_AND_VALUE
    rank_stabilized: bool = False
    init_A: Annotated[str, one_of("kaiming", "gaussian")] = "kaiming"

    @property
    def scale(self) -> float:
        """s, the factor of B·A·x."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def apply(self, model: nn.Module) -> None:
        freeze_encoder(model)
        adapt(model, self.target_modules, lambda base: self.layer(base, self))

    def peft_config(self) -> dict[str, Any]:
        return {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rank_stabilized,
            "use_dora": False,
        }
