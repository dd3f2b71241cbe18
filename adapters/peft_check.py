"""Whether PEFT computes from an adapter what our layers compute; checked before any adapter is written."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import AdaptedLinear, Method, checksum


def _lora(W: Tensor, config: dict[str, Any], own: dict[str, Tensor], _: dict[str, Tensor]) -> Tensor:
    """PEFT's `LoraLayer`: W + s·B·A; with `use_dora` the rows of that, scaled to the magnitudes m."""
    s = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    V = W + s * own["lora_B.weight"] @ own["lora_A.weight"]
    return own["lora_magnitude_vector"].unsqueeze(1) * V / V.norm(dim=1, keepdim=True) if config["use_dora"] else V


def _vera(W: Tensor, _: dict[str, Any], own: dict[str, Tensor], shared: dict[str, Tensor]) -> Tensor:
    """PEFT's `VeraLayer`: W + Λ_b·B·Λ_d·A, A and B cut to the layer's size."""
    A, B = shared["base_model.vera_A"][:, : W.shape[1]], shared["base_model.vera_B"][: W.shape[0]]
    return W + own["vera_lambda_b"].unsqueeze(1) * (B @ (own["vera_lambda_d"].unsqueeze(1) * A))


FORMULAS: dict[str, Callable[..., Tensor]] = {"LORA": _lora, "VERA": _vera}  # by PEFT's type


@torch.no_grad()
def difference(model: nn.Module, method: Method) -> str | None:
    """Why PEFT would not compute what the model does; None if it would.

    A subclass of LoRA inherits LoRA's names in PEFT, and with them the claim that PEFT loads it. So each adapted layer's
    effective weight is compared with PEFT's formula on the same tensors and with what the layer computes, and its base with
    what it was before the method was applied. A base in 4 bits is as PEFT's own would be, and is not compared.
    """
    config, shared = method.peft_config(), method.peft_shared(model)
    formula = FORMULAS.get(config["peft_type"])
    if formula is None:
        return f"PEFT's formula for {config['peft_type']} is not in adapters/peft_check.py"
    for name, layer in model.named_modules():
        if not isinstance(layer, AdaptedLinear):
            continue
        if isinstance(layer.base, nn.Linear) and not torch.equal(
            checksum(layer.base.weight).cpu(), layer.pretrained.cpu()
        ):
            return f"method={method.name} changes the pretrained weight of {name}, on which PEFT puts its adapter"
        own = method.to_peft({name: tensor for name, tensor in layer.state_dict().items() if "." not in name})
        weight = layer.effective_weight()
        theirs = formula(layer.base.weight.float(), config, own, shared)
        if not torch.allclose(theirs, weight, rtol=1e-4, atol=1e-5 * float(weight.abs().max())):
            return f"PEFT would compute another weight than method={method.name} for {name}"
        if type(layer.base) is nn.Linear and not computes(layer, weight):
            return (
                f"{name} does not compute with its effective_weight(), of which PEFT would make its own: correct "
                f"effective_weight() of method={method.name}"
            )
    return None


def computes(layer: AdaptedLinear, weight: Tensor) -> bool:
    """Whether the layer's output in evaluation is that of one linear layer with this weight (out, in), up to rounding."""
    plain = copy.deepcopy(layer).float().eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, weight.shape[1], generator=generator).to(weight.device)
    expected = F.linear(x, weight, plain.base.bias)
    return torch.allclose(plain(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
