"""`backbone.tokenizer`: a tokenizer from elsewhere, on random weights and on a checkpoint's."""

import json
import shutil

import pytest
import torch
from support.architectures import save_base
from support.command_line import ROOT, compose
from support.files import TEXTS, edit_json, save_encoder
from transformers import AutoTokenizer

import train
from core.errors import UserError
from experiments.config import to_dict
from experiments.record import read_record
from experiments.restore import restore
from models.backbone import Backbone, load_backbone
from models.random_init import train_tokenizer
from serving.adapters import from_folder
from tasks.glue import GLUE

REAL = ROOT.parent / "shared/roberta_tokenizer"
OTHER_TEXTS = [("one fish two fish",), ("red fish blue fish",)]


def save_tokenizer(folder, texts=TEXTS, vocabulary: int = 300, pad_id: int = 1):
    train_tokenizer(texts, vocabulary, pad_id).save_pretrained(folder)
    return folder


def random(tokenizer, *words: str, seed: int = 0) -> Backbone:
    config = compose("backbone=tiny", f"backbone.tokenizer={tokenizer}", *words).backbone
    return load_backbone(config, GLUE["cola"], seed, TEXTS)


def checkpoint(folder, *words: str) -> Backbone:
    config = compose("backbone=custom", f"backbone.source={folder}", *words).backbone
    return load_backbone(config, GLUE["cola"], 0, TEXTS)


# What it gives


def test_random_weights_take_the_given_tokenizer(tmp_path):
    backbone = random(save_tokenizer(tmp_path, OTHER_TEXTS))
    words = OTHER_TEXTS[0][0]
    assert backbone.tokenizer(words)["input_ids"] == AutoTokenizer.from_pretrained(tmp_path)(words)["input_ids"]
    assert backbone.tokenizer("</s>")["input_ids"].count(2) == 1  # "</s>" in a text is text
    alone = load_backbone(compose("backbone=tiny").backbone, GLUE["cola"], 0, TEXTS)
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(tensor, backbone.model.state_dict()[name]), name
    assert "tokenizer" not in alone.provenance


def test_the_provenance_is_of_seed_architecture_and_the_tokenizers_content(tmp_path):
    one = random(save_tokenizer(tmp_path / "one"))
    first = one.provenance
    one.tokenizer("a text", truncation=True, max_length=4)
    one.tokenizer.save_pretrained(tmp_path / "copy")  # with the last call's truncation
    assert random(tmp_path / "copy").provenance == first
    others = [
        random(tmp_path / "one", seed=1),
        random(tmp_path / "one", "backbone.architecture.num_hidden_layers=1"),
        random(save_tokenizer(tmp_path / "other", OTHER_TEXTS)),
    ]
    assert len({first["sha256"], *(backbone.provenance["sha256"] for backbone in others)}) == 4
    assert [backbone.provenance["tokenizer"] == first["tokenizer"] for backbone in others] == [True, True, False]


@pytest.mark.parametrize("architecture", ["roberta", "bert"])
def test_a_checkpoint_without_a_tokenizer_takes_the_given_one(architecture, tmp_path):
    save_base(tmp_path / "encoder", architecture)
    (tmp_path / "tokenizer").mkdir()
    for file in (tmp_path / "encoder").glob("tokenizer*"):
        file.rename(tmp_path / "tokenizer" / file.name)
    with pytest.raises(UserError, match=r"has no tokenizer, no file like"):
        checkpoint(tmp_path / "encoder")
    backbone = checkpoint(tmp_path / "encoder", f"backbone.tokenizer={tmp_path / 'tokenizer'}")
    shutil.copytree(tmp_path / "tokenizer", tmp_path / "encoder", dirs_exist_ok=True)
    own = checkpoint(tmp_path / "encoder")
    text = TEXTS[0][0]
    assert backbone.tokenizer(text)["input_ids"] == own.tokenizer(text)["input_ids"]
    tokenizer = backbone.provenance["tokenizer"]
    assert tokenizer
    assert backbone.provenance == own.provenance | {"tokenizer": tokenizer}  # the sha256 stays the weights'


