"""Where weights come from: a folder, the hub's cache at its pinned revision, a Python package, or random numbers."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from support.command_line import ROOT, compose
from support.files import TEXTS, mirror, save_encoder
from support.tiny import tiny_model
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

import train
from core.errors import UserError
from core.hub import snapshot
from experiments.record import read_record
from models.backbone import find, load_backbone
from models.random_init import train_tokenizer
from tasks.glue import GLUE

QUICK = ("logger=none", "trainer.max_steps=3", "task.max_length=32", "method.rank=2")


def load(folder, seed: int = 0, task: str = "mnli"):
    return load_backbone(compose("backbone=custom", f"backbone.source={folder}").backbone, GLUE[task], seed, TEXTS)


def test_a_folder_gives_its_encoder_and_a_fresh_head(tmp_path, architecture):
    saved = save_encoder(tmp_path, architecture)
    first, again, other = load(tmp_path), load(tmp_path), load(tmp_path, seed=1)
    for name, parameter in saved.base_model.named_parameters():
        assert torch.equal(parameter, first.model.base_model.get_parameter(name)), name
    heads = [backbone.model.state_dict()[[*backbone.model.state_dict()][-2]] for backbone in (first, again, other)]
    assert heads[0].shape[0] == 3
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert first.max_length == 64
    assert first.provenance["sha256"]


def test_loading_leaves_the_global_random_generator_unchanged(tmp_path):
    save_encoder(tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load(tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_a_checkpoint_with_another_tasks_head_gets_a_new_one(tmp_path):
    model = tiny_model(labels=5)
    model.save_pretrained(tmp_path)
    train_tokenizer(TEXTS, vocabulary=300, pad_id=1).save_pretrained(tmp_path)
    assert load(tmp_path).model.classifier.out_proj.out_features == 3


def test_an_encoder_with_weights_missing_is_refused(tmp_path):
    save_encoder(tmp_path)
    file = tmp_path / "model.safetensors"
    state = {name: tensor for name, tensor in load_file(file).items() if "layer.1.attention.self.query" not in name}
    save_file(state, file, {"format": "pt"})
    with pytest.raises(UserError, match="lacks 2 of the encoder's weights"):
        load(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    save_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 50)
    with pytest.raises(UserError, match="does not load"):
        load(tmp_path)


def test_a_pickled_checkpoint_is_refused(tmp_path):
    save_encoder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no file like \*.safetensors"):
        load(tmp_path)


def test_a_wrong_checksum_is_refused(tmp_path):
    save_encoder(tmp_path)
    config = compose("backbone=custom", f"backbone.source={tmp_path}", "backbone.sha256=abc").backbone
    with pytest.raises(UserError, match="not abc: it is damaged or another model"):
        load_backbone(config, GLUE["cola"], 0, TEXTS)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's, and a network that must not be asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("httpx2.head", lambda *a, **k: pytest.fail("asked the hub"))
    return tmp_path


def cached(cache, kind: str, repository: str, revision: str):
    folder = cache / f"{kind}s--{repository.replace('/', '--')}" / "snapshots" / revision
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["roberta-base", "roberta-large"])
def test_a_run_from_the_hubs_cache_needs_no_network(name, cache, tmp_path, monkeypatch):
    """All of `python train.py backbone=roberta-base`, except for the size of the cached weights."""

    config = compose(f"backbone={name}")
    model_folder = cached(cache, "model", config.backbone.source, config.backbone.revision)
    save_encoder(model_folder)
    mirror(cached(cache, "dataset", config.data.repository, config.data.revision), "mrpc")
    run = compose(f"backbone={name}", "task=mrpc", f"output_dir={tmp_path / 'runs'}", *QUICK)
    train.train(run)
    record = read_record(run.folder)
    assert (record["status"], record["backbone"], record["data"]) == ("complete", name, "hub")
    assert record["provenance"]["backbone"]["revision"] == config.backbone.revision
    assert len(config.backbone.revision) == len(config.data.revision) == 40


def test_a_cache_without_the_files_is_refused_offline(cache, monkeypatch):
    cached(cache, "model", "some/model", "0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not in the cache, and HF_HUB_OFFLINE forbids"):
        snapshot("some/model", "0" * 40, "model", ["*"], ["config.json"])


def test_a_cache_with_some_of_a_files_shards_asks_for_the_others(cache, monkeypatch):
    folder = cached(cache, "dataset", "some/table", "0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    files = [folder / f"train-{number:05}-of-00002.parquet" for number in range(2)]
    files[1].touch()
    with pytest.raises(UserError, match="not in the cache, and HF_HUB_OFFLINE forbids"):
        snapshot("some/table", "0" * 40, "dataset", ["*"], ["train-*.parquet"])
    files[0].touch()
    assert snapshot("some/table", "0" * 40, "dataset", ["*"], ["train-*.parquet"]) == folder
    for number in (1, 2):  # models count from 1
        (folder / f"model-{number:05}-of-00002.safetensors").touch()
    assert snapshot("some/table", "0" * 40, "dataset", ["*"], ["*.safetensors"]) == folder


def test_an_unreachable_hub_is_asked_once(cache, monkeypatch):
    import httpx2

    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise httpx2.ConnectError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("httpx2.head", refuse)
    with pytest.raises(UserError, match=r"is out of reach: .*profile=offline.*data=local"):
        snapshot("some/model", None, "model", ["*"], ["config.json"])
    assert len(asked) == 1


def test_minilm_is_found_in_its_package_and_is_the_official_file():
    try:
        config = compose("backbone=minilm").backbone
        folder = find(config)
    except UserError as error:
        pytest.skip(str(error))
    backbone = load_backbone(config, GLUE["cola"], 0, TEXTS)
    assert backbone.provenance["sha256"] == config.sha256
    assert backbone.max_length == 512
    ours, theirs = config.architecture, json.loads((folder / "config.json").read_text())
    assert {key: theirs[key] for key in ours} == ours


@pytest.mark.parametrize("name", ["roberta-base", "roberta-large", "minilm", "tiny", "deberta-v2-xxlarge"])
def test_every_architecture_builds_from_its_yaml(name):
    shape = OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/backbone/{name}.yaml").architecture)
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**shape))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    expected = {"roberta-base": 124.6, "roberta-large": 355.4, "minilm": 22.7, "deberta-v2-xxlarge": 1566}
    if name in expected:
        assert millions == pytest.approx(expected[name], rel=0.01)


@pytest.mark.parametrize("name", ["minilm", "tiny"])
def test_random_weights_follow_the_seed_and_train(name, tmp_path):
    run = compose(
        f"backbone={name}",
        "backbone.random_init=true",
        "data=generated",
        "data.train_size=40",
        "data.eval_size=10",
        f"output_dir={tmp_path}",
        *QUICK,
    )
    train.train(run)
    record = read_record(run.folder)
    assert record["status"] == "complete"
    assert record["provenance"]["backbone"]["source"] == "random, seed 0"
    backbones = [load_backbone(run.backbone, GLUE["cola"], seed, TEXTS) for seed in (0, 0, 1)]
    name = "encoder.layer.1.output.dense.weight"
    weights = [backbone.model.base_model.get_parameter(name) for backbone in backbones]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    one, same, other = (backbone.provenance["sha256"] for backbone in backbones)  # by which weights are known
    assert one == same != other


def test_deberta_adapts_its_query_and_value(architecture):
    """Other names for the same layers; two layers of its shape are enough."""
    shape = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/backbone/deberta-v2-xxlarge.yaml").architecture)
    shape |= {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 120,
    }
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**shape, num_labels=2))
    compose("method=lora").method.apply(model)
    assert sum(p.numel() for n, p in model.named_parameters() if n.endswith((".A", ".B"))) == 2 * 2 * 2 * 32 * 8
    assert model(input_ids=torch.ones(1, 5, dtype=torch.long)).logits.shape == (1, 2)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    save_encoder(tmp_path)
    words = " ".join(f"word{i} thing{i * 7}" for i in range(50))
    train_tokenizer([(words,)], vocabulary=310, pad_id=1).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"its tokenizer gives ids below 310, its embedding has 300 rows: give backbone.tokenizer"
    ):
        load(tmp_path)
