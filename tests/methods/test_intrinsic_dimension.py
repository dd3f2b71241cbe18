"""Fastfood beside its formula with scipy's H, and the two forms of the method: θ₀ + P·θ^d and θ₀,i + λ_i·P_i·θ^d."""

import copy

import pytest
import torch
from scipy.linalg import hadamard
from support.tiny import shake, tiny_inputs, tiny_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from methods.base import encoder_layers, head_prefixes, merge, parameter_counts, trained_state
from methods.fastfood import Fastfood
from methods.intrinsic_dimension import IntrinsicDimension, Moved, Subspace
from models.packed import Packed, forward_path
from training.meters import activation_bytes

SIZES = [(1, 5), (3, 4), (5, 64), (40, 31), (64, 200), (100, 1000)]  # (d, n), in one block and in many


def dense(P: Fastfood) -> Tensor:
    """P, column by column."""
    return torch.stack([P(unit) for unit in torch.eye(P.d)], 1)


def applied(**settings) -> nn.Module:
    model = tiny_model()
    IntrinsicDimension(**settings).apply(model)
    return model


def moved(model: nn.Module) -> dict[str, Moved]:
    """The projections by the names of the tensors that they move."""
    parts = {name: module for name, module in model.named_modules() if isinstance(module, Moved)}
    return {name.replace("parametrizations.", "").removesuffix(".0"): module for name, module in parts.items()}


def subspace(model: nn.Module) -> Subspace:
    return next(module for module in model.modules() if isinstance(module, Subspace))


