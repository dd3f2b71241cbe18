"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): h = dequant(W₄)·x + b + s·B·A·drop(x), eq. 5.

W₄ holds 4 bits a weight in blocks of 64 with one scale each (NF4, or FP4), the scales quantized once more to 8 bits
(double quantization, section 3). Every linear layer of the encoder is quantized; the head stays in floating point. The
quantization and the product with its backward pass are bitsandbytes' own; W is dequantized in each pass, never kept.

Deviations: the paper's AdamW is paged; paging changes where the moments are stored, not their values, and is left out.
Adapted layers merge into the dequantized float weight: rounding W₄ + s·B·A to 4 bits again would lose the update.
"""

import logging
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from core.checks import one_of
from core.errors import UserError
from methods.base import ALL_LINEAR, Pattern, as_linear, linear_layers, register, replace
from methods.lora import LoRA

QUANT_TYPES = ("nf4", "fp4")
# it warns of missing inference kernels that training never calls
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _bitsandbytes():
    """The library, or a sentence that says how to get it."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(f"method=qlora needs bitsandbytes ({error}): pip install -r requirements.txt") from error
    return bitsandbytes


class Linear4bit(nn.Module):
    """A frozen linear layer whose weight is kept in 4 bits.

    bitsandbytes' own layer repacks its weight at the first evaluation on some CPUs, and training would go on with another
    rounding than a resumed run. Here the packed weight never changes.
    """

    def __init__(self, base: nn.Linear, config: "QLoRA"):
        super().__init__()
        self.in_features, self.out_features, self.bias = base.in_features, base.out_features, base.bias
        packed, self.quant_state = _bitsandbytes().functional.quantize_4bit(
            base.weight.detach(), quant_type=config.quant_type, compress_statistics=config.double_quant
        )
        self.register_buffer("packed", packed, persistent=False)  # uint8, two weights a byte
        for name, (owner, attribute) in self._scales().items():
            self.register_buffer(name, getattr(owner, attribute), persistent=False)

    def _scales(self) -> dict[str, tuple[object, str]]:
        """Where the quantization state keeps its tensors: the scales, and with double quantization the scales' scales."""
        state = self.quant_state
        scales = {"absmax": (state, "absmax"), "code": (state, "code")}
        if state.nested:
            nested = {"offset": (state, "offset"), "absmax2": (state.state2, "absmax"), "code2": (state.state2, "code")}
            scales |= nested
        return scales

    @property
    def weight(self) -> Tensor:
        """The dequantized weight (out, in)."""
        return _bitsandbytes().functional.dequantize_4bit(self.packed, self.quant_state)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):  # which does not reach into a custom autograd function
            x = x.to(torch.get_autocast_dtype(x.device.type))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return _bitsandbytes().matmul_4bit(x, self.packed, self.quant_state, bias=bias)

    def merged(self) -> nn.Linear:
        """The same layer in float."""
        return as_linear(self.weight, self.bias)

    def _apply(self, fn, recurse=True):
        """Moves the scales with the layer, but never changes their type: in another type they would be wrong."""
        before = {name: getattr(self, name) for name in self._scales()}
        super()._apply(fn, recurse)
        for name, (owner, attribute) in self._scales().items():
            moved = before[name].to(self.packed.device)
            setattr(self, name, moved)
            setattr(owner, attribute, moved)
        return self


@register
@dataclass
class QLoRA(LoRA):
    """LoRA's rank and rate, on every linear layer, over a 4-bit encoder.

    Attributes:
        quant_type: nf4 or fp4.
        double_quant: quantize the scales too.
    """

    label: ClassVar[str] = "QLoRA"

    name: str = "qlora"
    target_modules: Pattern = ALL_LINEAR
    quant_type: Annotated[str, one_of(*QUANT_TYPES)] = "nf4"
    double_quant: bool = True

    def apply(self, model: nn.Module) -> None:
        super().apply(model)  # wraps the float layers, whose weights the next lines then quantize
        for name, layer in list(linear_layers(model)):
            replace(model, name, Linear4bit(layer, self))