def test_a_run_is_known_by_its_tokenizer(tmp_path):
    """It moves; another in its place is refused by restoring, resuming, serving and a warm start."""
    here = save_tokenizer(tmp_path / "here")
    quick = ("logger=none", "trainer.max_steps=1", "task.max_length=32", "data.train_size=16", "data.eval_size=8")
    words = ("backbone=tiny", f"backbone.tokenizer={here}", "data=generated", f"output_dir={tmp_path / 'runs'}", *quick)
    run = compose(*words)
    train.train(run)
    folder, provenance = run.folder, read_record(run.folder)["provenance"]["backbone"]
    before = restore(folder)
    there = shutil.move(here, tmp_path / "there")
    with pytest.raises(UserError, match=r"backbone.tokenizer: there is no folder"):
        restore(folder)
    after = restore(folder, tokenizer=str(there))
    assert after.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    save_tokenizer(here, OTHER_TEXTS)
    with pytest.raises(UserError, match=r"was trained with another tokenizer: backbone.tokenizer=DIR"):
        restore(folder)
    with pytest.raises(UserError, match="holds a run whose backbone differs"):
        train.train(run)
    from_folder(folder, provenance)
    with pytest.raises(UserError, match="was trained with another tokenizer"):
        from_folder(folder, provenance | {"tokenizer": "0"})
    with pytest.raises(UserError, match=r"init_from=.*: it was trained with another tokenizer"):
        train.train(compose(*words, f"init_from={folder}"))


def test_no_tokenizer_leaves_the_hash_as_it_was(tmp_path):
    assert to_dict(compose())["backbone"]["tokenizer"] is None
    assert compose().hash != compose(f"backbone.tokenizer={tmp_path}").hash


@pytest.mark.skipif(not REAL.is_dir(), reason="no tokenizer of RoBERTa's beside this checkout")
def test_robertas_own_tokenizer_has_no_configuration_beside_it():
    size = [
        f"backbone.architecture.{word}" for word in ("hidden_size=32", "num_hidden_layers=1", "intermediate_size=32")
    ]
    size.append("backbone.architecture.num_attention_heads=2")
    config = compose("backbone=roberta-base", "backbone.random_init=true", f"backbone.tokenizer={REAL}", *size).backbone
    tokenizer = load_backbone(config, GLUE["cola"], 0, TEXTS).tokenizer
    assert (len(tokenizer), tokenizer.pad_token_id) == (50265, 1)
    assert tokenizer("Hello world")["input_ids"] == [0, 31414, 232, 2]


# Refusals


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=rf"^backbone.tokenizer: there is no folder {tmp_path}/none; name one with a"):
        random(tmp_path / "none")
    with pytest.raises(UserError, match=r"'a/b/c' is neither a folder nor the name of a model on the hub"):
        random("a/b/c")
    with pytest.raises(UserError, match=r"backbone.tokenizer is empty: give a hub name or a folder"):
        random("")


@pytest.mark.parametrize("architecture", ["roberta", "bert", "llama"])
def test_a_folder_without_a_tokenizer_is_refused(architecture, tmp_path):
    """transformers makes one of five special tokens of an empty folder."""
    save_encoder(tmp_path / "encoder")
    for file in (tmp_path / "encoder").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=r"encoder holds no tokenizer: it has no file like tokenizer.json, vocab"):
        random(tmp_path / "encoder", f"backbone.architecture.model_type={architecture}")


def test_another_kinds_files_are_refused(tmp_path):
    """BERT's tokenizer reads vocab.txt, and would know five tokens without it."""
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match=r"holds no tokenizer for tiny, which needs tokenizer.json or vocab.txt"):
        random(tmp_path, "backbone.architecture.model_type=bert")


def test_a_damaged_file_is_refused(tmp_path):
    save_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"^backbone.tokenizer: .* gives no tokenizer"):
        random(tmp_path)


def test_python_code_alone_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}))
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))
    with pytest.raises(UserError, match=r"gives a CTRLTokenizer, which is Python code alone: give one that has a tok"):
        random(tmp_path)


def test_ids_beyond_the_embedding_are_refused(tmp_path):
    """Whatever their number: a vocabulary may have gaps."""
    save_tokenizer(tmp_path)

    def raise_last_id(content: dict) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary[max(vocabulary, key=vocabulary.get)] = 4000

    edit_json(tmp_path / "tokenizer.json", raise_last_id)
    with pytest.raises(UserError, match=r"gives ids below 4001, its embedding has 1000 rows: give backbone.tokenizer="):
        random(tmp_path)


def test_a_tokenizer_without_a_padding_token_is_refused(tmp_path):
    save_tokenizer(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", lambda settings: settings.pop("pad_token"))
    with pytest.raises(UserError, match="its tokenizer has no padding token: give it one"):
        random(tmp_path)


def test_another_padding_id_than_the_positions_is_refused(tmp_path):
    """RoBERTa counts positions from its padding id; BERT does not mind."""
    save_tokenizer(tmp_path, pad_id=0)
    with pytest.raises(UserError, match=r"its padding id is 0, tiny counts positions by pad_token_id 1: give a"):
        random(tmp_path)
    assert random(tmp_path, "backbone.architecture.model_type=bert").model.config.pad_token_id == 0
