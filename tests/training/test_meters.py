"""Memory as the algebra predicts it, to the byte, and a speed meter that counts only training steps."""

import pytest
import torch
from support.tiny import tiny_inputs, tiny_model, train_steps

from methods.full import Full
from methods.lora import LoRA
from methods.lora_fa import LoRAFA, LoRAFACorrected
from models.batches import Batch
from training.meters import (
    WARM_UP_STEPS,
    MemoryMeter,
    SpeedMeter,
    activation_bytes,
    gradient_bytes,
    optimizer_bytes,
    weight_bytes,
)
from training.optimizers import build_optimizer
from training.settings import TrainerConfig

CPU = torch.device("cpu")
BATCH, LENGTH, WIDTH, LAYERS, RANK = 4, 12, 32, 2, 4


def held(method, architecture="roberta") -> int:
    model = tiny_model(architecture).train()
    method.apply(model)
    inputs = tiny_inputs(batch=BATCH, length=LENGTH)
    return activation_bytes(model, lambda: model(**inputs).logits.sum())


@pytest.mark.parametrize("corrected", [LoRAFA, LoRAFACorrected])
def test_lora_fa_does_not_keep_the_input_of_adapted_layers(corrected, architecture):
    """LoRA keeps x (batch, seq, width) for the gradient of A: once a layer, as query and value read the same x.
    LoRA-FA keeps A·x alone, which LoRA keeps too. In the first layer x is the embedding, which nothing else keeps."""
    saved = held(LoRA(rank=RANK), architecture) - held(corrected(rank=RANK), architecture)
    assert saved == LAYERS * BATCH * LENGTH * WIDTH * 4


def test_each_adapted_layer_of_lora_keeps_its_rank_sized_product():
    one = held(LoRA(rank=RANK, target_modules="layer.1.*query"))
    two = held(LoRA(rank=RANK, target_modules="layer.1.*(query|value)"))
    assert two - one == BATCH * LENGTH * RANK * 4


def test_the_activations_of_a_linear_layer_are_its_input():
    layer = torch.nn.Linear(10, 3)
    x = torch.randn(7, 10)
    assert activation_bytes(layer, lambda: layer(x).sum()) == 7 * 10 * 4
    assert activation_bytes(layer, lambda: (layer(x) + layer(x)).sum()) == 7 * 10 * 4  # once per storage
    x.requires_grad_(True)
    assert (
        activation_bytes(layer, lambda: layer(x).sum()) == 7 * 10 * 4
    )  # the weight is held too, but is not an activation
    layer.requires_grad_(False)
    x.requires_grad_(False)
    assert activation_bytes(layer, lambda: layer(x).sum()) == 0


def test_weights_gradients_and_optimizer_state_have_their_closed_forms():
    for method, moments in ((Full(), 2), (LoRA(rank=4), 2)):
        model = tiny_model()
        method.apply(model)
        numbers = sum(p.numel() for p in model.parameters())
        trained = [p for p in model.parameters() if p.requires_grad]
        assert 4 * numbers <= weight_bytes(model) <= 4 * numbers + 8 * 2 * 66 + 64  # and the position ids
        assert gradient_bytes(model) == 4 * sum(p.numel() for p in trained)
        optimizer = build_optimizer(model, method, TrainerConfig(learning_rate=1e-3, head_learning_rate=1e-3))
        model(**tiny_inputs()).logits.sum().backward()
        assert gradient_bytes(model) == sum(p.grad.numel() * 4 for p in trained)
        optimizer.step()
        assert optimizer_bytes(optimizer) == moments * gradient_bytes(model) + 4 * len(
            trained
        )  # and a step counter each


def batch(examples: int, tokens: int, length: int) -> Batch:
    return Batch({"input_ids": torch.zeros(examples, length, dtype=torch.long)}, torch.zeros(examples), tokens)


def test_the_speed_meter_counts_only_training_steps(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    meter = SpeedMeter(CPU)
    meter.start()
    for seconds in [9.0] * WARM_UP_STEPS + [0.5, 0.25]:
        now += seconds
        meter.step([batch(2, 9, 5), batch(1, 3, 3)], processes=1)
    now += 5.0  # until the device is idle
    meter.stop()
    now += 100.0  # an evaluation
    meter.start()
    now += 0.75
    meter.step([batch(2, 9, 5)], processes=1)
    meter.stop()
    assert meter.step_seconds == [0.5, 0.25, 0.75]
    assert (meter.samples, meter.tokens, meter.padded_tokens) == (8, 33, 36)
    assert meter.summary() == {
        "samples_per_second": 8 / 1.5,
        "tokens_per_second": 33 / 1.5,
        "padded_tokens_per_second": 36 / 1.5,
        "step_ms_median": 500.0,
        "steps": 3,
    }


def test_a_speed_meter_without_steps_reports_nothing():
    meter = SpeedMeter(CPU)
    meter.start()
    meter.stop()
    assert meter.summary() == {
        "samples_per_second": None,
        "tokens_per_second": None,
        "padded_tokens_per_second": None,
        "step_ms_median": None,
        "steps": 0,
    }


def test_the_memory_peak_covers_only_the_measured_stretch():
    meter = MemoryMeter(CPU)
    outside = torch.ones(64 * 2**20)  # 256 MiB, an evaluation's
    del outside
    meter.start()
    meter.stop()
    quiet = meter.peak_bytes
    meter.start()
    inside = torch.ones(64 * 2**20)
    del inside
    meter.stop()
    assert meter.peak_bytes - quiet > 200 * 2**20


def test_measuring_activations_needs_no_second_model(method):
    """The hooks leave the model as they found it."""
    model, other = tiny_model(), tiny_model()
    for one in (model, other):
        torch.manual_seed(3)
        method.apply(one)
    activation_bytes(model, lambda: model(**tiny_inputs()).logits.sum())
    train_steps(model, method)
    train_steps(other, method)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
