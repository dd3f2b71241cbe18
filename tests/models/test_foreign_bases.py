"""What a checkpoint's own configuration, head and tokenizer say, where the task or the text should speak."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.architectures import ARCHITECTURES, TEXTS, random_classifier, save_base
from support.command_line import compose
from support.files import edit_json
from support.tiny import METHODS, shake
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from core.errors import UserError
from methods.base import head_parameters, load_trained_state, merge, trained_state
from methods.bitfit import BitFit
from methods.full import Full
from methods.top_layers import TopLayers
from models.backbone import PLAIN, Backbone, load_backbone
from models.batches import collate, encode
from models.packed import Packed, forward_path
from serving.endpoint import answer
from tasks.glue import GLUE, Task
from tasks.loading import Split


def load(folder, task: str = "rte", seed: int = 0) -> Backbone:
    return load_backbone(compose("backbone=custom", f"backbone.source={folder}").backbone, GLUE[task], seed, TEXTS)


def change_config(folder, **values) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def text_split(task: Task, *texts: str) -> Split:
    label = 0.0 if task.is_regression else 0
    return Split(
        "texts", [(text,) * len(task.columns) for text in texts], [label] * len(texts), list(range(len(texts)))
    )


@torch.no_grad()
def logits(backbone: Backbone, task: Task, texts: list[str], forward: str = "padded") -> torch.Tensor:
    path = forward_path(backbone.model.eval(), forward)
    data = encode(text_split(task, *texts), backbone.tokenizer, 64)
    return path(path.collate(data, list(range(len(texts)))))


# The head


@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES} - {"xlnet"}))  # which is refused
def test_a_head_that_a_checkpoint_brings_is_drawn_again(architecture, tmp_path):
    """Whatever its size: the same bits as on a checkpoint without a head, others for another seed."""
    bases = {name: tmp_path / name for name in ("bare", "two", "three")}
    save_base(bases["bare"], architecture)
    for name, labels in (("two", 2), ("three", 3)):
        saved = save_base(bases[name], architecture, with_head=True, num_labels=labels)
        encoder = saved.base_model.state_dict()
    for task in ("rte", "mnli"):
        first, *others = (load(folder, task).model for folder in bases.values())
        for other in others:
            for name, tensor in first.state_dict().items():
                assert torch.equal(tensor, other.state_dict()[name]), name
        for name, tensor in first.base_model.state_dict().items():
            assert torch.equal(tensor, encoder[name]), name
        again = load(bases["two"], task, seed=1).model
        pairs = zip(head_parameters(first), head_parameters(again), strict=True)
        assert any(not torch.equal(one, other) for one, other in pairs)


# The configuration


@pytest.mark.parametrize("task", GLUE)
@pytest.mark.parametrize("problem", ["regression", "multi_label_classification", "single_label_classification"])
def test_an_export_answers_through_transformers_pipeline_as_through_ours(task, problem, tmp_path):
    """Alone and in a batch, whatever problem the checkpoint was trained for."""
    save_base(tmp_path / "base", "roberta", with_head=True, num_labels=1 if problem == "regression" else 2)
    change_config(tmp_path / "base", problem_type=problem)
    backbone, row = load(tmp_path / "base", task), GLUE[task]
    METHODS["lora"].apply(backbone.model)
    shake(backbone.model)
    merge(backbone.model).save_pretrained(tmp_path / "out")
    backbone.tokenizer.save_pretrained(tmp_path / "out")
    classify = pipeline("text-classification", str(tmp_path / "out"), device="cpu")
    texts = ["the cat", "a dog ran to the house and sat on the mat"]
    pairs = [{"text": t} if len(row.columns) == 1 else {"text": t, "text_pair": t} for t in texts]
    expected = [answer(row, each) for each in logits(backbone, row, texts, "packed")]
    for found in ([classify(pair) for pair in pairs], classify(pairs, batch_size=2)):
        for ours, theirs in zip(expected, found, strict=True):
            theirs = theirs[0] if isinstance(theirs, list) else theirs
            if row.is_regression:
                assert theirs["score"] == pytest.approx(ours["score"], abs=1e-4)
            else:
                assert theirs["label"] == ours["label"]
                assert theirs["score"] == pytest.approx(ours["probabilities"][ours["label"]], abs=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "roberta", "bert", "opt", "llama"])
def test_a_text_scores_the_same_beside_a_longer_one(architecture, tmp_path):
    """Padding id 0 in the configuration, 1 in the tokenizer; and by both paths."""
    save_base(tmp_path, architecture, pad_id=1, pad_token_id=0)
    backbone, row = load(tmp_path), GLUE["rte"]
    texts = ["the cat", "a dog ran to the house and sat on the mat"]
    alone = torch.cat([logits(backbone, row, [text]) for text in texts])
    for forward in ("padded", "packed"):
        torch.testing.assert_close(logits(backbone, row, texts, forward), alone, rtol=1e-4, atol=1e-5)
    backbone.model.save_pretrained(tmp_path / "out")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    data = encode(text_split(row, *texts), backbone.tokenizer, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(**collate(data, [0, 1]).inputs).logits, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["roberta", "bert"])
def test_a_text_that_spells_the_padding_token_scores_the_same_on_both_paths(architecture, tmp_path):
    save_base(tmp_path, architecture)
    backbone, row = load(tmp_path), GLUE["rte"]
    backbone.tokenizer.split_special_tokens = False  # as a tokenizer may be that a caller brings
    data = encode(text_split(row, "the <pad> cat <pad><pad> sat", "a dog ran to the house"), backbone.tokenizer, 64)
    assert data.inputs["input_ids"][0].count(1) == 6
    packed, padded = (forward_path(backbone.model.eval(), forward) for forward in ("packed", "padded"))
    assert isinstance(packed, Packed)
    with torch.no_grad():
        one, other = (path(path.collate(data, [0, 1])) for path in (packed, padded))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_special_token_in_a_text_is_text_here_and_in_an_export(tmp_path):
    """BART refuses texts with several `</s>`."""
    save_base(tmp_path, "bart")
    backbone, row = load(tmp_path, "cola"), GLUE["cola"]
    texts = ["the </s> cat", "a <pad> dog ran to the <s> house"]
    assert logits(backbone, row, texts).isfinite().all()
    backbone.tokenizer.save_pretrained(tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(texts)["input_ids"] == backbone.tokenizer(texts)["input_ids"]
    assert again(texts)["input_ids"][0].count(2) == 1


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_a_tokenizer_that_pads_left_or_makes_no_mask_is_exported_mended(architecture, tmp_path):
    save_base(tmp_path, architecture)
    edit_json(
        tmp_path / "tokenizer_config.json", lambda c: c.update(padding_side="left", model_input_names=["input_ids"])
    )
    backbone, row = load(tmp_path, "cola"), GLUE["cola"]
    texts = ["the cat", "a dog ran to the house and sat on the mat"]
    expected = logits(backbone, row, texts)
    backbone.tokenizer.save_pretrained(tmp_path / "out")
    batch = AutoTokenizer.from_pretrained(tmp_path / "out")(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(backbone.model(**batch).logits, expected, rtol=1e-4, atol=1e-5)


OUTPUTS = {"output_attentions": True, "output_hidden_states": True, "return_dict": False, "chunk_size_feed_forward": 2}


@pytest.mark.parametrize("key", OUTPUTS)
def test_a_base_whose_configuration_asks_for_another_output_trains_and_is_exported(key, tmp_path):
    save_base(tmp_path, "bert")
    plain = logits(load(tmp_path, "cola"), GLUE["cola"], ["the cat", "a dog ran"])
    change_config(tmp_path, **{key: OUTPUTS[key]})
    backbone = load(tmp_path, "cola")
    assert torch.equal(logits(backbone, GLUE["cola"], ["the cat", "a dog ran"]), plain)
    backbone.model.save_pretrained(tmp_path / "out")
    assert getattr(AutoConfig.from_pretrained(tmp_path / "out"), key) == PLAIN[key]


@pytest.mark.parametrize("architecture", ["t5", "xlnet"])
def test_relative_positions_set_no_limit(architecture, tmp_path):
    model = random_classifier(architecture)
    save_base(tmp_path, architecture)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert Backbone("x", model, tokenizer, {}).max_length > 10**6


# Refusals


def test_a_tokenizer_without_a_padding_token_is_refused(tmp_path):
    save_base(tmp_path, "gpt2")
    edit_json(tmp_path / "tokenizer_config.json", lambda settings: settings.pop("pad_token"))
    with pytest.raises(UserError, match="its tokenizer has no padding token: give it one"):
        load(tmp_path)


def test_a_tokenizer_of_pairs_on_an_encoder_of_one_type_is_refused(tmp_path):
    save_base(tmp_path, "roberta", type_vocab_size=1)
    file = tmp_path / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    file.write_text(json.dumps(settings))
    tokens = json.loads((tmp_path / "tokenizer.json").read_text())
    tokens["post_processor"] = {"type": "BertProcessing", "sep": ["</s>", 3], "cls": ["<s>", 0]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(UserError, match="uses token types 0 to 1, the encoder knows 1: take token_type_ids out"):
        load(tmp_path)


def test_weights_that_do_not_fit_the_configuration_are_refused_by_their_shape(tmp_path):
    save_base(tmp_path, "bert")
    change_config(tmp_path, max_position_embeddings=40)
    with pytest.raises(
        UserError, match=r"position_embeddings.weight in .* has shape \(64, 32\), by config.json it has \(40"
    ):
        load(tmp_path)


def test_quantized_weights_are_refused(tmp_path):
    save_base(tmp_path, "bert")
    change_config(tmp_path, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(UserError, match="are quantized: give full ones; method=qlora"):
        load(tmp_path)


def test_a_vocabulary_is_a_tokenizer_and_a_folder_without_one_is_refused(tmp_path):
    """RoBERTa's own form: vocab.json and merges.txt."""
    save_base(tmp_path, "roberta")
    tokens = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    expected = logits(load(tmp_path, "cola"), GLUE["cola"], ["the cat sat"])
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no tokenizer, no file like .*: give backbone.tokenizer=FOLDER"):
        load(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(tokens["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(pair) for pair in tokens["merges"]))
    torch.testing.assert_close(logits(load(tmp_path, "cola"), GLUE["cola"], [" the cat sat"]), expected)


def test_a_text_without_a_token_is_named(tmp_path):
    save_base(tmp_path, "gpt2")
    tokens = json.loads((tmp_path / "tokenizer.json").read_text()) | {"post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
    backbone = load(tmp_path, "cola")
    with pytest.raises(UserError, match="texts, idx 1: the text has no token"):
        encode(text_split(GLUE["cola"], "a cat", ""), backbone.tokenizer, 64)


# What trains


@pytest.mark.parametrize(("architecture", "settings"), [("deberta-v2", {"share_att_key": False}), ("luke", {})])
def test_query_and_value_are_whole_names(architecture, settings):
    """Not DeBERTa's pos_query_proj, nor LUKE's w2e_query: as peft finds `["query", "value"]`."""
    method = METHODS["lora"]
    adapted = {
        name.removesuffix(".A").rpartition(".")[2] for name in trains(architecture, method, **settings) if ".A" in name
    }
    assert adapted in ({"query_proj", "value_proj"}, {"query", "value"})


def trains(architecture: str, method, **settings) -> set[str]:
    model = random_classifier(architecture, **settings)
    method.apply(model)
    head = {id(p) for p in head_parameters(model)}
    return {name for name, p in model.named_parameters() if p.requires_grad and id(p) not in head}


@pytest.mark.parametrize("architecture", ["bert", "deberta", "deberta-v2", "electra", "luke", "longformer"])
def test_houlsby_trains_every_norm_of_whatever_class(architecture):
    norms = {name for name, _ in random_classifier(architecture).named_parameters() if "norm" in name.lower()}
    trained = trains(architecture, METHODS["houlsby"])
    assert norms
    assert {name for name in trained if name.split(".")[-2] not in ("down", "up")} == norms


@pytest.mark.parametrize(("architecture", "odd"), [("deberta", "q_bias"), ("funnel", "r_w_bias"), ("bert", ".bias")])
def test_bitfit_trains_every_bias_of_whatever_name(architecture, odd):
    names = {name for name, _ in random_classifier(architecture).named_parameters()}
    trained = trains(architecture, BitFit())
    assert any(name.endswith(odd) for name in trained)
    assert not [
        name for name in names - trained if name.endswith("bias") and "classifier" not in name and "pooler" not in name
    ]


@pytest.mark.parametrize(
    ("architecture", "top"),
    [
        ("bart", "model.decoder.layers.1."),
        ("t5", "transformer.decoder.block.1."),
        ("funnel", "funnel.encoder.blocks.1.0."),
    ],
)
def test_top_layers_trains_the_whole_layer_below_the_head(architecture, top):
    everything = {name for name, _ in random_classifier(architecture).named_parameters() if name.startswith(top)}
    assert trains(architecture, TopLayers(layers=1)) == everything


# What is kept


def test_tied_weights_are_kept_once(tmp_path):
    model = random_classifier("bart")
    Full().apply(model)
    state = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    assert [name for name in state if "embed_tokens" in name or "shared" in name] == ["model.shared.weight"]
    save_file(trained_state(model), tmp_path / "best.safetensors")
    other = copy.deepcopy(model)
    shake(other)
    load_trained_state(other, load_file(tmp_path / "best.safetensors"))
    assert torch.equal(other.model.decoder.embed_tokens.weight, model.model.shared.weight)
