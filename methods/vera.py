"""VeRA (Kopiczko et al. 2023, arXiv 2310.11454): W' = W + Λ_b·B·Λ_d·A, eq. 2.

  A (r, in), B (out, r)  random, frozen, one pair for all layers; a narrower layer takes A's first columns and B's first rows
  d (r)                  trained, starts at 0.1
  b (out)                trained, starts at 0, so that training starts at W

A and B are drawn from `projection_seed` with a separate generator, on the CPU: a run need not save them.

In the paper r exceeds half the layer's width, so ΔW = Λ_b·B·Λ_d·A is not of low rank. For a long enough batch it is then
cheaper to build W + ΔW once a forward pass than to compute r numbers a token; `builds_weight` decides by the shapes.

Deviations: the paper draws a pair for each shape of layer; as in PEFT, one pair of the largest shape is cut to size.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.checks import generator_seed
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
    matching_layers,
    register,
)


class Projections(nn.Module):
    """The shared A and B, Kaiming-uniform; the same bits for the same seed."""

    A: Tensor
    B: Tensor

    def __init__(self, rank: int, in_features: int, out_features: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
            matrix = nn.init.kaiming_uniform_(torch.empty(shape, device="cpu"), generator=generator)
            self.register_buffer(name, matrix, persistent=False)


class VeRALinear(AdaptedLinear):
    """h = W·x + bias + Λ_b·B·Λ_d·A·drop(x)."""

    shared: Projections

    def __init__(self, base: nn.Linear, config: "VeRA", shared: Projections):
        super().__init__(base)
        self.shared = shared
        device = base.weight.device
        self.d = nn.Parameter(torch.full((config.rank,), config.d_initial, device=device))
        self.b = nn.Parameter(torch.zeros(base.out_features, device=device))
        self.dropout = nn.Dropout(config.dropout)

    @property
    def A(self) -> Tensor:
        return self.shared.A[:, : self.in_features]  # (r, in)

    @property
    def B(self) -> Tensor:
        return self.shared.B[: self.out_features]  # (out, r)

    def forward(self, x: Tensor) -> Tensor:
        if self.builds_weight(x):
            return F.linear(x, self.effective_weight(), self.base.bias)
        h = self.d * F.linear(self.dropout(x), self.A)  # (..., in) -> (..., r)
        h = self.b * F.linear(h, self.B)  # (..., r) -> (..., out)
        W_x = self.base(x)
        return W_x + h.to(W_x.dtype)  # under autocast b, in float32, would lift all that follows

    def builds_weight(self, x: Tensor) -> bool:
        """Whether W + ΔW takes fewer multiplications than the path through r, forward and backward.

        Never under dropout, which acts on the path through r, nor under autocast, which would round a small ΔW away.
        """
        if (self.training and self.dropout.p > 0) or torch.is_autocast_enabled(x.device.type):
            return False
        n, r, tokens = self.in_features * self.out_features, len(self.d), x.numel() // self.in_features
        return n * (2 * r + tokens) < 2 * tokens * r * (self.in_features + self.out_features)

    def effective_weight(self) -> Tensor:
        return self.base.weight + self.b.unsqueeze(1) * (self.B @ (self.d.unsqueeze(1) * self.A))


@register
@dataclass
class VeRA(Method):
    """Settings of the paper's RoBERTa-base runs (table 8): r = 1024 on query and value, head and vectors at their own rates.

    Attributes:
        rank: r; it may exceed the layer's width.
        d_initial: the value at which d starts.
        dropout: probability for each element of the low-rank path's input.
        target_modules: pattern (`re.search`) over the names of the encoder's linear layers; `.` takes all of them, the
            default whole names (not DeBERTa's pos_query_proj).
        projection_seed: the seed of A and B; `conf/method/vera.yaml` sets it to the run's seed.
    """

    label: ClassVar[str] = "VeRA"
    learning_rate: ClassVar[float] = 1e-2
    head_learning_rate: ClassVar[float | None] = 4e-3
    peft_names: ClassVar[dict[str, str]] = {"b": "vera_lambda_b", "d": "vera_lambda_d"}
    peft_ignored_keys: ClassVar[tuple[str, ...]] = ("vera_dropout", "d_initial", "save_projection")

    name: str = "vera"
    rank: Width = 1024
    d_initial: float = 0.1
    dropout: Dropout = 0.0
    target_modules: Pattern = QUERY_AND_VALUE
    projection_seed: Annotated[int, generator_seed] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < abs(self.d_initial) <= LARGEST:
            raise UserError(
                f"method.d_initial is {self.d_initial}; it must be within ±{LARGEST:g}, and not 0, so that something trains"
            )

    def apply(self, model: nn.Module) -> None:
        freeze_encoder(model)
        layers = list(matching_layers(model, self.target_modules).values())
        widest_in, widest_out = max(x.in_features for x in layers), max(x.out_features for x in layers)
        shared = Projections(self.rank, widest_in, widest_out, self.projection_seed).to(layers[0].weight.device)
        adapt(model, self.target_modules, lambda base: VeRALinear(base, self, shared))

    def peft_config(self) -> dict[str, Any]:
        return {
            "peft_type": "VERA",
            "r": self.rank,
            "vera_dropout": self.dropout,
            "d_initial": self.d_initial,
            "projection_prng_key": self.projection_seed,
            "save_projection": True,
        }

    def peft_shared(self, model: nn.Module) -> dict[str, Tensor]:
        shared = next(module for module in model.modules() if isinstance(module, Projections))
        return {"base_model.vera_A": shared.A, "base_model.vera_B": shared.B}
