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

f lies between D and U, so that no adapter can be merged into the weights beside it: each stays, and takes its time.

Deviations: U starts at zero, so that training starts exactly at the pretrained model; the papers start near it, with small
random numbers. D starts at a standard deviation of 0.02, as the encoders did, not at Houlsby's 0.01. Lin adapt GPT-2, whose
layers begin with their LayerNorms; a layer of BERT ends with one, which the adapter follows.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from core.checks import one_of
from core.errors import UserError
from methods.base import Method, Width, encoder_layers, freeze_encoder, register

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
            dense: the linear layer in front of `base`: d, and the device, are its.
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


def sums(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The modules that end attention's part of a layer and the feed-forward's: LayerNorm(dropout(dense(·)) + x).

    Raises:
        UserError: the layer is not laid out as BERT's.
    """
    attention, output = getattr(getattr(layer, "attention", None), "output", None), getattr(layer, "output", None)
    if hasattr(attention, "LayerNorm") and hasattr(output, "LayerNorm"):
        return attention, output
    kind = type(layer).__name__
    raise UserError(f"adapters know the layers of BERT, RoBERTa and DeBERTa, not {kind}: use another method")


@dataclass
class AdapterMethod(Method):
    """What the three share. LoRA's authors ran adapters on RoBERTa-large at this rate on most tasks (table 9).

    Attributes:
        bottleneck: r.
        activation: relu, gelu or swish; null: that of the paper's or the authors' code.
    """

    layer: ClassVar[type[Adapter]]
    learning_rate: ClassVar[float] = 3e-4

    bottleneck: Width = 64
    activation: Annotated[str | None, one_of(*ACTIVATIONS)] = None

    def layers(self, model: nn.Module) -> Iterable[nn.Module]:
        """The encoder's layers that get adapters."""
        return encoder_layers(model)

    def places(self, layer: nn.Module) -> list[tuple[nn.Module, str]]:
        """What is wrapped, by parent and name."""
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
    """r = 64, the one size that the paper keeps for all of GLUE (section 3.2).

    Attributes:
        layer_norms: train every LayerNorm of the encoder too, as the paper does. By its counts, 0.8M and 6.0M, LoRA's
            table 2 did not.
    """

    label: ClassVar[str] = "Houlsby adapters"
    layer: ClassVar[type[Adapter]] = HoulsbyAdapter

    name: str = "houlsby"
    layer_norms: bool = True

    def places(self, layer: nn.Module) -> list[tuple[nn.Module, str]]:
        return [(part, "dropout") for part in sums(layer)]

    def apply(self, model: nn.Module) -> None:
        super().apply(model)
        for module in model.base_model.modules():
            if self.layer_norms and isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)


@register
@dataclass
class Lin(AdapterMethod):
    """Its authors' sizes go with their tasks, from 10 to 300; r = 64 is ours."""

    label: ClassVar[str] = "Lin adapters"
    layer: ClassVar[type[Adapter]] = LinAdapter

    name: str = "lin"


@register
@dataclass
class Pfeiffer(AdapterMethod):
    """r = 48, a sixteenth of RoBERTa-base's width, as AdapterHub has it."""

    label: ClassVar[str] = "Pfeiffer adapters"
    layer: ClassVar[type[Adapter]] = PfeifferAdapter

    name: str = "pfeiffer"
    bottleneck: Width = 48
