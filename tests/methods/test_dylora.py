"""DyLoRA beside its formulas, and the traps: what a step does not train rests, and evaluation has a rank of its own."""

import copy
import json
import sys

import pytest
import torch
import torch.nn.functional as F
from support.command_line import compose
from support.runs import run
from support.tiny import adapted_layers, shake, tiny_inputs, tiny_model
from support.trainers import tiny_trainer
from torch import nn

import scripts.ranks
from analysis.figures import ranks
from analysis.records import frame
from core.errors import UserError
from core.io import with_checksum
from experiments.inputs import apply_method
from experiments.record import parse
from experiments.restore import restore
from methods.base import merge, trained_state
from methods.dylora import DyLoRA, DyLoRALinear, join
from methods.lora import LoRA
from models.backbone import load_backbone
from training.checkpoint import Checkpoint
from training.optimizers import build_optimizer
from training.settings import TrainerConfig

RANK, ALPHA = 4, 6.0
MODES = pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "together"])


def adapted(**settings) -> tuple[nn.Module, DyLoRA]:
    """A small model whose factors have left their start."""
    model, method = tiny_model(), DyLoRA(**{"rank": RANK, "alpha": ALPHA} | settings)
    method.apply(model)
    shake(model)
    return model, method


def whole(layer: nn.Module) -> list[torch.Tensor]:
    """Copies of A (r, in) and B (out, r) that may get gradients."""
    return [factor.detach().clone().requires_grad_() for factor in join(dict(layer.named_parameters()), RANK)]


def rows(layer: nn.Module) -> dict[int, list[nn.Parameter]]:
    return {i: [getattr(layer, f"A{i}"), getattr(layer, f"B{i}")] for i in range(1, RANK + 1)}


