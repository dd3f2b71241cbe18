"""PreEmbed and PreLayer beside their definitions, place by place, and beside PEFT's key/value prefix."""

import pytest
import torch
import torch.nn.functional as F
from support.command_line import compose
from support.tiny import shake, tiny_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from core.errors import UserError
from experiments.inputs import apply_method, load_inputs
from methods.base import parameter_counts, trained_state
from methods.prefix import PrefixEmbed, PrefixLayer, PrefixMethod
from models.packed import Padded, forward_path

KINDS = pytest.mark.parametrize("kind", [PrefixEmbed, PrefixLayer], ids=["embed", "layer"])
SIZES = pytest.mark.parametrize(("l_p", "l_i"), [(3, 2), (3, 0), (0, 2)], ids=["both", "prefix", "infix"])
PAD = {"roberta": 1, "bert": 0}


def adapted(method: PrefixMethod, architecture: str = "roberta", **more) -> nn.Module:
    """A small model whose places have left their start."""
    model = tiny_model(architecture, **more)
    method.apply(model)
    shake(model)
    return model


def texts(architecture: str) -> dict[str, Tensor]:
    """Three texts of unequal lengths; the second one spells the padding token, once within it and once at its end."""
    ids = torch.randint(5, 120, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([[9], [7], [3]])).long()
    ids[mask == 0] = PAD[architecture]
    ids[1, 2] = ids[1, 6] = PAD[architecture]
    inputs = {"input_ids": ids, "attention_mask": mask}
    if architecture == "bert":
        inputs["token_type_ids"] = mask * (torch.arange(9) >= torch.tensor([[4], [3], [2]])).long()
    return inputs


def attend(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's output for x (tokens, d), all of which see each other."""
    own = layer.attention.self
    q, k, v = (
        part(x).unflatten(-1, (own.num_attention_heads, -1)).transpose(0, 1) for part in (own.query, own.key, own.value)
    )
    mixed = ((q @ k.transpose(1, 2) / k.shape[-1] ** 0.5).softmax(-1) @ v).transpose(0, 1).flatten(1)
    x = layer.attention.output(mixed, x)
    return layer.output(layer.intermediate(x), x)


def by_definition(model: nn.Module, P: Tensor, l_p: int, l_i: int, ids: Tensor, types: Tensor | None) -> Tensor:
    """Logits of one text without padding: the prefix lies before `<s>`, the infix behind the last token, all in one row.

    Args:
        P: (l_p + l_i, d) for word embeddings, (L, l_p + l_i, d) for activations.
    """
    encoder = model.base_model
    parts, n = encoder.embeddings, len(ids)
    padding_id = parts.position_embeddings.padding_idx
    numbers = torch.arange(l_p + n + l_i)
    if padding_id is not None:
        seen, numbers = padding_id, numbers * 0
        for i in range(l_p + n + l_i):  # transformers' rule, over the row with its places
            if l_p <= i < l_p + n and ids[i - l_p] == padding_id:
                numbers[i] = padding_id
            else:
                seen += 1
                numbers[i] = seen
    words, kinds = parts.word_embeddings(ids), torch.zeros(n, dtype=torch.long) if types is None else types
    W = P if P.dim() == 2 else torch.zeros_like(P[0])
    x = torch.cat([W[:l_p], words, W[l_p:]])
    kinds = torch.cat([kinds[:1].repeat(l_p), kinds, kinds[-1:].repeat(l_i)])
    x = parts.LayerNorm(x + parts.token_type_embeddings(kinds) + parts.position_embeddings(numbers))
    for i, layer in enumerate(encoder.encoder.layer):
        if P.dim() == 3:
            x = torch.cat([P[i, :l_p], x[l_p : l_p + n], P[i, l_p:]])  # what was computed there is replaced
        x = attend(layer, x)
    first = x[l_p : l_p + 1].unsqueeze(0)  # <s>
    return model.classifier(first if encoder.pooler is None else encoder.pooler(first)).squeeze(0)


@KINDS
@SIZES
def test_logits_and_gradients_are_those_of_the_definition(kind, l_p, l_i, architecture):
    model, inputs = adapted(kind(l_p=l_p, l_i=l_i), architecture), texts(architecture)
    P, lengths = model.base_model.prefix.P, inputs["attention_mask"].sum(1).tolist()
    types = inputs.get("token_type_ids", [None] * 3)
    expected = torch.stack(
        [
            by_definition(model, P, l_p, l_i, ids[:n], own if own is None else own[:n])
            for ids, own, n in zip(inputs["input_ids"], types, lengths, strict=True)
        ]
    )
    logits = model(**inputs).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(x.square().sum(), P)[0] for x in (logits, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4 * float(gradients[1].abs().max()))


@SIZES
def test_prelayer_equals_pefts_prefix_tuning_with_its_keys_and_values(l_p, l_i, architecture):
    """PEFT's places all shift the text; the infix's do not, so its model has position embeddings moved down by l_i."""
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    model, inputs = adapted(PrefixLayer(l_p=l_p, l_i=l_i), architecture), texts(architecture)
    P, other, v = model.base_model.prefix.P, tiny_model(architecture), l_p + l_i
    table = other.base_model.embeddings.position_embeddings.weight
    first = PAD["roberta"] + 1 if architecture == "roberta" else 0  # the padding's own row stays
    with torch.no_grad():
        table[first + l_i :] = table[first : len(table) - l_i].clone()
    theirs = get_peft_model(other, PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=v)).eval()
    own = [layer.attention.self for layer in model.base_model.encoder.layer]
    rows = [F.linear(P[i], part.weight, part.bias) for i, each in enumerate(own) for part in (each.key, each.value)]
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(torch.cat(rows, dim=1))  # (v, L · 2 · d)
        torch.testing.assert_close(model(**inputs).logits, theirs(**inputs).logits, rtol=1e-4, atol=1e-5)


