"""Adapters in PEFT's format: peft loads ours, a run starts from peft's, and wrong ones are refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from safetensors.torch import load_file, save_file
from support.command_line import ROOT, compose
from support.files import save_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

import train
from core.errors import Diverged, Interrupted, UserError
from experiments.record import read_record
from experiments.restore import restore
from experiments.sweep import pending
from models.batches import collate, encode
from tasks.glue import GLUE
from tasks.loading import load_splits
from training.trainer import Trainer

peft = pytest.importorskip("peft", reason="peft is in requirements-dev.txt")

QUICK = ("data=generated", "data.train_size=40", "data.eval_size=20", "logger=none", "task.max_length=32", "task=rte")
STILL = ("trainer.learning_rate=1e-12", "trainer.head_learning_rate=1e-12", "trainer.epochs=1")
RATES = ["trainer.learning_rate=0.02", "trainer.head_learning_rate=0.02"]
METHODS = {
    "lora": ["method=lora", "method.rank=4", "method.alpha=6"],
    "lora_all": ["method=lora_all", "method.rank=4", "method.rank_stabilized=true"],
    "dora": ["method=dora", "method.rank=4", "method.alpha=6", "method.dropout=0.1"],
    "lora_fa": ["method=lora_fa", "method.rank=4"],
    "vera": ["method=vera", "method.rank=40", "seed=3"],
    "vera_all": ["method=vera", "method.rank=40", "method.target_modules=."],
    "qlora": ["method=qlora", "method.rank=4"],
    "dylora": ["method=dylora", "method.rank=4"],
    "dylora_at_2": ["method=dylora", "method.rank=4", "method.eval_rank=2", "method.frozen=false"],
    "lora_drop": [
        "method=lora_drop",
        "method.rank=4",
        "method.probe_steps=3",
        "method.sample=0.5",
        "method.threshold=0.4",
    ],
    "delta_lora": ["method=delta_lora", "method.rank=4", "method.alpha=6", "method.start_steps=1"],
}


@pytest.fixture(scope="module", params=["roberta", "bert"])
def encoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_encoder(folder, request.param, width=64)  # bitsandbytes' blocks are of 64 weights
    return folder


def settings(encoder, *words: str):
    rates = [] if words and words[-1] in STILL else RATES
    return compose(*QUICK, "backbone=custom", f"backbone.source={encoder}", "trainer.epochs=2", *rates, *words)


def inputs(tokenizer) -> dict[str, torch.Tensor]:
    split = load_splits(GLUE["rte"], settings(".").data)["validation"]
    return collate(encode(split, tokenizer, 32), list(range(12))).inputs


def base(encoder, **words) -> torch.nn.Module:
    """What a user of peft loads first; its head is drawn again."""
    torch.manual_seed(77)
    return AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2, dtype=torch.float32, **words)


@torch.no_grad()
def logits(model: torch.nn.Module, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**tokens).logits


@pytest.mark.parametrize("name", METHODS)
def test_peft_loads_the_adapter_of_a_run(name, encoder, tmp_path):
    run = settings(encoder, *METHODS[name], f"output_dir={tmp_path}")
    train.train(run)
    ours = restore(run.folder)
    words = {}
    if name == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=["classifier", "bert.pooler"],
        )
        words = {"quantization_config": quantization, "device_map": "cpu"}
    theirs = peft.PeftModel.from_pretrained(base(encoder, **words), run.folder / "adapter").eval()
    for module in theirs.modules():  # bitsandbytes' would round its weight once more for inference on a CPU
        if type(module).__name__ == "Linear4bit" and "bitsandbytes" in type(module).__module__:
            module.train()
    tokens = inputs(ours.tokenizer)
    expected = logits(ours.model, tokens)
    assert expected.std() > 0.05
    torch.testing.assert_close(logits(theirs, tokens), expected, atol=1e-5, rtol=1e-5)


CONFIGS = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value"], task_type="SEQ_CLS"),
    "dora": lambda: peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["query", "value"], task_type="SEQ_CLS", use_dora=True
    ),
    "vera": lambda: peft.VeraConfig(
        r=40, target_modules=["query", "value"], task_type="SEQ_CLS", projection_prng_key=3
    ),
}


def trained_by_peft(encoder, name: str, folder) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A few steps, and the saved folder."""
    model = peft.get_peft_model(base(encoder), CONFIGS[name]())
    tokens = inputs(AutoTokenizer.from_pretrained(encoder))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(5):
        torch.nn.functional.cross_entropy(model(**tokens).logits, torch.arange(12) % 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return model.eval(), tokens


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_starts_from_an_adapter_that_peft_trained(name, encoder, tmp_path):
    theirs, tokens = trained_by_peft(encoder, name, tmp_path / "adapter")
    words = (*METHODS[name], f"init_from={tmp_path / 'adapter'}", f"output_dir={tmp_path}", *STILL)
    run = settings(encoder, "init_head=kept", *words)
    train.train(run)
    torch.testing.assert_close(logits(restore(run.folder).model, tokens), logits(theirs, tokens), atol=1e-4, rtol=1e-4)
    fresh = settings(encoder, *words)
    assert fresh.folder != run.folder
    train.train(fresh)
    kept, drawn = (load_file(each.folder / "best.safetensors") for each in (run, fresh))
    for key, tensor in kept.items():
        assert torch.allclose(drawn[key], tensor, atol=1e-6) != key.startswith("classifier."), key


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_a_run_starts_from_the_best_state_of_another_run(method, encoder, tmp_path):
    rank = [] if method == "full" else ["method.rank=4"]
    first = settings(encoder, f"method={method}", *rank, f"output_dir={tmp_path}")
    train.train(first)
    words = (f"method={method}", *rank, f"output_dir={tmp_path}", f"init_from={first.folder}", *STILL)
    second = settings(encoder, "init_head=kept", *words)
    train.train(second)
    one, other = (load_file(run.folder / "best.safetensors") for run in (first, second))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-6, rtol=0)
    started = read_record(second.folder)["provenance"]["start"]
    assert started["head"] == "kept"
    assert len(started["sha256"]) == 64