@MODES
@pytest.mark.parametrize("b", range(1, RANK + 1))
def test_output_and_gradients_at_each_rank_are_the_formulas(b, frozen):
    torch.manual_seed(0)
    layer = DyLoRALinear(nn.Linear(12, 8), DyLoRA(rank=RANK, alpha=ALPHA, frozen=frozen)).train()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    layer.drawn = b
    (A, B), x = whole(layer), torch.randn(5, 12)
    expected = F.linear(x, layer.base.weight + ALPHA / b * B[:, :b] @ A[:b], layer.base.bias)
    torch.testing.assert_close(layer(x), expected)
    expected.square().sum().backward()
    layer(x).square().sum().backward()
    for i, (row, column) in rows(layer).items():
        if i == b or (i < b and not frozen):
            torch.testing.assert_close(row.grad, A.grad[i - 1 : i], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(column.grad, B.grad[:, i - 1 : i], rtol=1e-4, atol=1e-5)
        else:
            assert row.grad is None
            assert column.grad is None


@MODES
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_a_step_does_not_train_keeps_its_value_and_its_moments(optimizer, frozen):
    model, method = adapted(frozen=frozen)
    constant = {"learning_rate": 0.01, "weight_decay": 0.5, "schedule": "constant", "warmup_ratio": 0.0}
    trainer = tiny_trainer(model, method, "packed", optimizer=optimizer, **constant)
    seen: set[int] = set()
    for step in range(1, 13):
        before = {p: (p.detach().clone(), copy.deepcopy(trainer.optimizer.state.get(p))) for p in model.parameters()}
        trainer.train_step([step % 10, (step + 3) % 10, (step + 5) % 10])
        for layer in adapted_layers(model):
            for i, parts in rows(layer).items():
                trains = i == layer.drawn if frozen else i <= layer.drawn
                for part in parts:
                    weight, state = before[part]
                    assert torch.equal(part, weight) != trains, (step, i)
                    now = trainer.optimizer.state.get(part)
                    if not trains and state:
                        assert all(torch.equal(now[key], value) for key, value in state.items() if value is not None)
                    assert trains or bool(state) == bool(now)
        seen.add(layer.drawn)
    assert seen == set(range(1, RANK + 1))


def test_a_row_counts_its_own_steps():
    model, method = adapted()
    trainer, drawn = tiny_trainer(model, method, "packed"), []
    for _ in range(8):
        trainer.train_step([0, 1, 2])
        drawn.append(adapted_layers(model)[0].drawn)
    for i, parts in rows(adapted_layers(model)[0]).items():
        counts = {int(trainer.optimizer.state[part]["step"]) for part in parts if part in trainer.optimizer.state}
        assert counts <= {drawn.count(i)}
        assert counts or i not in drawn


def draws(seed: int, steps: range, rank: int = RANK) -> list[int]:
    model, method = adapted(rank=rank)
    drawn = []
    for step in steps:
        method.before_step(model, step, seed)
        [b] = {layer.drawn for layer in adapted_layers(model)}  # one for all layers
        drawn.append(b)
    return drawn


def test_ranks_are_drawn_uniformly_from_seed_and_step_alone():
    before = torch.get_rng_state()
    model, method = adapted()
    torch.set_rng_state(before)
    drawn = []
    for step in range(1, 2001):
        method.before_step(model, step, seed=7)
        drawn.append(adapted_layers(model)[0].drawn)
    assert torch.equal(torch.get_rng_state(), before)  # data order and dropout are as without it
    counts = torch.bincount(torch.tensor(drawn), minlength=RANK + 1)[1:]
    assert counts.sum() == 2000
    assert (counts - 500).square().sum() / 500 < 16.3  # χ² of three degrees of freedom: p > 0.001
    assert draws(7, range(901, 931)) == drawn[900:930]
    assert draws(8, range(901, 931)) != drawn[900:930]


@MODES
def test_a_resumed_trainer_draws_and_trains_as_an_uninterrupted_one(frozen):
    def steps(trainer, count: int) -> list[int]:
        drawn = []
        for _ in range(count):
            trainer.train_step([0, 1, 2, 5])
            drawn.append(adapted_layers(trainer.model)[0].drawn)
        return drawn

    one, two = (tiny_trainer(*adapted(frozen=frozen), "packed") for _ in range(2))
    for trainer in (one, two):
        trainer.resume(None)
    checkpoints: list[Checkpoint] = []
    expected = steps(one, 6)
    assert steps(two, 3) == expected[:3]
    two.save, two.began = checkpoints.append, 0.0
    two.hand_out_state()
    saved = copy.deepcopy(checkpoints[0])
    three = tiny_trainer(*adapted(frozen=frozen), "packed")
    three.resume(saved)
    assert steps(three, 3) == expected[3:]
    for name, tensor in trained_state(one.model).items():
        assert torch.equal(trained_state(three.model)[name], tensor), name


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(**tiny_inputs()).logits


@pytest.mark.parametrize("rank", range(1, RANK + 1))
def test_evaluation_is_plain_lora_of_the_evaluation_rank(rank):
    model, method = adapted(eval_rank=rank)
    other, plain = tiny_model(), LoRA(rank=rank, alpha=ALPHA)
    plain.apply(other)
    for ours, theirs in zip(adapted_layers(model), adapted_layers(other), strict=True):
        A, B = whole(ours)
        theirs.A.data.copy_(A[:rank])
        theirs.B.data.copy_(B[:, :rank])
        ours.train()
        torch.testing.assert_close(ours.effective_weight(), theirs.effective_weight())
        ours.eval()
    other.classifier.load_state_dict(model.classifier.state_dict())
    for step in (1, 2, 3):
        method.before_step(model, step, 0)
        torch.testing.assert_close(logits(model), logits(other), rtol=1e-4, atol=1e-5)
    again, method = adapted()
    assert not torch.allclose(logits(again), logits(other), atol=1e-3) or rank == RANK
    method.evaluate_at(again, rank)
    torch.testing.assert_close(logits(again), logits(other), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(merge(again)), logits(other), rtol=1e-4, atol=1e-5)


@MODES
def test_no_row_is_frozen_at_the_start_whatever_the_evaluation_rank(frozen):
    mode = f"method.frozen={str(frozen).lower()}"
    config = compose("method=dylora", "method.eval_rank=2", mode, "profile=offline", "backbone=tiny", "task=cola")
    backbone = load_backbone(config.backbone, config.task.row, 0, [("a sentence",)])
    assert apply_method(config, backbone) == []


def test_an_adapter_is_read_back_at_its_rank_and_no_other():
    model, method = adapted(eval_rank=3)
    layer = adapted_layers(model)[0]
    own = {name: p.detach() for name, p in layer.named_parameters(recurse=False)}
    theirs = method.to_peft(own)
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == {
        "lora_A.weight": (3, 32),
        "lora_B.weight": (32, 3),
    }
    assert method.peft_config()["r"] == 3
    read = method.from_peft(theirs)
    assert sorted(read) == sorted(f"{letter}{i}" for letter in "AB" for i in (1, 2, 3))
    assert all(torch.equal(own[name], tensor) for name, tensor in read.items())
    for odd in (torch.zeros(()), torch.zeros(3), torch.zeros(4, 32)):
        with pytest.raises(UserError, match="the rank is not 3"):
            method.from_peft({"lora_A.weight": odd, "lora_B.weight": odd})


def test_the_optimizer_decays_rows_as_matrices():
    model, method = adapted()
    groups = build_optimizer(model, method, TrainerConfig(learning_rate=1.0, head_learning_rate=1.0)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {decay[id(p)] for layer in adapted_layers(model) for parts in rows(layer).values() for p in parts} == {0.1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.eval_rank=9"], "method.eval_rank is 9; it must be at most method.rank, 8"),
        (["method.eval_rank=0"], "method.eval_rank is 0; it must be at least 1"),
        (["trainer.forward=compiled"], "method=dylora trains other parts in each step"),
    ],
)
def test_settings_that_contradict_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        compose("method=dylora", *words)


def call(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["ranks.py", *words])
    capsys.readouterr()
    return scripts.ranks.main(), *capsys.readouterr()


def test_one_run_is_evaluated_at_every_rank(tmp_path, monkeypatch, capsys):
    rates = ("trainer.learning_rate=0.02", "trainer.eval_every=3", "trainer.epochs=4")
    folder, record = run(tmp_path, "dylora", "stsb", "data.holdout=0.3", *rates)
    status, out, err = call(monkeypatch, capsys, f"run={folder}", f"into={tmp_path / 'ranks'}")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].startswith("rank 1: pearson ")
    copy = tmp_path / f"ranks/{folder.name}.json"
    assert out.splitlines()[-2:] == [f"written: {folder / 'ranks.json'}", f"written: {copy}"]
    assert copy.read_bytes() == (folder / "ranks.json").read_bytes()
    kept = json.loads((folder / "ranks.json").read_text())
    assert with_checksum(kept) == kept
    assert (kept["config_hash"], kept["step"]) == (record["config_hash"], record["best"]["step"])
    assert [entry["rank"] for entry in kept["ranks"]] == [1, 2, 3, 4]
    last = kept["ranks"][-1]
    assert last["pearson"] == pytest.approx(record["best"]["pearson"])
    assert last["held_out"]["pearson"] == pytest.approx(record["best"]["held_out"]["pearson"])
    assert len({entry["pearson"] for entry in kept["ranks"]}) > 1
    figure = ranks(frame([parse(folder / "result.json")]), [kept])
    [line] = figure.axes[0].get_lines()
    assert line.get_xdata().tolist() == [1, 2, 3, 4]
    assert line.get_ydata().tolist() == pytest.approx([100 * entry["pearson"] for entry in kept["ranks"]])
    restored = restore(folder)
    assert {layer.eval_rank for layer in adapted_layers(restored.model)} == {4}


def test_a_run_of_one_rank_is_refused(tmp_path, monkeypatch, capsys):
    folder, _ = run(tmp_path, "lora")
    status, _, err = call(monkeypatch, capsys, f"run={folder}")
    assert status == 2
    assert err == "error: method=lora trains for one rank alone: name a run of method=dylora\n"
