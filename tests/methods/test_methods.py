"""Behaviour that every method must have, tested over every method; and each method's own equation."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from support.command_line import ROOT, compose
from support.tiny import METHODS, TESTED, adapted_layers, shake, tiny_inputs, tiny_model, train_steps
from torch.nn.utils.parametrize import is_parametrized
from transformers import AutoConfig, AutoModelForSequenceClassification

from core.errors import UserError
from methods.adapter import Adapter, Houlsby, Lin, Pfeiffer
from methods.adapterdrop import AdapterDrop
from methods.base import (
    Method,
    encoder_layers,
    head_parameters,
    head_prefixes,
    load_trained_state,
    merge,
    parameter_counts,
    trained_state,
)
from methods.bitfit import BitFit
from methods.dora import DoRA
from methods.lora import LoRA, LoRALinear
from methods.lora_fa import LoRAFA, LoRAFACorrected
from methods.qlora import Linear4bit, QLoRA
from methods.top_layers import TopLayers
from methods.vera import VeRA
from training.meters import activation_bytes

LOW_RANK = [name for name, method in METHODS.items() if hasattr(method, "target_modules")]
ADAPTERS = ["houlsby", "lin", "pfeiffer", "adapterdrop"]
HOOKED = {"delta_lora": {"A_K", "B_K"}}  # buffers that a method's hooks write while it trains


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny_inputs()).logits


def quantized_reference(model: torch.nn.Module, method: QLoRA) -> torch.nn.Module:
    """The model with dequantized weights in its linear layers."""
    reference = copy.deepcopy(model)
    method.apply(reference)
    return merge(reference)


def test_training_starts_at_the_pretrained_model(method, architecture):
    model = tiny_model(architecture)
    expected = logits(quantized_reference(model, method) if isinstance(method, QLoRA) else model)
    method.apply(model)
    if method.starts_pretrained:
        torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    else:
        assert not torch.allclose(logits(model), expected, atol=1e-3)


def test_training_changes_the_output_and_every_trained_parameter(method, architecture):
    model = tiny_model(architecture)
    method.apply(model)
    before, start = logits(model), {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    train_steps(model, method)
    assert not torch.allclose(logits(model), before, atol=1e-3)
    unused = ("position_embeddings", "token_type_embeddings", "word_embeddings", "key.bias")  # no gradient in places
    stuck = [n for n, p in model.named_parameters() if p.requires_grad and torch.equal(p, start[n])]
    assert not [name for name in stuck if not any(part in name for part in unused)]


def test_training_leaves_the_frozen_weights_bit_identical(method, architecture):
    model = tiny_model(architecture)
    method.apply(model)
    written = HOOKED.get(method.name, set())
    trained = trained_state(model).keys() - {n for n, _ in model.named_buffers() if n.rpartition(".")[2] not in written}
    frozen = {n: t.clone() for n, t in [*model.named_parameters(), *model.named_buffers()] if n not in trained}
    train_steps(model, method)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in frozen:
            assert torch.equal(tensor, frozen[name]), name


def test_a_merged_model_equals_the_unmerged_one(method, architecture):
    model = tiny_model(architecture)
    method.apply(model)
    shake(model)
    expected = logits(model)
    merged = merge(copy.deepcopy(model))
    assert not adapted_layers(merged)
    assert not [m for m in merged.modules() if isinstance(m, Linear4bit) or is_parametrized(m)]
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(logits(model), expected)  # merging a copy leaves the model as it was


def test_a_saved_state_gives_the_same_model(method):
    model = tiny_model()
    torch.manual_seed(5)
    method.apply(model)
    train_steps(model, method)
    other = tiny_model()
    torch.manual_seed(6)
    method.apply(other)
    load_trained_state(other, copy.deepcopy(trained_state(model)))
    assert torch.equal(logits(other), logits(model))


def test_a_state_of_another_model_is_refused(method):
    model = tiny_model()
    method.apply(model)
    state = dict(trained_state(model))
    name = next(iter(state))
    with pytest.raises(UserError, match="shape"):
        load_trained_state(model, state | {name: torch.zeros(1, 1, 1)})
    with pytest.raises(UserError, match="one side only"):
        load_trained_state(model, {key: value for key, value in state.items() if key != name})


def test_the_head_trains_whatever_the_method(method, architecture):
    model = tiny_model(architecture)
    method.apply(model)
    head = head_parameters(model)
    assert len(head) == 4  # a dense layer and a projection, in RoBERTa's head as in BERT's pooler and classifier
    assert all(p.requires_grad for p in head)


def test_the_optimizer_gets_every_trained_parameter_once(method):
    from training.optimizers import build_optimizer
    from training.settings import TrainerConfig

    model = tiny_model()
    method.apply(model)
    groups = build_optimizer(model, method, TrainerConfig(learning_rate=1.0, head_learning_rate=2.0)).param_groups
    given = [id(p) for group in groups for p in group["params"]]
    assert sorted(given) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    head = {id(p) for p in head_parameters(model)}
    for group in groups:
        for p in group["params"]:
            assert group["lr"] in ({2.0} if id(p) in head else {1.0, getattr(method, "ratio", 1.0)})
            assert group["weight_decay"] == (0.1 if p.ndim > 1 else 0.0)


def ladder(d: int, d_ff: int, w: int, f: int) -> int:
    """Two layers of width w and f, three D, two gates and U."""
    return 2 * (4 * (w * w + w) + w * f + f + f * w + w + 4 * w) + 3 * (d * w + w) + 2 + w * d + d


COUNTS = {
    "full": lambda base, h, r: base,
    "lora": lambda base, h, r: 2 * 2 * 2 * h * 4,
    "lora_gaussian_all": lambda base, h, r: 2 * (4 * 2 * h + 2 * (h + 48)) * 4,
    "lora_plus": lambda base, h, r: 2 * 2 * 2 * h * 4,
    "lora_plus_a0": lambda base, h, r: 2 * 2 * 2 * h * 4,
    "dylora": lambda base, h, r: 2 * 2 * 2 * h * 2,
    "dylora_together": lambda base, h, r: 2 * 2 * 2 * h * 4,
    "delta_lora": lambda base, h, r: 2 * 2 * 2 * h * 4,
    "delta_lora_moved": lambda base, h, r: 2 * (4 * 2 * h + 2 * (h + 48)) * 4,
    "lora_drop": lambda base, h, r: 2 * 2 * 2 * h * 4,
    "lora_drop_shared": lambda base, h, r: 2 * 2 * h * 4,
    "lora_drop_shared_all": lambda base, h, r: 2 * (2 * h + 2 * (h + 48)) * 4,
    "dora": lambda base, h, r: 2 * 2 * (2 * h * 4 + h),
    "dora_all": lambda base, h, r: 2 * ((4 * 2 * h + 2 * (h + 48)) * 4 + 5 * h + 48),
    "lora_fa": lambda base, h, r: 2 * 2 * h * 4,
    "lora_fa_corrected": lambda base, h, r: 2 * 2 * h * 4,
    "vera": lambda base, h, r: 2 * 2 * (h + 48),
    "vera_all": lambda base, h, r: 2 * (5 * h + 48 + 6 * 48),
    "qlora": lambda base, h, r: 2 * (4 * 2 * h + 2 * (h + 48)) * 4,
    "qlora_fp4": lambda base, h, r: 2 * 2 * 2 * h * 4,
    "intrinsic_dimension": lambda base, h, r: 70,
    "intrinsic_dimension_direct": lambda base, h, r: 64,
    "prefix_embed": lambda base, h, r: h * (3 + 2),
    "prefix_layer": lambda base, h, r: 2 * h * (3 + 2),
    "ladder_side": lambda base, h, r: ladder(h, 48, h // 4, 48 // 4),
    "ladder_side_random": lambda base, h, r: ladder(h, 48, h // 2, 48 // 2),
    "head": lambda base, h, r: 0,
    "bitfit": lambda base, h, r: 2 * (7 * h + 48) + h,
    "top_layers": lambda base, h, r: 4 * (h * h + h) + 2 * 48 * h + 48 + h + 4 * h,
    "houlsby": lambda base, h, r: 4 * (2 * h * r + r + h) + 5 * 2 * h,
    "houlsby_own": lambda base, h, r: 4 * (2 * h * r + r + h),
    "lin": lambda base, h, r: 2 * (2 * h * r + r + h) + 2 * 2 * h,
    "pfeiffer": lambda base, h, r: 2 * (2 * h * r + r + h),
    "adapterdrop": lambda base, h, r: 2 * h * r + r + h,
}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.name in TESTED])
def test_parameter_counts_have_their_closed_form(name):
    model = tiny_model()
    backbone = {n: p.numel() for n, p in model.named_parameters()}
    head = sum(p.numel() for p in head_parameters(model))
    METHODS[name].apply(model)
    counts = parameter_counts(model, backbone)
    expected = COUNTS[name](sum(backbone.values()) - head, 32, 4)
    assert counts["trained_without_head"] == expected
    assert counts["trained"] == expected + head
    frozen = {"lora_fa": 2 * 2 * 32 * 4, "delta_lora": expected, "lora_drop": len(adapted_layers(model))}.get(
        METHODS[name].name.removesuffix("_corrected"), 0
    )
    own = dict.fromkeys(("full", "bitfit", "top_layers"), expected) | {"houlsby": 5 * 2 * 32}  # parts of the backbone
    assert counts["total"] == sum(backbone.values()) + expected - own.get(name, 0) + frozen


@pytest.mark.parametrize(
    ("backbone", "method", "expected"),
    [
        ("roberta-base", LoRA(rank=8), 294_912),
        ("roberta-base", VeRA(rank=1024), 43_008),
        ("roberta-large", LoRA(rank=8), 786_432),
        ("roberta-large", VeRA(rank=256), 61_440),
        ("roberta-base", BitFit(), 102_144),
        ("roberta-large", TopLayers(layers=2), 25_192_448),  # LoRA's table 3: 25.19M of GPT-2 medium, as wide and deep
        ("roberta-large", Lin(bottleneck=224), 11_089_152),  # likewise 11.09M
        ("roberta-large", Lin(bottleneck=6), 368_784),  # and 0.37M
        ("roberta-large", Houlsby(bottleneck=64), 6_343_680 + 49 * 2 * 1024),
        ("roberta-large", Houlsby(bottleneck=64, layer_norms=False), 6_343_680),
        ("roberta-base", AdapterDrop(dropped_layers=0), 894_528),  # table 2: 0.9M
        ("roberta-base", AdapterDrop(dropped_layers=8), 298_176),  # and 0.3M, if eight layers are dropped
    ],
)
def test_parameter_counts_match_the_numbers_in_the_papers(backbone, method, expected):
    assert count_at(backbone, method) == expected


def count_at(backbone: str, method: Method) -> int:
    """Trained parameters, without the head, at a backbone's true shape."""
    shape = OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/backbone/{backbone}.yaml").architecture)
    config = AutoConfig.for_model(**shape | {"vocab_size": 10}, num_labels=2)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    method.apply(model)
    return parameter_counts(model, {})["trained_without_head"]


