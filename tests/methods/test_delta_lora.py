"""Delta-LoRA beside algorithm 1 done literally, W moved in place each step; and the traps: K, resuming, a second run."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.command_line import compose
from support.tiny import adapted_layers, shake, tiny_inputs, tiny_model
from support.trainers import tiny_trainer
from torch import Tensor, nn

from core.errors import UserError
from methods.base import load_trained_state, trained_state
from methods.delta_lora import DeltaLoRA
from methods.lora import LoRA
from training.checkpoint import Checkpoint
from training.meters import activation_bytes
from training.optimizers import build_optimizer
from training.settings import TrainerConfig

RANK, ALPHA, RATIO, K = 4, 6.0, 2.0, 2
SCALE = ALPHA / RANK
SETTINGS = TrainerConfig(learning_rate=0.02, head_learning_rate=0.02, weight_decay=0.1)


def adapted(**settings) -> tuple[nn.Module, DeltaLoRA]:
    method = DeltaLoRA(**{"rank": RANK, "alpha": ALPHA, "update_ratio": RATIO, "start_steps": K} | settings)
    model = tiny_model()
    method.apply(model)
    return model, method


def weights(model: nn.Module) -> list[Tensor]:
    return [layer.effective_weight().detach() for layer in adapted_layers(model)]


def product(layer: nn.Module) -> Tensor:
    return (layer.B @ layer.A).detach()


def steps(model: nn.Module, method: LoRA, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    model.train()
    for step in numbers:
        method.before_step(model, step, seed=0)
        F.cross_entropy(model(**tiny_inputs(seed=step)).logits, torch.arange(4) % 3).backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(model, step)


def literal(last: int) -> nn.Module:
    """Algorithm 1 on LoRA's layers: after each step from t > K on, t from 0, the base's own weight is moved."""
    model, method = tiny_model(), LoRA(rank=RANK, alpha=ALPHA)
    method.apply(model)
    optimizer = build_optimizer(model, method, SETTINGS)
    for t in range(last):
        before = [product(layer) for layer in adapted_layers(model)]
        steps(model, method, optimizer, range(t + 1, t + 2))
        for layer, P in zip(adapted_layers(model), before, strict=True):
            if t > K:
                layer.base.weight.data.add_(RATIO * SCALE * (product(layer) - P))
    return model


@pytest.mark.parametrize("last", [1, K + 1, K + 2, 9])
def test_one_snapshot_stands_for_a_weight_that_moves_each_step(last):
    model, method = adapted()
    start = [layer.base.weight.clone() for layer in adapted_layers(model)]
    steps(model, method, build_optimizer(model, method, SETTINGS), range(1, last + 1))
    reference = literal(last)
    for ours, theirs, W in zip(adapted_layers(model), adapted_layers(reference), start, strict=True):
        torch.testing.assert_close(ours.A, theirs.A, rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(ours.B, theirs.B, rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(ours.effective_weight(), theirs.effective_weight(), rtol=1e-3, atol=2e-5)
        assert torch.equal(ours.base.weight, W)
        has_moved = not torch.allclose(theirs.base.weight, W, atol=1e-4)
        assert has_moved == (last >= K + 2)
        merged = W + (1 + RATIO) * SCALE * product(ours) - RATIO * SCALE * ours.B_K @ ours.A_K
        torch.testing.assert_close(ours.effective_weight(), merged)
        assert torch.linalg.matrix_rank(ours.effective_weight() - W, rtol=1e-4) <= (2 if has_moved else 1) * RANK


def test_until_w_moves_a_run_is_lora():
    """Nothing but W's move differs, and the first is at step K + 2."""
    runs = []
    for method in (DeltaLoRA(rank=RANK, start_steps=K), LoRA(rank=RANK)):
        model = tiny_model()
        method.apply(model)
        optimizer, seen = build_optimizer(model, method, SETTINGS), []
        for step in range(1, K + 4):
            steps(model, method, optimizer, range(step, step + 1))
            with torch.no_grad():
                seen.append(model(**tiny_inputs()).logits)
        runs.append(seen)
    same = [torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4) for ours, theirs in zip(*runs, strict=True)]
    assert same == [True] * (K + 1) + [False, False]


