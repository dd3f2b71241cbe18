"""LST beside its formulas, text by text and row by row; and that the backbone gets no gradient and keeps no activations."""

import copy

import pytest
import torch
from support.command_line import compose
from support.runs import run
from support.tiny import shake, tiny_inputs, tiny_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from core.errors import UserError
from experiments.export import export_adapter, export_merged
from experiments.restore import restore
from methods.base import encoder_layers, head_parameters, parameter_counts, trained_state
from methods.ladder_side import LadderSide
from methods.lora import LoRA
from models.packed import Padded, forward_path
from training.accelerator import make_accelerator
from training.meters import activation_bytes, held_bytes

K = 4


def adapted(architecture: str = "roberta", **settings) -> nn.Module:
    """A small model whose side network has left its start."""
    model = tiny_model(architecture)
    LadderSide(**{"reduction": K} | settings).apply(model)
    shake(model)
    return model


def side_layer(g: nn.Module, x: Tensor) -> Tensor:
    """BERT's layer for x (tokens, d/k), all of which see each other: out of its weights alone."""

    def linear(part: nn.Module, x: Tensor) -> Tensor:
        return x @ part.weight.T + part.bias

    def norm(part: nn.Module, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return part.weight * centred / (centred.square().mean(-1, keepdim=True) + part.eps).sqrt() + part.bias

    own = g.attention.self
    q, k, v = (linear(part, x).chunk(own.num_attention_heads, dim=-1) for part in (own.query, own.key, own.value))
    mixed = [(a @ b.T / a.shape[1] ** 0.5).softmax(-1) @ c for a, b, c in zip(q, k, v, strict=True)]
    x = norm(g.attention.output.LayerNorm, x + linear(g.attention.output.dense, torch.cat(mixed, dim=-1)))
    inner = torch.nn.functional.gelu(linear(g.intermediate.dense, x))
    return norm(g.output.LayerNorm, x + linear(g.output.dense, inner))


def by_definition(model: nn.Module, plain: nn.Module, ids: Tensor) -> Tensor:
    """Logits of one text without padding; the backbone is a model that no method was applied to."""
    with torch.no_grad():
        hidden = plain.base_model(input_ids=ids.unsqueeze(0), output_hidden_states=True).hidden_states
    own = model.base_model.ladder
    s = hidden[0][0] @ own.D.weight.T + own.D.bias
    for h, rung in zip(hidden[1:], own.rungs.values(), strict=True):
        mu = 1 / (1 + torch.exp(-rung.alpha / 0.1))
        s = side_layer(rung.g, mu * s + (1 - mu) * (h[0] @ rung.D.weight.T + rung.D.bias))
    out = (s @ own.U.weight.T + own.U.bias)[:1].unsqueeze(0)
    pooler = model.base_model.pooler
    return model.classifier(out if pooler is None else pooler(out))[0]


def test_logits_and_gradients_are_those_of_the_definition(architecture):
    model, inputs = adapted(architecture), tiny_inputs()
    plain = tiny_model(architecture)
    texts = [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    expected = torch.stack([by_definition(model, plain, ids) for ids in texts])
    logits = model(**inputs).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    ours, theirs = (torch.autograd.grad(x.square().sum(), list(trained.values())) for x in (logits, expected))
    for name, one, other in zip(trained, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()) + 1e-5, msg=name)
        assert other.any() or name.endswith("key.bias"), name


def hidden_states(model: nn.Module) -> list[Tensor]:
    """What each layer of the backbone takes in and gives out in training."""
    seen: list[Tensor] = []
    for layer in encoder_layers(model):
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        layer.register_forward_hook(lambda _, inputs, output: seen.append(output))
    model.train()(**tiny_inputs())
    return seen


def test_no_gradient_enters_the_backbone(architecture):
    model = adapted(architecture)
    below = {n for n, p in model.named_parameters() if p.requires_grad and ".ladder." not in n}
    assert len(below) == len(head_parameters(model)) == 4
    assert [h.requires_grad for h in hidden_states(model)] == [False] * 4
    lora = tiny_model(architecture)
    LoRA(rank=4).apply(lora)
    assert any(h.requires_grad for h in hidden_states(lora))


def test_what_trains_below_a_d_gets_no_gradient_either():
    """A hook that makes the embeddings' output require gradients, say, as gradient checkpointing sets one."""
    model = adapted()
    model.base_model.embeddings.LayerNorm.requires_grad_(True)
    model(**tiny_inputs()).logits.sum().backward()
    assert model.base_model.embeddings.LayerNorm.weight.grad is None
    assert model.base_model.ladder.D.weight.grad.any()


def grown(layers: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    shape = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 4 * width,
    }
    config = AutoConfig.for_model("roberta", vocab_size=300, max_position_embeddings=66, pad_token_id=1, **shape)
    return AutoModelForSequenceClassification.from_config(config).train()


def test_autograd_keeps_only_each_layers_output_of_the_backbone():
    """The inputs of the D, (L + 1)·batch·seq·d numbers; all else that it keeps shrinks with k, and LoRA keeps all of it."""
    L, d, held = 4, 128, {}
    for name, method in {"lora": LoRA(rank=4), 8: LadderSide(), 16: LadderSide(reduction=16)}.items():
        model = grown(L, d)
        method.apply(model)
        inputs = tiny_inputs(batch=4, length=32)
        held[name] = activation_bytes(model, lambda model=model, inputs=inputs: model(**inputs).logits.sum())
    states = (L + 1) * 4 * 32 * d * 4
    assert states < held[16] < held[8] < 0.5 * held["lora"]
    model = grown(L, d)
    LadderSide(reduction=32).apply(model)
    inputs = tiny_inputs(batch=4, length=32)
    sizes: dict[tuple[int, ...], int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape == (4, 32, d):
            sizes[tensor.untyped_storage().data_ptr(),] = 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(**inputs).logits
    assert len(sizes) <= L + 2  # the h_i, and what the head reads
    assert logits.requires_grad
    assert held_bytes(model, lambda: model(**inputs).logits)["float32"] > states


def norms(W: Tensor) -> list[float]:
    return [sum(abs(float(number)) for number in row) for row in W.detach()]


def largest(scores: list[float], blocks: int) -> list[int]:
    """1/K of the indices in each block, in their order."""
    size, chosen = len(scores) // blocks, []
    for begin in range(0, len(scores), size):
        own = sorted(range(begin, begin + size), key=lambda i: -scores[i])[: size // K]
        chosen += sorted(own)
    return chosen


def test_the_side_network_is_the_backbone_pruned_row_by_row(architecture):
    model = tiny_model(architecture)
    plain = copy.deepcopy(model)
    LadderSide(reduction=K).apply(model)
    columns = largest(norms(plain.base_model.embeddings.word_embeddings.weight.T), 1)
    for layer, rung in zip(encoder_layers(plain), model.base_model.ladder.rungs.values(), strict=True):
        own, side = layer.attention.self, rung.g
        product = (own.query.weight * own.key.weight * own.value.weight)[:, columns]
        rows = largest(norms(product), blocks=2)
        for name in ("query", "key", "value"):
            whole, part = getattr(own, name), getattr(side.attention.self, name)
            assert torch.equal(part.weight, torch.stack([whole.weight[row][columns] for row in rows]))
            assert torch.equal(part.bias, whole.bias[rows])
        for whole, part in (
            (layer.attention.output, side.attention.output),
            (layer.intermediate, side.intermediate),
            (layer.output, side.output),
        ):
            columns, rows = rows, largest(norms(whole.dense.weight[:, rows]), 1)
            assert torch.equal(part.dense.weight, torch.stack([whole.dense.weight[row][columns] for row in rows]))
            assert torch.equal(part.dense.bias, whole.dense.bias[rows])
            if whole is not layer.intermediate:
                assert torch.equal(part.LayerNorm.weight, whole.LayerNorm.weight[rows])
        columns = rows


def test_a_random_start_is_the_encoders_own_and_another_for_each_seed():
    models = []
    for seed in (0, 0, 1):
        models.append(tiny_model())
        torch.manual_seed(seed)
        LadderSide(reduction=K, init="random").apply(models[-1])
    one, same, other = (model.base_model.ladder.rungs["1"].g.intermediate.dense for model in models)
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)
    ladder = models[0].base_model.ladder
    for layer in (one, ladder.D, ladder.rungs["1"].D, ladder.U):
        assert not layer.bias.any()
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.3)


def test_a_gate_weighs_the_side_state_and_its_complement_the_backbone():
    model = adapted()
    own, inputs = model.base_model.ladder, tiny_inputs()
    before = model(**inputs).logits
    with torch.no_grad():
        for rung in own.rungs.values():
            rung.alpha.fill_(5.0)  # μ = 1
        deaf = model(**inputs).logits
        own.rungs["2"].D.weight.add_(1)
        assert torch.equal(model(**inputs).logits, deaf)
        own.D.weight.add_(1)
        assert not torch.allclose(model(**inputs).logits, deaf, atol=1e-4)
    assert not torch.allclose(before, deaf, atol=1e-4)


@pytest.mark.parametrize("forward", ["packed", "padded", "compiled"])
def test_the_model_takes_the_plain_path(forward, architecture):
    assert isinstance(forward_path(adapted(architecture), forward), Padded)


def test_a_copy_climbs_its_own_ladder():
    model = adapted()
    other = copy.deepcopy(model)
    expected = model(**tiny_inputs()).logits
    with torch.no_grad():
        other.base_model.ladder.U.weight.zero_()
    assert torch.equal(model(**tiny_inputs()).logits, expected)
    assert not torch.allclose(other(**tiny_inputs()).logits, expected, atol=1e-4)
    assert model.base_model.ladder.s is None


@pytest.mark.parametrize(
    ("shape", "expected"), [((768, 12, 3072, 12), 2_376_300), ((1024, 24, 4096, 16), 8_170_648)], ids=["base", "large"]
)
def test_counts_at_robertas_shapes_are_the_formula(shape, expected):
    d, n, d_ff, heads = shape
    names = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
    config = AutoConfig.for_model("roberta", vocab_size=10, **dict(zip(names, shape, strict=True)))
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    LadderSide().apply(model)
    w, f = d // 8, d_ff // 8
    count = n * (4 * (w * w + w) + w * f + f + f * w + w + 4 * w) + (n + 1) * (d * w + w) + w * d + d + n
    assert parameter_counts(model, {})["trained_without_head"] == count == expected
    assert model.base_model.ladder.rungs["1"].g.attention.self.num_attention_heads == heads


def test_a_finished_run_is_restored_and_neither_merges_nor_goes_to_peft(tmp_path):
    folder, record = run(tmp_path, "ladder_side", "cola")
    assert not (folder / "adapter").exists()
    restored = restore(folder)
    assert sum(".ladder." in name for name in trained_state(restored.model)) > 20
    assert record["parameters"]["trained_without_head"] > 0
    accelerator = make_accelerator(restored.run.trainer, deterministic=False)
    with pytest.raises(UserError, match="method=ladder_side does not merge into a plain model"):
        export_merged(restored, tmp_path / "merged", accelerator, "")
    with pytest.raises(UserError, match="method=ladder_side has no format of PEFT's here"):
        export_adapter(restored, tmp_path / "adapter", "")


@pytest.mark.parametrize("reduction", [3, 32])
def test_a_width_that_does_not_divide_is_refused(reduction):
    with pytest.raises(
        UserError, match=f"method.reduction is {reduction}; it must divide the width of a head, 16, and 48"
    ):
        LadderSide(reduction=reduction).apply(tiny_model())


def test_other_encoders_decoders_and_settings_are_refused_by_name():
    config = AutoConfig.for_model("distilbert", vocab_size=99, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    with pytest.raises(UserError, match="the layers of BERT and RoBERTa alone, not of DistilBertModel: use another"):
        LadderSide().apply(AutoModelForSequenceClassification.from_config(config))
    decoder = tiny_model()
    decoder.config.is_decoder = True
    with pytest.raises(UserError, match="not of RobertaModel"):
        LadderSide(reduction=K).apply(decoder)
    for word in ("reduction=0", "init=fisher"):
        with pytest.raises(UserError, match=f"method.{word.partition('=')[0]}"):
            compose("method=ladder_side", f"method.{word}")
    assert (compose("method=ladder_side").method.reduction, compose("method=ladder_side").method.init) == (8, "pruned")
