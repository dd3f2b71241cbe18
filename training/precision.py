"""How weights are kept in a bf16 run."""

import torch
from torch import nn

from methods.base import AdaptedLinear, checksum


def round_frozen(model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
    """Stores the frozen weights and biases of `nn.Linear` layers in the precision that autocast multiplies them in, in place.

    Autocast would cast a frozen weight again in every pass, and keep the copy for the backward pass; with the copy in the
    weight's place the same bits come out, and the weight takes half the memory. What trains stays in fp32, and so does a
    base that its method reads outside of the product (`AdaptedLinear.reads_base`).
    """
    adapted = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    unchanged = [layer for layer in adapted if torch.equal(checksum(layer.base.weight), layer.pretrained)]
    exact = {layer.base for layer in adapted if layer.reads_base}
    for module in model.modules():
        if type(module) is nn.Linear and module not in exact:
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
    for layer in unchanged:
        layer.pretrained = checksum(layer.base.weight)