@pytest.mark.parametrize(("d", "n"), SIZES)
def test_fastfood_equals_its_formula(d, n):
    P = Fastfood(d, n, seed=3)
    blocks, L = P.G.shape
    assert (L, blocks) == (1 << (d - 1).bit_length(), -(-n // L))
    H, rows = torch.tensor(hadamard(L), dtype=torch.float32), []
    for B, places, G in zip(P.B, P.Pi.view(blocks, L) - L * torch.arange(blocks).unsqueeze(1), P.G, strict=True):
        assert set(B.tolist()) <= {-1, 1}
        assert sorted(places.tolist()) == list(range(L))
        assert G.square().sum() == pytest.approx(1 / n, rel=1e-4)  # s = 1 / √(n · ΣG²) is part of it
        rows.append(H @ G.diag() @ torch.eye(L)[places] @ H @ B.float().diag())
    torch.testing.assert_close(dense(P), torch.cat(rows)[:n, :d], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("d", "n"), SIZES)
def test_the_gradient_is_that_of_the_dense_matrix(d, n):
    P, x, y = Fastfood(d, n, seed=0), torch.randn(d, requires_grad=True), torch.randn(n)
    P(x).backward(y)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, dense(P).T @ y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("d", "n"), [(7, 20), (7, 3), (50, 130)])
def test_fastfood_keeps_norms_on_average(d, n):
    x = torch.randn(d)
    norms = torch.stack([Fastfood(d, n, seed)(x).square().sum() for seed in range(800)])
    assert norms.mean() == pytest.approx(x.square().sum().item(), rel=0.1)


def test_fastfoods_columns_are_nearly_orthonormal_and_its_rows_gaussian():
    P = dense(Fastfood(20, 20_000, seed=0))
    torch.testing.assert_close(P.T @ P, torch.eye(20), atol=0.04, rtol=0)
    entries = P.flatten() * 20_000**0.5
    assert entries.pow(4).mean() == pytest.approx(3, rel=0.15)


def test_a_seed_gives_the_same_projection_and_another_seed_another():
    def draw(seed: int, noise: int) -> Tensor:
        torch.manual_seed(noise)
        return dense(Fastfood(12, 50, seed))

    before = torch.get_rng_state()
    Fastfood(12, 50, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draw(1, noise=0), draw(1, noise=9))
    assert not torch.equal(draw(1, noise=0), draw(2, noise=0))
    models = [applied(d=20, structured=False, projection_seed=seed) for seed in (0, 0, 1)]
    for name, one in (parts := [moved(model) for model in models])[0].items():
        assert torch.equal(one.P.G, parts[1][name].P.G)
        assert not torch.equal(one.P.G, parts[2][name].P.G)
    drawn = {tuple(part.P.G.flatten().tolist()) for part in parts[0].values()}
    assert len(drawn) == len(parts[0])  # each tensor has its own, whatever its size


def test_fastfood_costs_n_log_d():
    """Multiplications with the parts of H: 2 · 2 · n · Σ factors, forward and again backward."""

    def operations(d: int, n: int) -> int:
        P, x = Fastfood(d, n, seed=0), torch.zeros(d, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            P(x).sum().backward()
        return counter.get_total_flops()

    n = 2**15
    assert [operations(d, n) for d in (2, 32, 64, 1024, 2**15)] == [8 * n * r for r in (2, 32, 34, 64, 96)]
    assert operations(1024, 4 * n) == 4 * operations(1024, n)


def test_nothing_dense_is_kept():
    """9 bytes a row of P, and its own small H; autograd keeps the weights alone, and no step of the way to them."""
    P, x = Fastfood(1000, 100_000, seed=0), torch.zeros(1000, requires_grad=True)
    rows = P.G.numel()
    assert rows < 100_000 + 1024
    assert sum(buffer.nbytes for buffer in P.buffers()) == 9 * rows + 32 * 32 * 4
    assert not P.state_dict()
    assert activation_bytes(P, lambda: P(x)) == 0


def test_fastfood_is_exact_under_autocast():
    P, x = Fastfood(100, 1000, seed=0), torch.randn(100, requires_grad=True)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = P(x)
            gradients.append([y, *torch.autograd.grad(y.square().sum(), x)])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("structured", [True, False])
def test_each_tensor_of_the_encoder_moves_by_its_equation(structured, architecture):
    """λ of its layer, and of the embeddings the last one; embeddings, biases and norms move too, the head does not."""
    model = tiny_model(architecture)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    IntrinsicDimension(d=24, structured=structured).apply(model)
    shake(model)
    own, parts = subspace(model), moved(model)
    assert parts.keys() == {name for name in start if not name.startswith(head_prefixes(model))}
    for name, part in parts.items():
        module, _, tensor = name.rpartition(".")
        layer = name.partition(".layer.")[2]
        factor = own.factors[int(layer[0]) if layer else 2] if own.factors is not None else 1.0
        expected = start[name].flatten() + factor * dense(part.P) @ own.theta
        got = getattr(model.get_submodule(module), tensor).flatten()
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert (own.factors is None) == (not structured)


@pytest.mark.parametrize("structured", [True, False])
def test_gradients_of_the_few_are_sums_over_those_of_the_weights(structured):
    """θ^d gets Σ λ_i·P_iᵀ·g_i, and λ_i gets g_i·P_i·θ^d, where g is full fine-tuning's gradient."""
    model = applied(d=24, structured=structured)
    shake(model)
    parts, own = moved(model), subspace(model)
    plain = merge(copy.deepcopy(model)).requires_grad_(True)
    for each in (plain, model):
        each(**tiny_inputs()).logits.square().sum().backward()
    theta, factors = torch.zeros_like(own.theta), torch.zeros(3)
    for name, part in parts.items():
        g, P = plain.get_parameter(name).grad.flatten(), dense(part.P)
        theta += (own.factors[part.layer] if structured else 1.0) * P.T @ g
        factors[part.layer] += g @ P @ own.theta
    torch.testing.assert_close(own.theta.grad, theta, rtol=1e-3, atol=1e-3)
    if structured:
        torch.testing.assert_close(own.factors.grad, factors, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("structured", "d"), [(True, 4), (True, 100), (False, 1), (False, 100)])
def test_d_parameters_train_in_all(structured, d):
    model = tiny_model()
    backbone = {name: p.numel() for name, p in model.named_parameters()}
    IntrinsicDimension(d=d, structured=structured).apply(model)
    counts, own = parameter_counts(model, backbone), subspace(model)
    assert counts["trained_without_head"] == d
    assert counts["total"] == sum(backbone.values()) + d
    assert len(own.theta) == d - 3 * structured  # two layers and the embeddings
    below = {name: t for name, t in trained_state(model).items() if not name.startswith(head_prefixes(model))}
    assert sum(tensor.numel() for tensor in below.values()) == d


def test_a_layers_tensors_share_its_factor():
    model = applied(d=20)
    of = [{id(module) for module in layer.modules()} for layer in encoder_layers(model)]
    for part in moved(model).values():
        assert [id(part) in modules for modules in of] == [part.layer == i for i in range(2)]


def test_d_must_exceed_the_number_of_factors():
    with pytest.raises(UserError, match=r"method.d is 3, and 3 of .* choose more, or method.structured=false"):
        applied(d=3)
    with pytest.raises(UserError, match=r"method\.d is 0; it must be at least 1"):
        IntrinsicDimension(d=0)


def test_the_fast_path_stays_open():
    assert isinstance(forward_path(applied(d=20), "packed"), Packed)


def test_tied_tensors_move_together_and_stay_tied_when_folded():
    model = tiny_model()
    first, second = (layer.output.dense for layer in encoder_layers(model))
    second.weight = first.weight
    backbone = sum(p.numel() for p in model.parameters())
    IntrinsicDimension(d=20).apply(model)
    shake(model)
    first, second = (layer.output.dense for layer in encoder_layers(model))
    assert torch.equal(first.weight, second.weight)
    expected = first.weight.detach().clone()
    merged = merge(model)
    first, second = (layer.output.dense for layer in encoder_layers(merged))
    assert first.weight is second.weight
    assert torch.equal(first.weight, expected)
    assert type(first) is nn.Linear
    assert sum(p.numel() for p in merged.parameters()) == backbone