@pytest.mark.parametrize(
    ("experiment", "adapters", "published"),
    [
        ("lora_table2_large_adapter_p", 24, 3.0),
        ("lora_table2_large_adapter_p_small", 24, 0.8),
        ("lora_table2_large_adapter_h", 48, 6.0),
        ("lora_table2_large_adapter_h_small", 48, 0.8),
    ],
)
def test_bottleneck_adapter_counts_match_loras_table_2(experiment, adapters, published):
    """LoRA, section 5.1: |Θ| = L_adpt·(2·d·r + r + d). What table 2 prints is that in units of 2²⁰."""
    method = compose(f"experiment={experiment}").method
    count = count_at("roberta-large", method)
    assert count == adapters * (2 * 1024 * method.bottleneck + method.bottleneck + 1024)
    assert round(count / 2**20, 1) == published


@pytest.mark.parametrize("name", LOW_RANK)
def test_a_pattern_that_matches_nothing_lists_the_layer_names(name):
    config = copy.copy(METHODS[name])
    config.target_modules = "qurey$"
    with pytest.raises(UserError, match=r"'qurey\$'; there are: attention.self.query, attention.self.key"):
        config.apply(tiny_model())


@pytest.mark.parametrize("name", LOW_RANK)
def test_the_head_is_never_adapted(name, architecture):
    config = copy.copy(METHODS[name])
    config.target_modules = "dense"
    model = tiny_model(architecture)
    config.apply(model)
    assert len(adapted_layers(model)) == 2 * 3