def test_the_factors_get_loras_gradient_on_the_moved_weight_and_x_that_of_the_whole():
    model, _ = adapted()
    shake(model)
    layer = adapted_layers(model)[0]
    torch.manual_seed(0)
    x = torch.randn(5, 32, requires_grad=True)
    layer(x).pow(3).sum().backward()
    A, B, y = (tensor.detach().clone().requires_grad_() for tensor in (layer.A, layer.B, x))
    W = layer.base.weight + RATIO * SCALE * (product(layer) - layer.B_K @ layer.A_K)
    expected = F.linear(y, W + SCALE * B @ A, layer.base.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    expected.pow(3).sum().backward()
    for ours, theirs in ((layer.A, A), (layer.B, B), (x, y)):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    assert layer.base.weight.grad is None


@pytest.mark.parametrize("stopped", [1, K + 1, K + 2, 5])
def test_a_resumed_trainer_moves_w_as_an_uninterrupted_one(stopped):
    one, two = (tiny_trainer(*adapted(), "packed", learning_rate=0.02) for _ in range(2))
    for trainer in (one, two):
        trainer.resume(None)
    for _ in range(7):
        one.train_step([0, 1, 2, 5])
    for _ in range(stopped):
        two.train_step([0, 1, 2, 5])
    checkpoints: list[Checkpoint] = []
    two.save, two.began = checkpoints.append, 0.0
    two.hand_out_state()
    three = tiny_trainer(*adapted(), "packed", learning_rate=0.02)
    three.resume(copy.deepcopy(checkpoints[0]))
    for _ in range(7 - stopped):
        three.train_step([0, 1, 2, 5])
    assert any(not torch.equal(layer.B, layer.B_K) for layer in adapted_layers(one.model))
    for name, tensor in trained_state(one.model).items():
        assert torch.equal(trained_state(three.model)[name], tensor), name


def test_a_run_that_begins_from_a_moved_weight_keeps_and_moves_it():
    model, method = adapted()
    steps(model, method, build_optimizer(model, method, SETTINGS), range(1, 7))
    second, method = adapted()
    load_trained_state(second, copy.deepcopy(trained_state(model)))
    before, P = weights(second), [product(layer) for layer in adapted_layers(second)]
    steps(second, method, build_optimizer(second, method, SETTINGS), range(1, 2))
    for layer, W, start in zip(adapted_layers(second), before, P, strict=True):
        moved = W + (1 + RATIO) * SCALE * (product(layer) - start)
        torch.testing.assert_close(layer.effective_weight().detach(), moved, rtol=1e-4, atol=1e-5)


def test_state_and_activations_stay_small():
    """Two snapshots a layer beside LoRA's factors, and no W; autograd holds what it holds for LoRA."""
    held, saved = [], []
    for method in (LoRA(rank=RANK), DeltaLoRA(rank=RANK)):
        model = tiny_model().train()
        method.apply(model)
        head = sum(p.numel() for name, p in model.named_parameters() if name.startswith("classifier"))
        held.append(activation_bytes(model, lambda model=model: model(**tiny_inputs()).logits.sum()))
        saved.append(sum(tensor.numel() for tensor in trained_state(model).values()) - head)
    assert held[0] == held[1]
    assert saved[1] == 2 * saved[0]


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_an_adapter_is_lora_of_twice_the_rank_and_is_read_back(rank_stabilized):
    model, method = adapted(rank_stabilized=rank_stabilized)
    shake(model)
    layer = adapted_layers(model)[0]
    own = {name: getattr(layer, name).detach() for name in ("A", "B", "A_K", "B_K")}
    theirs = method.to_peft(own)
    A, B = theirs["lora_A.weight"], theirs["lora_B.weight"]
    twice = LoRA(rank=2 * RANK, alpha=method.peft_config()["lora_alpha"], rank_stabilized=rank_stabilized)
    assert (tuple(A.shape), tuple(B.shape), method.peft_config()["r"]) == ((8, 32), (32, 8), 8)
    torch.testing.assert_close(layer.base.weight + twice.scale * B @ A, layer.effective_weight(), rtol=1e-4, atol=1e-5)
    read = method.from_peft(theirs)
    assert read.keys() == own.keys()
    for name, tensor in own.items():
        torch.testing.assert_close(read[name], tensor)
    for odd in (torch.zeros(()), torch.zeros(8), torch.zeros(RANK, 32)):
        with pytest.raises(UserError, match="the rank is not 8"):
            method.from_peft({"lora_A.weight": odd, "lora_B.weight": odd})


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method.dropout=0.1", "method.dropout is 0.1; Delta-LoRA has none"),
        ("method.update_ratio=0", "method.update_ratio is 0.0; it must be above 0"),
        ("method.start_steps=-1", "method.start_steps is -1; it must be at least 0"),
    ],
)
def test_what_delta_lora_does_not_have_is_refused(word, message):
    with pytest.raises(UserError, match=message):
        compose("method=delta_lora", word)


def test_the_published_settings_are_the_defaults():
    method = compose("method=delta_lora").method
    assert (method.update_ratio, method.start_steps, method.rank, method.dropout) == (2.0, 500, 8, 0.0)
