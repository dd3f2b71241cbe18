"""DyLoRA (Valipour et al. 2023, arXiv 2210.07558): LoRA trained once, for every rank from 1 to r.

Each step draws b from 1..r, all equally likely, one for all layers, and its loss is that of rank b (equations 5, 7, 9, 10):

            x  (batch, seq, in)
          ┌─┴─┐
          │   │ W_dw↓b = the first b rows of W_dw (r, in)
       W0 │   │
  frozen  │   │ W_up↓b = the first b columns of W_up (out, r), which starts at zero
          └─+─┘
            h = W0·x + (α / b)·W_up↓b·W_dw↓b·x

  frozen:      only row b of W_dw and column b of W_up learn from that loss
  not frozen:  rows and columns 1 to b all do

Rows and columns are parameters of their own. Those that a step does not train have no gradient in it, so clipping and the
optimizer skip them: weight, moments and step count stay the same.

Deviations: in the authors' code W_dw and W_up are one tensor each, whose other rows get a gradient of zero and still
move, by AdamW's momentum and weight decay. While it trains, that code evaluates at the rank that the last step drew, and
in the end at every rank, on the last weights; we evaluate at `method.eval_rank`, and `scripts/ranks.py` at every rank, on
the state that is best at `eval_rank`. The paper draws W_dw from a Gaussian, the code Kaiming-uniform, as here. The paper
also draws b geometrically (p = 0.15), and has a least rank, r_min; here it is 1, as in the code, and all ranks are
equally likely. The code scales each factor by √(r / b) and their product by α / r, which is the same. We do not know in
which mode the paper's main table was trained: the authors' `run_glue.py` always has `frozen=True`, but in the paper's
ablation (table 4) not frozen is better. We know the paper by others' notes; the authors' code we have read.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.checks import number
from core.errors import UserError
from core.seeding import named_seed
from methods.base import register
from methods.lora import Alpha, LoRA, LoRALinear


def cut(A: Tensor, B: Tensor) -> dict[str, Tensor]:
    """The rows of A (r, in) as A1, A2, ..., and the columns of B (out, r) as B1, B2, ..."""
    rows = {f"A{i}": row for i, row in enumerate(A.split(1), start=1)}
    return rows | {f"B{i}": column for i, column in enumerate(B.split(1, dim=1), start=1)}


def join(parts: dict[str, Tensor], b: int) -> tuple[Tensor, Tensor]:
    """The first b rows and columns as A (b, in) and B (out, b)."""
    A, B = ([parts[f"{letter}{i}"] for i in range(1, b + 1)] for letter in "AB")
    return torch.cat(A), torch.cat(B, dim=1)


class DyLoRALinear(LoRALinear):
    """h = W0·x + bias + (α / b)·W_up↓b·W_dw↓b·drop(x), b being `drawn` in training, `eval_rank` in evaluation."""

    def __init__(self, base: nn.Linear, config: "DyLoRA"):
        super().__init__(base, config)
        parts = cut(self.A.detach(), self.B.detach())
        del self.A, self.B, self.scale
        for name, part in parts.items():
            self.register_parameter(name, nn.Parameter(part.clone()))
        self.drawn, self.eval_rank, self.frozen = config.rank, config.eval_rank or config.rank, config.frozen
        self.scales = [replace(config, rank=b, eval_rank=None).scale for b in range(1, config.rank + 1)]

    def factors(self, is_step: bool) -> tuple[Tensor, Tensor]:
        """W_dw↓b (b, in) and (α / b)·W_up↓b (out, b)."""
        b = self.drawn if is_step else self.eval_rank
        parts: dict[str, Tensor] = dict(self.named_parameters(recurse=False))
        if is_step and self.frozen:
            parts = {name: part if name[1:] == str(b) else part.detach() for name, part in parts.items()}
        # evaluation joins all ranks and then cuts: the check before training (training/probe.py) freezes what has no gradient
        A, B = join(parts, b if is_step else len(self.scales))
        return A[:b], self.scales[b - 1] * B[:, :b]

    def low_rank(self, x: Tensor) -> Tensor:
        A, B = self.factors(is_step=self.training)
        return F.linear(F.linear(self.dropout(x), A), B)

    def effective_weight(self) -> Tensor:
        A, B = self.factors(is_step=False)
        return self.base.weight + B @ A


@register
@dataclass
class DyLoRA(LoRA):
    """The authors' settings for RoBERTa-base: r = 8, alpha = 16, frozen (scripts); one rate, 4e-4 (the paper's table 8).

    Attributes:
        frozen: a step trains row and column b alone, not 1 to b.
        eval_rank: the rank of evaluations, of the merged model and of the adapter in PEFT's format; null: r.
    """

    label: ClassVar[str] = "DyLoRA"
    layer: ClassVar[type[LoRALinear]] = DyLoRALinear
    trains_parts: ClassVar[bool] = True

    name: str = "dylora"
    alpha: Alpha = 16.0
    frozen: bool = True
    eval_rank: Annotated[int | None, number(at_least=1)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.eval_rank or 1) > self.rank:
            raise UserError(f"method.eval_rank is {self.eval_rank}; it must be at most method.rank, {self.rank}")

    def before_step(self, model: nn.Module, step: int, seed: int) -> None:
        for layer in layers(model):
            layer.drawn = 1 + named_seed(seed, f"rank/{step}") % self.rank

    @property
    def ranks(self) -> list[int]:
        return list(range(1, self.rank + 1))

    def evaluate_at(self, model: nn.Module, rank: int) -> None:
        for layer in layers(model):
            layer.eval_rank = rank

    def peft_config(self) -> dict[str, Any]:
        return super().peft_config() | {"r": self.eval_rank or self.rank}

    def to_peft(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.peft_names.values(), join(own, self.eval_rank or self.rank), strict=True))

    def from_peft(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        A, B = (theirs[name] for name in self.peft_names.values())
        r = self.eval_rank or self.rank
        if (A.shape[:1], B.shape[1:]) != ((r,), (r,)):
            raise UserError(f"lora_A and lora_B have shapes {tuple(A.shape)} and {tuple(B.shape)}: the rank is not {r}")
        return cut(A, B)


def layers(model: nn.Module) -> list[DyLoRALinear]:
    return [module for module in model.modules() if isinstance(module, DyLoRALinear)]