@pytest.mark.parametrize("method_class", [LoRA, DoRA, LoRAFA, QLoRA])
def test_a_rank_above_the_layer_is_refused(method_class):
    with pytest.raises(UserError, match="rank is 33; an adapted layer has 32"):
        method_class(rank=33).apply(tiny_model())


@pytest.mark.parametrize("method_class", [LoRA, DoRA, LoRAFA, QLoRA, VeRA])
def test_bad_settings_are_refused(method_class):
    for bad in ({"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"target_modules": "("}):
        with pytest.raises(UserError, match=f"method.{next(iter(bad))}"):
            method_class(**bad)


@pytest.mark.parametrize("name", [name for name in LOW_RANK if hasattr(METHODS[name], "dropout")])
def test_dropout_is_per_element_and_off_in_evaluation(name):
    config = copy.copy(METHODS[name])
    config.dropout = 0.5
    model = tiny_model()
    config.apply(model)
    shake(model)
    layer = adapted_layers(model)[0]
    x = torch.ones(3, 5, layer.in_features)
    with torch.no_grad():
        assert torch.equal(layer(x), layer(x))
        layer.train()
        rows = layer(x).flatten(0, 1)
    assert len(torch.unique(rows, dim=0)) == len(rows)  # the same input everywhere, another mask everywhere


def test_vera_draws_its_projections_from_its_seed_alone():
    def projections(seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        model = tiny_model(seed=noise)
        VeRA(rank=48, projection_seed=seed).apply(model)
        return adapted_layers(model)[0].A

    assert torch.equal(projections(1, noise=0), projections(1, noise=9))
    assert not torch.equal(projections(1, noise=0), projections(2, noise=0))


@pytest.mark.parametrize("tokens", [1, 200])
def test_veras_two_forward_paths_give_the_same_outputs_and_gradients(tokens, monkeypatch):
    """Outputs and gradients; few tokens take the path, many the weight."""
    model = tiny_model()
    VeRA(rank=48).apply(model)
    shake(model)
    layer, x = adapted_layers(model)[0], torch.randn(2, tokens, 32, requires_grad=True)
    assert layer.builds_weight(x) == (tokens == 200)
    results = []
    for built in (True, False):
        monkeypatch.setattr(type(layer), "builds_weight", lambda *_, built=built: built)
        layer(x).square().sum().backward()
        results.append([layer(x).detach(), *(t.grad.clone() for t in (x, layer.d, layer.b))])
        model.zero_grad()
        x.grad = None
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def test_vera_takes_the_low_rank_path_under_dropout_and_autocast():
    model, x = tiny_model(), torch.randn(50, 32)
    VeRA(rank=48, dropout=0.5).apply(model)
    layer = adapted_layers(model)[0]
    assert layer.eval().builds_weight(x)
    assert not layer.train().builds_weight(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not layer.eval().builds_weight(x)


def test_vera_shares_one_pair_of_projections():
    model = tiny_model()
    VeRA(rank=48).apply(model)
    model = model.to(torch.float64).to(torch.float32)  # a move must not part them
    assert len({layer.A.data_ptr() for layer in adapted_layers(model)}) == 1


def test_lora_fa_correction_is_the_least_squares_fit_to_the_full_gradient():
    """min over G of ‖s·G·A - g‖: the corrected gradient of B against a generic solver, g from autograd on W itself."""
    torch.manual_seed(0)
    base = torch.nn.Linear(20, 12)
    layer = LoRAFACorrected.layer(base, LoRAFACorrected(rank=4, alpha=6))
    x = torch.randn(30, 20)
    ((layer(x)) ** 3).sum().backward()
    g = base.weight.grad
    best = torch.linalg.lstsq((layer.scale * layer.A).T, g.T).solution.T
    torch.testing.assert_close(layer.B.grad, best, rtol=1e-3, atol=1e-2)
    plain = LoRAFA.layer(base, LoRAFA(rank=4, alpha=6))
    plain.A.copy_(layer.A)
    ((plain(x)) ** 3).sum().backward()
    assert not torch.allclose(plain.B.grad, layer.B.grad, rtol=0.1)


def test_doras_norm_equals_that_of_the_full_matrix():
    model = tiny_model()
    DoRA(rank=4, alpha=16).apply(model)
    shake(model)
    for layer in adapted_layers(model):
        V = layer.base.weight + layer.scale * layer.B @ layer.A
        torch.testing.assert_close(layer.norm(), V.norm(dim=1))


def test_dora_survives_a_row_of_zeros():
    base = torch.nn.Linear(8, 4)
    with torch.no_grad():
        base.weight[1] = 0
    layer = DoRA.layer(base, DoRA(rank=2))
    x = torch.randn(3, 8)
    torch.testing.assert_close(layer(x), base(x))


def test_doras_norm_is_exact_under_autocast():
    layer = DoRA.layer(torch.nn.Linear(64, 64), DoRA(rank=4))
    expected = layer.norm()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.norm(), expected)


def test_adapted_layers_return_bfloat16_under_autocast(method):
    """A float32 factor would lift a layer's output, and all that follows, out of bfloat16: an unfair comparison."""
    model = tiny_model()
    method.apply(model)
    types = []
    for layer in adapted_layers(model):
        layer.register_forward_hook(lambda layer, inputs, output: types.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**tiny_inputs())
    assert set(types) <= {torch.bfloat16}


# Methods that train parts of the encoder, and bottleneck adapters


def trained_names(model: torch.nn.Module) -> set[str]:
    """Of what trains below the head."""
    return {n for n, p in model.named_parameters() if p.requires_grad and not n.startswith(head_prefixes(model))}


def test_bitfit_trains_every_bias_and_nothing_else(architecture):
    model = tiny_model(architecture)
    BitFit().apply(model)
    below_the_head = {name for name, _ in model.named_parameters() if not name.startswith(head_prefixes(model))}
    assert trained_names(model) == {name for name in below_the_head if name.endswith("bias")}
    assert f"{model.base_model_prefix}.embeddings.LayerNorm.bias" in trained_names(model)


def test_top_layers_trains_the_last_layers_and_nothing_below(architecture):
    model = tiny_model(architecture)
    TopLayers(layers=1).apply(model)
    names = {name for name, _ in model.named_parameters()}
    assert trained_names(model) == {name for name in names if ".encoder.layer.1." in name}


@pytest.mark.parametrize("activation", [None, "swish"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_sits_where_the_paper_puts_it(name, activation, architecture):
    """The part of a layer that is adapted, by hand; without a setting, Houlsby's f is GELU and the others' ReLU."""
    model = tiny_model(architecture)
    dataclasses.replace(METHODS[name], activation=activation).apply(model)
    f = (lambda x: x * x.sigmoid()) if activation else F.gelu if name == "houlsby" else F.relu
    shake(model)
    part = encoder_layers(model)[1].output
    z, x = torch.randn(2, 5, 48), torch.randn(2, 5, 32)
    h = F.linear(z, part.dense.weight, part.dense.bias)
    adapter = part.dropout if name == "houlsby" else part.LayerNorm
    D, b, U, c = adapter.down.weight, adapter.down.bias, adapter.up.weight, adapter.up.bias
    norm = part.LayerNorm if name == "houlsby" else part.LayerNorm.base
    if name == "houlsby":
        expected = norm(h + f(h @ D.T + b) @ U.T + c + x)
    elif name == "lin":
        n = norm(h + x)
        expected = n + f(adapter.norm(n) @ D.T + b) @ U.T + c
    else:
        expected = norm(h + x + f(norm(h + x) @ D.T + b) @ U.T + c)
    torch.testing.assert_close(part(z, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("houlsby", {f"{i}.{part}.dropout" for i in (0, 1) for part in ("attention.output", "output")}),
        ("lin", {"0.output.LayerNorm", "1.output.LayerNorm"}),
        ("pfeiffer", {"0.output.LayerNorm", "1.output.LayerNorm"}),
        ("adapterdrop", {"1.output.LayerNorm"}),
    ],
)
def test_adapters_are_only_at_their_places(name, places, architecture):
    model = tiny_model(architecture)
    METHODS[name].apply(model)
    found = {n for n, m in model.named_modules() if isinstance(m, Adapter)}
    assert {n.partition(".encoder.layer.")[2] for n in found} == places
    norms = {n for n in trained_names(model) if "LayerNorm" in n and ".down." not in n and ".up." not in n}
    own = {n for n in norms if ".norm." in n}
    assert len(norms - own) == (10 if name == "houlsby" else 0)  # five of the encoder's own, gain and shift
    assert len(own) == (4 if name == "lin" else 0)


def test_no_activation_below_the_lowest_adapter_is_kept_for_backward():
    held = {}
    for name in ("pfeiffer", "adapterdrop"):
        model = tiny_model().train()
        METHODS[name].apply(model)
        held[name] = activation_bytes(model, lambda model=model: model(**tiny_inputs()).logits.sum())
    assert held["adapterdrop"] < 0.6 * held["pfeiffer"]


def test_houlsbys_wrapped_dropout_still_drops():
    """Houlsby's adapter wraps the encoder's own dropout."""
    model = tiny_model(dropout=0.5)
    METHODS["houlsby"].apply(model)
    part = encoder_layers(model)[0].output
    z, x = torch.ones(9, 48), torch.ones(9, 32)
    alike, apart = part(z, x), part.train()(z, x)
    assert torch.allclose(alike, alike[:1], atol=1e-5)  # some rows of a product may be rounded in another way
    assert len(torch.unique(apart, dim=0)) == 9


def hidden_types(model: torch.nn.Module) -> list[torch.dtype]:
    types = []
    for layer in encoder_layers(model):
        layer.register_forward_hook(lambda layer, inputs, output: types.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**tiny_inputs())
    return types


def test_autocast_gives_the_hidden_states_the_types_of_the_plain_model(method):
    model = tiny_model()
    method.apply(model)
    assert hidden_types(model) == hidden_types(tiny_model())


def small(model_type: str, **more: int) -> torch.nn.Module:
    """Another architecture, two layers of it, at random."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=300, num_labels=3, **more)
    return AutoModelForSequenceClassification.from_config(config).eval()


DEBERTA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 64}


@pytest.mark.parametrize("name", ["bitfit", "top_layers", *ADAPTERS])
def test_deberta_trains_with_adapters_top_layers_and_bitfit(name):
    model = small("deberta-v2", max_position_embeddings=64, type_vocab_size=0, **DEBERTA)
    expected, method = logits(model), METHODS[name]
    method.apply(model)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    train_steps(model, method)
    assert not torch.allclose(logits(model), expected, atol=1e-3)


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_refuse_an_unknown_kind_of_layer_by_name(name):
    with pytest.raises(UserError, match="TransformerBlock is not: use another method"):
        METHODS[name].apply(small("distilbert", **DISTILBERT))


@pytest.mark.parametrize("name", ["bitfit", "top_layers"])
def test_parts_of_other_encoders_train_as_well(name):
    model = small("distilbert", **DISTILBERT)
    METHODS[name].apply(model)
    assert trained_names(model)


def test_an_encoder_without_a_list_of_layers_is_refused():
    model = tiny_model()
    model.config.num_hidden_layers = 3
    with pytest.raises(UserError, match="RobertaModel has no list of 3 layers"):
        TopLayers(layers=1).apply(model)


@pytest.mark.parametrize(
    ("method_class", "bad", "message"),
    [
        (Houlsby, {"bottleneck": 0}, "method.bottleneck is 0; it must be at least 1"),
        (Lin, {"bottleneck": -1}, "method.bottleneck is -1"),
        (Pfeiffer, {"bottleneck": 0}, "method.bottleneck is 0"),
        (AdapterDrop, {"dropped_layers": -1}, "method.dropped_layers is -1; it must be at least 0"),
        (AdapterDrop, {"dropped_layers": 2}, "method.dropped_layers is 2, of 2 layers: leave at least one"),
        (TopLayers, {"layers": 0}, "method.layers is 0; it must be at least 1"),
        (TopLayers, {"layers": 3}, "method.layers is 3; the encoder has 2: choose at most that"),
    ],
)
def test_impossible_adapter_sizes_and_layer_counts_are_refused(method_class, bad, message):
    with pytest.raises(UserError, match=message):
        method_class(**bad).apply(tiny_model())


def test_lora_of_full_rank_can_reach_every_matrix():
    """With r = d, s·B·A can be any ΔW, as full fine-tuning can: the singular value decomposition gives B and A."""
    base = torch.nn.Linear(12, 8)
    layer = LoRALinear(base, LoRA(rank=8, alpha=16.0))
    goal = torch.randn(8, 12)
    with torch.no_grad():
        u, singular, v = torch.linalg.svd(goal - base.weight, full_matrices=False)
        layer.B.copy_(u * singular / layer.scale)
        layer.A.copy_(v)
    torch.testing.assert_close(layer.effective_weight(), goal, atol=1e-5, rtol=1e-5)
    assert type(layer.merged()) is torch.nn.Linear
