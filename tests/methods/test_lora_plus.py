"""LoRA+ beside PEFT's optimizer for it, and the traps: the schedule keeps the ratio, the head keeps its own rate."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from support.tiny import adapted_layers, tiny_inputs, tiny_model

from experiments.sweep import cells
from methods.base import head_parameters
from methods.lora_plus import LoRAPlus
from training.optimizers import build_optimizer, set_learning_rate
from training.settings import TrainerConfig

RATE, RATIO = 1e-3, 8.0
SETTINGS = TrainerConfig(learning_rate=RATE, head_learning_rate=3e-4, weight_decay=0.0)


def peft_twin(ours):
    """PEFT's LoRA on the same encoder, with our A and B."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], lora_dropout=0.0)
    theirs = get_peft_model(tiny_model(), config)
    pairs = [module for module in theirs.modules() if hasattr(module, "lora_A")]
    for layer, pair in zip(adapted_layers(ours), pairs, strict=True):
        pair.lora_A["default"].weight.data.copy_(layer.A)
        pair.lora_B["default"].weight.data.copy_(layer.B)
    return theirs.eval(), pairs


@pytest.mark.parametrize("zero", ["A", "B"])
def test_three_steps_equal_those_of_pefts_optimizer(zero):
    ours, method = tiny_model(), LoRAPlus(rank=4, alpha=8, ratio=RATIO, zero=zero)
    method.apply(ours)
    theirs, pairs = peft_twin(ours)
    for parameter in head_parameters(ours):
        parameter.requires_grad_(False)  # PEFT trains it at the adapters' rates
    optimizers = (
        build_optimizer(ours, method, SETTINGS),
        create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=RATIO, weight_decay=0.0),
    )
    start = [layer.B.clone() for layer in adapted_layers(ours)]
    for step in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            model(**tiny_inputs(seed=step)).logits.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for layer, pair, B in zip(adapted_layers(ours), pairs, start, strict=True):
        torch.testing.assert_close(layer.A, pair.lora_A["default"].weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(layer.B, pair.lora_B["default"].weight, rtol=1e-4, atol=1e-6)
        assert not torch.equal(layer.B, B)


def test_the_schedule_keeps_the_ratio_and_the_head_its_own_rate():
    model, method = tiny_model(), LoRAPlus(rank=4, ratio=RATIO)
    method.apply(model)
    optimizer = build_optimizer(model, method, SETTINGS)
    rates = {}
    for step in (0, 1, 7, 19):
        set_learning_rate(optimizer, step, 20, SETTINGS)
        for group in optimizer.param_groups:
            rates |= {id(parameter): group["lr"] for parameter in group["params"]}
        for layer in adapted_layers(model):
            assert rates[id(layer.B)] == pytest.approx(RATIO * rates[id(layer.A)])
            assert all(rates[id(p)] == pytest.approx(0.3 * rates[id(layer.A)]) for p in head_parameters(model))
    assert rates[id(layer.A)] > 0


def test_either_factor_may_start_at_zero():
    for zero, other in (("A", "B"), ("B", "A")):
        model = tiny_model()
        LoRAPlus(rank=4, zero=zero).apply(model)
        for layer in adapted_layers(model):
            assert not getattr(layer, zero).any()
            assert getattr(layer, other).std() > 0.05


def test_a_gaussian_start_is_as_wide_for_either_factor():
    for zero, other in (("A", "B"), ("B", "A")):
        model = tiny_model()
        LoRAPlus(rank=4, zero=zero, init_A="gaussian").apply(model)
        drawn = torch.cat([getattr(layer, other).detach().flatten() for layer in adapted_layers(model)])
        assert drawn.std().item() == pytest.approx(1 / 4, rel=0.2)


def test_the_figures_experiment_has_the_settings_of_the_authors_script():
    lora, plus = cells(["experiment=lora_plus_figure3", "task=qnli", "seed=0"])
    assert (plus.method.ratio, plus.method.zero, plus.trainer.learning_rate) == (80, "A", 5e-5)
    assert lora.trainer.learning_rate == 4e-4
