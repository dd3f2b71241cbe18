"""The CPU dropout: its distribution, its gradient and its stream of random numbers."""

import pytest
import torch
from torch import nn

from models.cpu_dropout import Dropout, dropout, replace_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_zeroes_and_scales_as_torch_does(p):
    torch.manual_seed(0)
    n = 400_000
    y = dropout(torch.ones(n), p)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=2**-16 / (1 - p))
    deviation = (p * (1 - p) / n) ** 0.5
    assert (y == 0).double().mean().item() == pytest.approx(p, abs=4 * deviation)


def test_draws_are_independent_across_elements():
    torch.manual_seed(0)
    zero = (dropout(torch.ones(300_000), 0.3) == 0).double() - 0.3
    for lag in (1, 2, 3, 4, 16, 624, 1248):
        assert (zero[:-lag] * zero[lag:]).mean().abs() < 4 * 0.3 * 0.7 / 300_000**0.5


def test_the_gradient_passes_where_the_element_passed():
    torch.manual_seed(0)
    x = torch.randn(50, 20, requires_grad=True)
    y = dropout(x, 0.4)
    y.backward(torch.full_like(y, 3.0))
    assert torch.allclose(x.grad, torch.where(y == 0, 0.0, 3.0 / 0.6), rtol=1e-4)  # 0.4 is rounded to 2⁻¹⁶


def test_dropout_follows_torchs_seed_and_the_inputs_type():
    x = torch.randn(1000, dtype=torch.bfloat16)
    torch.manual_seed(5)
    one, other = dropout(x, 0.1), dropout(x, 0.1)
    torch.manual_seed(5)
    assert torch.equal(dropout(x, 0.1), one)
    assert not torch.equal(one, other)
    assert one.dtype == torch.bfloat16


@pytest.mark.parametrize("p", [1e-9, 0.1, 1 / 3, 0.999999])
def test_the_expectation_is_kept_whatever_p_is_rounded_to(p):
    """E[y] = x exactly: the scale is that of the rounded p; 0 and 1 are never reached by rounding up."""
    torch.manual_seed(0)
    n = 2_000_000
    y = dropout(torch.ones(n, dtype=torch.float64), p)
    scale = y.max().item()
    assert (1 - p) * scale == pytest.approx(1, abs=2**-16 * scale)
    assert y.mean().item() == pytest.approx(1, abs=4 * (scale - 1) ** 0.5 / n**0.5 + 1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4), (2, 3, 5)])
def test_every_shape_is_dropped(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_every_dropout_is_replaced_and_evaluation_draws_nothing():
    model = nn.Sequential(nn.Dropout(0.2), nn.ModuleDict({"a": nn.Dropout(0.3)})).eval()
    replace_dropout(model)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [(type(module), module.p, module.training) for module in found] == [
        (Dropout, 0.2, False),
        (Dropout, 0.3, False),
    ]
    x = torch.randn(10)
    assert torch.equal(found[0](x), x)
