"""No adapter is written from which PEFT would compute something else than our layers do."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors import safe_open
from support.command_line import compose
from support.tiny import METHODS, shake, tiny_model

import train
from adapters.peft_check import difference
from experiments.run_folder import RunFolder
from methods.base import REGISTERED, Method, trained_state
from methods.lora import LoRA, LoRALinear


class PiSSALinear(LoRALinear):
    """The obvious way: the pretrained weight gives up its top singular part, which A and B hold."""

    def __init__(self, base, config):
        super().__init__(base, config)
        U, S, Vh = torch.linalg.svd(base.weight.detach().float(), full_matrices=False)
        r = config.rank
        with torch.no_grad():
            self.B.copy_(U[:, :r] * S[:r] / self.scale)
            self.A.copy_(Vh[:r])
            base.weight.sub_(self.scale * self.B @ self.A)


class DoubledLinear(LoRALinear):
    """LoRA's tensors, another weight."""

    def effective_weight(self):
        return self.base.weight + 2 * self.scale * self.B @ self.A


class GatedLinear(LoRALinear):
    """LoRA's tensors and one more, of which its effective weight says nothing."""

    def __init__(self, base, config):
        super().__init__(base, config)
        self.gate = torch.nn.Parameter(torch.tensor(3.0))

    def low_rank(self, x):
        return self.gate * super().low_rank(x)


@dataclass
class PiSSA(LoRA):
    layer: ClassVar[type[LoRALinear]] = PiSSALinear
    name: str = "pissa"


@dataclass
class Doubled(LoRA):
    layer: ClassVar[type[LoRALinear]] = DoubledLinear
    name: str = "doubled"


@dataclass
class Gated(LoRA):
    layer: ClassVar[type[LoRALinear]] = GatedLinear
    name: str = "gated"


def adapted(method: Method) -> torch.nn.Module:
    torch.manual_seed(0)
    model = tiny_model(width=64)
    method.apply(model)
    shake(model)
    return model


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.peft_names])
def test_peft_computes_what_each_of_our_methods_does(name):
    assert difference(adapted(METHODS[name]), METHODS[name]) is None


def test_a_method_that_changes_the_pretrained_weight_is_named():
    assert "method=pissa changes the pretrained weight of" in difference(adapted(PiSSA(rank=4)), PiSSA(rank=4))


def test_a_method_with_another_effective_weight_is_named():
    assert "another weight than method=doubled" in difference(adapted(Doubled(rank=4)), Doubled(rank=4))


def test_a_layer_that_does_not_compute_with_its_effective_weight_is_named():
    why = difference(adapted(Gated(rank=4)), Gated(rank=4))
    assert "does not compute with its effective_weight()" in why
    assert "method=gated" in why


@torch.no_grad()
def test_the_state_that_is_written_is_judged_and_not_the_last_one(tmp_path, monkeypatch, capsys):
    method = Doubled(rank=4)
    model = adapted(method)
    best = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    for name, tensor in trained_state(model).items():
        tensor.mul_(not name.endswith(".B"))
    assert difference(model, method) is None
    monkeypatch.setattr(RunFolder, "best", lambda _: best)
    RunFolder(tmp_path, "").write_adapter(model, method, record={})
    assert "no adapter/ for PEFT: PEFT would compute another weight than method=doubled" in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()


def test_such_a_run_is_complete_without_an_adapter_and_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(REGISTERED["lora"], "layer", PiSSALinear)
    words = (
        "method=lora",
        "method.rank=2",
        "backbone=tiny",
        "data.train_size=16",
        "data.eval_size=8",
        "trainer.epochs=1",
    )
    run = compose("profile=offline", "logger=none", f"output_dir={tmp_path}", *words)
    train.train(run)
    assert "no adapter/ for PEFT: method=lora changes the pretrained weight" in capsys.readouterr().err
    assert not (run.folder / "adapter").exists()
    with safe_open(run.folder / "best.safetensors", "pt") as file:
        assert any(key.endswith(".A") for key in file.keys())  # noqa: SIM118