def rewrite(folder, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rename(folder) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {key.replace("query", "key"): tensor for key, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )


def widen(folder) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({key: torch.cat([t, t]) for key, t in tensors.items()}, folder / "adapter_model.safetensors")


def pickle(folder) -> None:
    (folder / "adapter_model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")


def cut(folder, name: str, size: int) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:size])


WRONG = {
    "a pickle": (pickle, "is a pickle, which is never read"),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "there is no adapter_model.safetensors",
    ),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "there is no adapter_config.json"),
    "truncated": (lambda folder: cut(folder, "adapter_model.safetensors", 2000), "is damaged"),
    "emptied": (lambda folder: cut(folder, "adapter_model.safetensors", 0), "is damaged"),
    "broken config": (lambda folder: cut(folder, "adapter_config.json", 40), "is damaged"),
    "a list": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "holds no settings"),
    "another method": (lambda folder: rewrite(folder, peft_type="IA3"), "has peft_type IA3"),
    "another alpha": (lambda folder: rewrite(folder, lora_alpha=16), "has lora_alpha 16"),
    "DoRA": (lambda folder: rewrite(folder, use_dora=True), "has use_dora True"),
    "alphas of its own": (lambda folder: rewrite(folder, alpha_pattern={"query": 3}), "alpha_pattern, which no method"),
    "an option of a later PEFT": (lambda folder: rewrite(folder, use_tomorrow=True), "use_tomorrow, which no method"),
    "PiSSA": (lambda folder: rewrite(folder, init_lora_weights="pissa"), "which changes the backbone"),
    "other layers": (rename, "with another target_modules, or other layers"),
    "other shapes": (widen, "has shape"),
    "another backbone": (
        lambda folder: rewrite(folder, base_model_name_or_path="gpt2"),
        "on a backbone with source 'gpt2'",
    ),
    "nothing": (shutil.rmtree, "there is no folder"),
}


