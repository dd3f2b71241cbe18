"""Bottleneck adapters: U·f(D·h + b) + c, with D (r, d) and U (d, r), added to h at a place of the encoder.

Three papers, three places, in the names of BERT's modules:

  houlsby   Houlsby et al. 2019, arXiv 1902.00751, figure 2: in attention's part and in the feed-forward's, before each sum

              x ─┬─ attention ─ dense ─ dropout ─ h ─┬──────── + ─ + ─ LayerNorm     the LayerNorms train too
                 │                                   └ U·f·D ──┘   │
                 └─────────────────────────────────────────────────┘

  lin       Lin et al. 2020, arXiv 2004.03829: after the whole layer, with a LayerNorm of its own

              x ─ layer ─ h ─┬─────────────────── + ─
                             └ LayerNorm ─ U·f·D ┘

  pfeiffer  Pfeiffer et al. 2020, arXiv 2005.00247, as AdapterHub has it: the feed-forward's LayerNorm comes twice, in front
            of the adapter and behind it

              x ─┬─ feed-forward ─ + ─ s ─┬──────────────────────── + ─ LayerNorm
                 └─────────────────┘      └ LayerNorm ─ U·f·D ─────┘

f lies between D and U, so an adapter cannot be merged into the weights beside it and costs time at inference.

Deviations: U starts at zero, so that training starts exactly at the pretrained model; the papers start with small random
numbers. D starts with a standard deviation of 0.02, as BERT's weights did, where Houlsby has 0.01. Lin et al. adapt GPT-2,
whose layers begin with a LayerNorm; a layer of BERT ends with one, and the adapter follows it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import signature
from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from core.checks import one_of
from core.errors import UserError
from methods.base import Method, Width, encoder_layers, freeze_encoder, norms, register

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "swish": F.silu}


class Adapter(nn.Module):
    """Wraps the module `base`, whose output is (..., d).

    Attributes:
        activation: f, unless the settings name another.
    """

    activation: ClassVar[str] = "relu"

    def __init__(self, base: nn.Module, dense: nn.Linear, config: "AdapterMethod"):
        """
        Args:
            dense: the linear layer in front of `base`; it gives d and the device.
        """
        super().__init__()
        width, device = dense.out_features, dense.weight.device
        self.base, self.f = base, ACTIVATIONS[config.activation or self.activation]
        self.down = nn.Linear(width, config.bottleneck, device=device)
        self.up = nn.Linear(config.bottleneck, width, device=device)
        nn.init.normal_(self.down.weight, std=0.02)
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def bottleneck(self, h: Tensor) -> Tensor:
        """U·f(D·h + b) + c."""
        return self.up(self.f(self.down(h)))  # (..., d) -> (..., r) -> (..., d)


class HoulsbyAdapter(Adapter):
    """h + U·f(D·h), h = dropout(dense(·)); f is GELU, as in the authors' code."""

    activation: ClassVar[str] = "gelu"

    def forward(self, x: Tensor) -> Tensor:
        h = self.base(x)
        return h + self.bottleneck(h)


class LinAdapter(Adapter):
    """h + U·f(D·norm(h)), h = LayerNorm(s) the layer's output."""

    def __init__(self, base: nn.Module, dense: nn.Linear, config: "AdapterMethod"):
        super().__init__(base, dense, config)
        self.norm = nn.LayerNorm(dense.out_features, device=dense.weight.device)

    def forward(self, s: Tensor) -> Tensor:
        h = self.base(s)
        return h + self.bottleneck(self.norm(h))


class PfeifferAdapter(Adapter):
    """LayerNorm(s + U·f(D·LayerNorm(s))), s the sum in front of the layer's last LayerNorm."""

    def forward(self, s: Tensor) -> Tensor:
        return self.base(s + self.bottleneck(self.base(s)))


def sums(layer: nn.Module) -> tuple[Any, Any]:
    """The modules that end attention's part of a layer and the feed-forward's: LayerNorm(dropout(dense(·)) + x).

    Raises:
        UserError: the layer is not laid out as BERT's.
    """
    parts = getattr(getattr(layer, "attention", None), "output", None), getattr(layer, "output", None)
    for part in parts:
        for name in ("dense", "dropout", "LayerNorm"):
            module = getattr(part, name, None)
            if module is None or len(signature(module.forward).parameters) != 1:  # I-BERT's take scales too
                raise UserError(
                    f"adapters need layers laid out as BERT's; {type(layer).__name__} is not: use another method"
                )
    return parts


@dataclass
class AdapterMethod(Method):
    """Settings that the three papers share. LoRA's authors use this rate for adapters on most tasks (table 9).

    Attributes:
        bottleneck: r.
        activation: relu, gelu or swish; null: the paper's own.
    """

    layer: ClassVar[type[Adapter]]
    learning_rate: ClassVar[float] = 3e-4

    bottleneck: Width = 64
    activation: Annotated[str | None, one_of(*ACTIVATIONS)] = None

    def layers(self, model: nn.Module) -> Iterable[nn.Module]:
        """The encoder's layers that get adapters."""
        return encoder_layers(model)

    def places(self, layer: nn.Module) -> list[tuple[Any, str]]:
        """The modules of a layer that adapters wrap, as (parent, attribute)."""
        _, output = sums(layer)
        return [(output, "LayerNorm")]

    def apply(self, model: nn.Module) -> None:
        freeze_encoder(model)
        for parent, name in [place for layer in self.layers(model) for place in self.places(layer)]:
            base = getattr(parent, name)
            setattr(parent, name, self.layer(base, parent.dense, self).train(base.training))


@register
@dataclass
class Houlsby(AdapterMethod):
    """r = 64, the size that the paper uses when one size serves all of GLUE (section 3.2).

    Attributes:
        layer_norms: train every LayerNorm of the encoder too, as the paper does. By its counts, 0.8M and 6.0M, LoRA's
            table 2 did not.
    """

    label: ClassVar[str] = "Houlsby adapters"
    layer: ClassVar[type[Adapter]] = HoulsbyAdapter

    name: str = "houlsby"
    layer_norms: bool = True

    def places(self, layer: nn.Module) -> list[tuple[Any, str]]:
        return [(part, "dropout") for part in sums(layer)]

    def apply(self, model: nn.Module) -> None:
        super().apply(model)
        if self.layer_norms:
            for norm in norms(model):
                norm.requires_grad_(True)


@register
@dataclass
class Lin(AdapterMethod):
    """The authors choose r by task, from 10 to 300; r = 64 is ours."""

    label: ClassVar[str] = "Lin adapters"
    layer: ClassVar[type[Adapter]] = LinAdapter

    name: str = "lin"


@register
@dataclass
class Pfeiffer(AdapterMethod):
    """r = 48, a sixteenth of RoBERTa-base's width: AdapterHub's default."""

    label: ClassVar[str] = "Pfeiffer adapters"
    layer: ClassVar[type[Adapter]] = PfeifferAdapter

    name: str = "pfeiffer"
    bottleneck: Width = 48
