"""Our methods against `peft` and bitsandbytes with the same weights: logits, and gradients of every trained tensor."""

import pytest
import torch
from support.tiny import adapted_layers, shake, tiny_inputs, tiny_model

from methods.base import head_prefixes
from methods.dora import DoRA
from methods.lora import LoRA
from methods.lora_fa import LoRAFA
from methods.qlora import Linear4bit, QLoRA
from methods.vera import VeRA

peft = pytest.importorskip("peft", reason="peft is in requirements-dev.txt")
bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is in requirements.txt")

TARGETS = r".*\.(query|value)"
ALL_LINEAR = r".*\.(query|key|value|attention\.output\.dense|intermediate\.dense|output\.dense)"
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def copy_lora(ours, theirs) -> None:
    theirs.lora_A["default"].weight.data.copy_(ours.A)
    theirs.lora_B["default"].weight.data.copy_(ours.B)


def copy_dora(ours, theirs) -> None:
    copy_lora(ours, theirs)
    theirs.lora_magnitude_vector["default"].weight.data.copy_(ours.m)


def copy_vera(ours, theirs) -> None:
    theirs.vera_lambda_d["default"].data.copy_(ours.d)
    theirs.vera_lambda_b["default"].data.copy_(ours.b)
    theirs.vera_A["default"].data.copy_(ours.shared.A)
    theirs.vera_B["default"].data.copy_(ours.shared.B)


def lora_gradients(ours, theirs):
    yield ours.A.grad, theirs.lora_A["default"].weight.grad
    yield ours.B.grad, theirs.lora_B["default"].weight.grad


def lora_fa_gradients(ours, theirs):
    yield ours.B.grad, theirs.lora_B["default"].weight.grad


def dora_gradients(ours, theirs):
    yield from lora_gradients(ours, theirs)
    yield ours.m.grad, theirs.lora_magnitude_vector["default"].weight.grad


def vera_gradients(ours, theirs):
    yield ours.d.grad, theirs.vera_lambda_d["default"].grad
    yield ours.b.grad, theirs.vera_lambda_b["default"].grad


def lora_config(**settings):
    return peft.LoraConfig(r=4, task_type="SEQ_CLS", modules_to_save=["classifier", "pooler"], **settings)


CASES = {
    "lora": (LoRA(rank=4, alpha=6), lora_config(lora_alpha=6, target_modules=TARGETS), copy_lora, lora_gradients),
    "lora_all": (
        LoRA(rank=4, alpha=6, target_modules=".", rank_stabilized=True),
        lora_config(lora_alpha=6, target_modules=ALL_LINEAR, use_rslora=True),
        copy_lora,
        lora_gradients,
    ),
    "dora": (
        DoRA(rank=4, alpha=6),
        lora_config(lora_alpha=6, target_modules=TARGETS, use_dora=True),
        copy_dora,
        dora_gradients,
    ),
    "dora_all": (
        DoRA(rank=4, alpha=6, target_modules="."),
        lora_config(lora_alpha=6, target_modules=ALL_LINEAR, use_dora=True),
        copy_dora,
        dora_gradients,
    ),
    "lora_fa": (
        LoRAFA(rank=4, alpha=6),
        lora_config(lora_alpha=6, target_modules=TARGETS),
        copy_lora,
        lora_fa_gradients,
    ),
    "vera": (
        VeRA(rank=40),
        peft.VeraConfig(r=40, target_modules=TARGETS, task_type="SEQ_CLS", modules_to_save=["classifier", "pooler"]),
        copy_vera,
        vera_gradients,
    ),
    "vera_all": (
        VeRA(rank=40, target_modules="."),
        peft.VeraConfig(r=40, target_modules=ALL_LINEAR, task_type="SEQ_CLS", modules_to_save=["classifier", "pooler"]),
        copy_vera,
        vera_gradients,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_pefts(case, architecture):
    method, config, copy, gradients = CASES[case]
    ours, base = tiny_model(architecture), tiny_model(architecture)
    method.apply(ours)
    shake(ours)
    theirs = peft.get_peft_model(base, config).eval()
    matched = [m for m in theirs.modules() if hasattr(m, "base_layer") and isinstance(m.base_layer, torch.nn.Linear)]
    pairs = list(zip(adapted_layers(ours), matched, strict=True))
    for one, other in pairs:
        copy(one, other)
    outputs = []
    for model in (ours, theirs):
        logits = model(**tiny_inputs()).logits
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
        outputs.append(logits)
    torch.testing.assert_close(*outputs, **TOLERANCE)
    compared = 0
    for one, other in pairs:
        for gradient, reference in gradients(one, other):
            assert reference.abs().max() > 0
            torch.testing.assert_close(gradient, reference, **TOLERANCE)
            compared += 1
    assert compared >= 4
    for name, parameter in ours.named_parameters():
        if name.startswith(head_prefixes(ours)):
            wrapped = f"base_model.model.{name}"
            *parents, last = wrapped.split(".")
            reference = next(
                p
                for n, p in theirs.named_parameters()
                if "modules_to_save" in n and n.replace("modules_to_save.default.", "") == wrapped
            )
            torch.testing.assert_close(parameter.grad, reference.grad, **TOLERANCE, msg=f"{parents} {last}")


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_4_bit_layer_equals_bitsandbytes_own(quant_type, double_quant, bias):
    torch.manual_seed(0)
    base = torch.nn.Linear(64, 96, bias=bias)
    reference = bnb.nn.Linear4bit(64, 96, bias=bias, quant_type=quant_type, compress_statistics=double_quant)
    reference.load_state_dict(base.state_dict())
    reference = reference.to("cpu")  # bitsandbytes quantizes on a move
    ours = Linear4bit(base, QLoRA(quant_type=quant_type, double_quant=double_quant))
    dequantized = bnb.functional.dequantize_4bit(reference.weight.data, reference.weight.quant_state)
    assert torch.equal(ours.weight, dequantized)
    assert not torch.equal(ours.weight, base.weight)
    x, y = (torch.randn(5, 64, generator=torch.Generator().manual_seed(1), requires_grad=True) for _ in range(2))
    ours(x).square().sum().backward()
    reference(y).square().sum().backward()
    torch.testing.assert_close(ours(x), reference(y), **TOLERANCE)
    torch.testing.assert_close(x.grad, y.grad, **TOLERANCE)


def test_qloras_weights_take_four_bits():
    from training.meters import weight_bytes

    base = torch.nn.Linear(1024, 1024)
    for double_quant, bits in ((False, 4 + 32 / 64), (True, 4 + 8 / 64 + 32 / (64 * 256))):
        layer = Linear4bit(base, QLoRA(double_quant=double_quant))
        tables = 4 * (16 + (256 + 1) * double_quant)  # the codes, and the mean of the scales
        assert weight_bytes(layer) == 1024 * 1024 * bits / 8 + 4 * 1024 + tables