@pytest.fixture(scope="module")
def lora_of_peft(tmp_path_factory):
    encoder, folder = tmp_path_factory.mktemp("encoder"), tmp_path_factory.mktemp("adapter")
    save_encoder(encoder, "roberta", width=64)
    trained_by_peft(encoder, "lora", folder)
    return encoder, folder


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_adapter_is_refused_with_one_sentence(wrong, lora_of_peft, tmp_path):
    encoder, folder = lora_of_peft
    shutil.copytree(folder, tmp_path / "adapter")
    change, message = WRONG[wrong]
    change(tmp_path / "adapter")
    words = (f"init_from={tmp_path / 'adapter'}", f"output_dir={tmp_path / 'runs'}")
    with pytest.raises(UserError, match=message) as error:
        train.train(settings(encoder, *METHODS["lora"], *words))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def quick(tmp_path):
    return (*METHODS["lora"], f"output_dir={tmp_path / 'runs'}", f"init_from={tmp_path / 'adapter'}", *STILL)


def linked(encoder: Path) -> str:
    """The folder by another path."""
    (encoder.parent / "link").symlink_to(encoder)
    return str(encoder.parent / "link")


@pytest.mark.parametrize("spelled", [lambda path: f"{path}/", lambda path: f"./{os.path.relpath(path)}", linked])
def test_a_backbones_folder_may_be_spelled_otherwise_than_in_the_adapter(spelled, lora_of_peft, quick, tmp_path):
    encoder, folder = lora_of_peft
    shutil.copytree(encoder, tmp_path / "encoder")
    shutil.copytree(folder, tmp_path / "adapter")
    rewrite(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "encoder"))
    run = settings(spelled(tmp_path / "encoder"), *quick)
    train.train(run)
    assert read_record(run.folder)["status"] == "complete"


def test_a_backbone_that_moved_is_refused_with_a_way_out_that_works(lora_of_peft, quick, tmp_path):
    encoder, folder = lora_of_peft
    shutil.copytree(encoder, tmp_path / "moved")
    shutil.copytree(folder, tmp_path / "adapter")
    rewrite(tmp_path / "adapter", base_model_name_or_path="/gone/encoder")
    run = settings(tmp_path / "moved", *quick)
    there = tmp_path / "adapter" / "adapter_config.json"
    way = f"'/gone/encoder', .* if it only moved, set base_model_name_or_path in {there} to '{tmp_path / 'moved'}'$"
    with pytest.raises(UserError, match=way):
        train.train(run)
    rewrite(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "moved"))
    train.train(run)


def test_an_adapter_of_another_backbone_is_refused(lora_of_peft, tmp_path):
    encoder, _ = lora_of_peft
    run = settings(encoder, *METHODS["lora"], f"output_dir={tmp_path}")
    train.train(run)
    save_encoder(tmp_path / "other", "roberta", seed=5, width=64)
    for init in (run.folder, run.folder / "adapter"):
        with pytest.raises(UserError, match=r"trained on"):
            train.train(settings(tmp_path / "other", *METHODS["lora"], f"output_dir={tmp_path}", f"init_from={init}"))


@pytest.mark.parametrize("place", ["", "adapter"])
def test_init_from_needs_the_same_method_and_for_a_kept_head_the_same_task(place, lora_of_peft, tmp_path):
    encoder, _ = lora_of_peft
    first = settings(encoder, *METHODS["lora_fa"], f"output_dir={tmp_path}")
    train.train(first)
    words = (f"init_from={first.folder / place}", f"output_dir={tmp_path}")
    with pytest.raises(UserError, match=r"method.name=lora_fa, this run has lora"):
        train.train(settings(encoder, "method=lora", "method.rank=4", *words))
    with pytest.raises(UserError, match="its head is of the task rte"):
        train.train(settings(encoder, *METHODS["lora_fa"], *words, "task=wnli", "init_head=kept"))
    with pytest.raises(UserError, match=r"has r 4|method.rank=4"):
        train.train(settings(encoder, "method=lora_fa", "method.rank=2", *words))