@KINDS
def test_a_texts_logits_do_not_depend_on_its_neighbours_or_on_a_given_mask(kind, architecture):
    model, inputs = adapted(kind(l_p=3, l_i=2), architecture), texts(architecture)
    together = model(**inputs).logits
    for i, n in enumerate(inputs.pop("attention_mask").sum(1).tolist()):
        alone = {name: ids[i : i + 1, :n] for name, ids in inputs.items()}
        torch.testing.assert_close(model(**alone).logits[0], together[i], rtol=1e-4, atol=1e-5)


@KINDS
def test_each_place_changes_the_output(kind, architecture):
    model, inputs = adapted(kind(l_p=2, l_i=2), architecture), texts(architecture)
    P, before = model.base_model.prefix.P, model(**inputs).logits
    for place in range(4):
        with torch.no_grad():
            kept = P.clone()
            P[..., place, 0] += 5  # a step of all numbers alike is what LayerNorm takes out
            assert not torch.allclose(model(**inputs).logits, before, atol=1e-4)
            P.copy_(kept)


@KINDS
def test_only_the_places_train_below_the_head_and_only_they_are_saved(kind, architecture):
    model = adapted(kind(l_p=3, l_i=2), architecture)
    assert [n for n in trained_state(model) if "prefix" in n] == [f"{model.base_model_prefix}.prefix.P"]
    assert len(trained_state(model)) == 5


def test_preembed_starts_at_words_of_the_encoder_drawn_by_the_seed():
    models = []
    for seed in (0, 0, 1):
        models.append(tiny_model())
        torch.manual_seed(seed)
        PrefixEmbed(l_p=6, l_i=2).apply(models[-1])
    one, same, other = (model.base_model.prefix.P for model in models)
    words = models[0].base_model.embeddings.word_embeddings.weight
    assert all((row == words).all(1).any() for row in one)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@KINDS
@pytest.mark.parametrize("forward", ["packed", "padded", "compiled"])
def test_the_model_takes_the_plain_path(kind, forward, architecture):
    assert isinstance(forward_path(adapted(kind(l_p=3, l_i=2), architecture), forward), Padded)


GPT3 = {"hidden_size": 12288, "num_hidden_layers": 96, "num_attention_heads": 96, "intermediate_size": 49152}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


@pytest.mark.parametrize(
    ("method", "shape", "expected"),
    [
        (PrefixEmbed(l_p=256, l_i=8), GPT3, 3_244_032),  # table 15: 3.2M
        (PrefixLayer(l_p=32, l_i=4), GPT3, 42_467_328),  # 44.1M; the formula of section 5.1 gives 42.5M
        (PrefixEmbed(), BASE, 40 * 768),
        (PrefixLayer(), BASE, 16 * 9_216),
        (PrefixEmbed(l_p=1, l_i=0), LARGE, 1_024),
        (PrefixLayer(l_p=0, l_i=1), LARGE, 24_576),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_counts_are_the_papers_formulas(method, shape, expected):
    config = AutoConfig.for_model("roberta", **shape, vocab_size=10, max_position_embeddings=514)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    method.apply(model)
    assert parameter_counts(model, {})["trained_without_head"] == expected


def tiny_run(*words: str):
    return compose("profile=offline", "backbone=tiny", "task=mrpc", "data.train_size=8", "data.eval_size=8", *words)


@pytest.mark.parametrize(("name", "most"), [("prefix_embed", 128 - 5), ("prefix_layer", 128 - 3)])
def test_the_longest_text_fits_and_a_longer_one_is_refused(name, most):
    words = (f"method={name}", "method.l_p=3", "method.l_i=2")
    run = tiny_run(*words, f"task.max_length={most}")
    backbone = load_inputs(run).backbone
    apply_method(run, backbone)
    ids = torch.full((1, most), 7)
    assert backbone.model(input_ids=ids).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):  # of torch: one position too many
        backbone.model(input_ids=torch.full((1, most + 1), 7))
    with pytest.raises(
        UserError, match=f"task.max_length is 128; tiny takes at most {most} beside the method's {128 - most}"
    ):
        load_inputs(tiny_run(*words, "task.max_length=128"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.l_p=0", "method.l_i=0"], "method.l_p and method.l_i are both 0"),
        (["method.l_p=-1"], "method.l_p is -1; it must be at least 0"),
        (["method.l_i=5000"], "method.l_i is 5000; it must be at least 0 and at most 4096"),
    ],
)
@pytest.mark.parametrize("name", ["prefix_embed", "prefix_layer"])
def test_impossible_numbers_of_places_are_refused(name, words, message):
    with pytest.raises(UserError, match=message):
        tiny_run(f"method={name}", *words)


@KINDS
def test_places_that_leave_no_position_for_a_text_are_refused(kind, architecture):
    with pytest.raises(UserError, match=r"take 64 of 64 positions: leave some for a text"):
        kind(l_p=64, l_i=0).apply(tiny_model(architecture))


@KINDS
def test_other_encoders_and_decoders_are_refused_by_name(kind):
    config = AutoConfig.for_model("distilbert", vocab_size=99, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    with pytest.raises(UserError, match="of BERT and RoBERTa alone, not of DistilBertModel: use another method"):
        kind().apply(AutoModelForSequenceClassification.from_config(config))
    decoder = tiny_model()
    decoder.config.is_decoder = True
    with pytest.raises(UserError, match="not of RobertaModel"):
        kind(l_p=3).apply(decoder)
