"""In a bf16 run frozen weights are stored as bf16: the same bits come out, from half the memory."""

import pytest
import torch
from support.tiny import METHODS, encoded, shake, tiny_inputs, tiny_model

from adapters.peft_check import difference
from methods.base import AdaptedLinear, linear_layers, merge, trained_state
from methods.full import Full
from methods.lora import LoRA, LoRALinear
from models.packed import forward_path
from training.meters import activation_bytes, weight_bytes, weight_types
from training.precision import round_frozen


def adapted(method, dropout: float = 0.0) -> torch.nn.Module:
    """The same bits each time; a copy would share hooks with its original."""
    model = tiny_model(dropout=dropout)
    torch.manual_seed(0)
    method.apply(model)
    shake(model)
    return model


def gradients(model: torch.nn.Module, forward: str) -> dict[str, torch.Tensor]:
    """The logits and every gradient of a training step under autocast."""
    path, data = forward_path(model.train(), forward), encoded("roberta")
    batch = path.collate(data, list(range(6)))
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = path(batch)
        torch.nn.functional.cross_entropy(logits.float(), batch.labels).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach()} | grads


@pytest.mark.parametrize("forward", ["packed", "padded"])
def test_rounded_frozen_weights_give_the_same_bits(method, forward):
    rounded = adapted(method, dropout=0.1)
    round_frozen(rounded)
    expected, got = gradients(adapted(method, dropout=0.1), forward), gradients(rounded, forward)
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_what_trains_stays_in_fp32_and_all_else_that_is_multiplied_is_bf16(method):
    model = tiny_model()
    method.apply(model)
    round_frozen(model)
    exact = {module.base for module in model.modules() if isinstance(module, AdaptedLinear) and module.reads_base}
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert all(tensor.dtype == torch.float32 for tensor in trained_state(model).values())
    for name, layer in linear_layers(model):
        kept = torch.float32 if layer.weight.requires_grad or layer in exact else torch.bfloat16
        assert layer.weight.dtype == kept, name


def test_full_fine_tuning_keeps_every_weight():
    model = tiny_model()
    Full().apply(model)
    before = weight_bytes(model)
    round_frozen(model)
    assert weight_bytes(model) == before
    assert "bfloat16" not in weight_types(model)


def test_memory_halves_and_autograd_keeps_no_copy_of_a_weight():
    model = tiny_model()
    LoRA(rank=4).apply(model)
    frozen = sum(p.numel() for _, layer in linear_layers(model) for p in layer.parameters())
    before = weight_bytes(model)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model.train()(**tiny_inputs()).logits.sum()

    held = activation_bytes(model, forward)
    round_frozen(model)
    assert before - weight_bytes(model) == 2 * frozen
    assert weight_types(model)["bfloat16"] == 2 * frozen
    matrices = sum(layer.weight.numel() for _, layer in linear_layers(model))
    first = next(linear_layers(model))[1].weight.numel()  # below the lowest adapter nothing is kept for backward
    assert 2 * (matrices - 4 * first) <= held - activation_bytes(model, forward) <= 2 * frozen


@pytest.mark.parametrize("name", ["lora", "lora_gaussian_all", "dora", "lora_fa", "vera"])
def test_an_adapter_is_written_from_a_bf16_run(name):
    """The check that PEFT computes the same compares the base with what it was: rounding does not count as a change."""
    model = adapted(METHODS[name])
    round_frozen(model)
    assert difference(model, METHODS[name]) is None


def test_a_base_that_the_method_changed_stays_a_changed_one():
    class Subtracts(LoRALinear):
        def __init__(self, base, config):
            super().__init__(base, config)
            base.weight.data.mul_(0.5)

    class Subtracting(LoRA):
        layer = Subtracts

    model = tiny_model()
    method = Subtracting(rank=4)
    method.apply(model)
    round_frozen(model)
    assert "changes the pretrained weight" in (difference(model, method) or "")


def test_a_folded_layer_differs_by_bf16s_rounding_alone():
    rounded = adapted(LoRA(rank=4))
    round_frozen(rounded)
    layers = [dict(linear_layers(merge(m).float())) for m in (adapted(LoRA(rank=4)), rounded)]
    for name, layer in layers[0].items():
        assert torch.allclose(layer.weight, layers[1][name].weight, rtol=2**-8, atol=2**-8 * 0.5), name