def test_a_sweep_notices_that_the_state_at_init_from_has_changed(lora_of_peft, tmp_path):
    encoder, _ = lora_of_peft
    first = settings(encoder, *METHODS["lora"], f"output_dir={tmp_path}")
    train.train(first)
    words = [*METHODS["lora"], f"output_dir={tmp_path}", f"init_from={first.folder}"]
    second = settings(encoder, *words)
    train.train(second)
    train.train(second)
    job = [*QUICK, "backbone=custom", f"backbone.source={encoder}", "trainer.epochs=2", *RATES, *words]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        sweep = GlobalHydra.instance().config_loader().load_configuration("config", [], RunMode.MULTIRUN)
        assert pending(sweep, [job])
        assert not pending(sweep, [job[:-1]])
    state = load_file(first.folder / "best.safetensors")
    save_file({name: tensor + 1 for name, tensor in state.items()}, first.folder / "best.safetensors")
    with pytest.raises(UserError, match="whose start differs"):
        train.train(second)


def test_a_run_resumes_after_its_init_from_folder_is_removed(lora_of_peft, tmp_path, monkeypatch):
    encoder, folder = lora_of_peft
    shutil.copytree(folder, tmp_path / "adapter")
    words = (*METHODS["lora"], f"init_from={tmp_path / 'adapter'}", "trainer.epochs=1", "trainer.eval_every=1")
    whole = settings(encoder, *words, f"output_dir={tmp_path / 'whole'}")
    train.train(whole)
    cut = settings(encoder, *words, f"output_dir={tmp_path / 'cut'}")
    monkeypatch.setattr(Trainer, "is_stop_requested", lambda trainer: trainer.progress.step == 1)
    with pytest.raises(Interrupted):
        train.train(cut)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "adapter")
    for _ in range(2):  # resumes, then stays finished
        train.train(cut)
    one, other = (load_file(run.folder / "best.safetensors") for run in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(UserError, match="there is no folder"):
        train.train(settings(encoder, *words, f"output_dir={tmp_path / 'cut'}", "force=true"))


def test_vera_projections_of_another_seed_are_refused(lora_of_peft, tmp_path):
    encoder, _ = lora_of_peft
    trained_by_peft(encoder, "vera", tmp_path / "adapter")
    rewrite(tmp_path / "adapter", projection_prng_key=4)
    words = ("method=vera", "method.rank=40", "seed=4", f"init_from={tmp_path / 'adapter'}")
    with pytest.raises(UserError, match="is not what this run's settings draw"):
        train.train(settings(encoder, *words, f"output_dir={tmp_path}"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init_head=kept"], "needs init_from"),
        (["init_from=x", "start=mnli"], "both given"),
        (["init_from=x", "init_head=old"], "choose one of"),
    ],
)
def test_contradicting_start_settings_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        settings(".", "method=lora", *words)


def test_a_run_that_diverged_leaves_no_adapter(lora_of_peft, tmp_path):
    run = settings(lora_of_peft[0], *METHODS["lora"], f"output_dir={tmp_path}", "trainer.max_grad_norm=null")
    run.trainer.learning_rate = run.trainer.head_learning_rate = 1e9
    with pytest.raises(Diverged):
        train.train(run)
    assert not (run.folder / "adapter").exists()


def test_two_equal_runs_leave_equal_adapters(lora_of_peft, tmp_path):
    bytes_of = []
    for folder in ("one", "two"):
        run = settings(lora_of_peft[0], *METHODS["dora"], f"output_dir={tmp_path / folder}")
        train.train(run)
        bytes_of.append(
            [
                (run.folder / "adapter" / name).read_bytes()
                for name in ("adapter_config.json", "adapter_model.safetensors")
            ]
        )
    assert bytes_of[0] == bytes_of[1]
