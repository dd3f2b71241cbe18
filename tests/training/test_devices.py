"""Every tensor follows its model's device, shown on a CPU.

A GPU fails on a tensor that is made without a device: it lies on the CPU, the model's on the GPU. Here the roles are shifted:
the model is on the CPU, and torch's default device is `meta`, where tensors have shapes and no numbers. What is made without
a device is noticed at once, and its maker is named. What is made on the host and then moved says so with `device="cpu"`;
batches alone do not, since the trainer, evaluation and the server move each of them (`to`) before they use it.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import chain
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.tiny import METHODS, encoded, tiny_model
from support.trainers import tiny_trainer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.io import UMASK, read_tensors, write_tensors
from methods.base import Method, load_trained_state, merge, trained_state
from methods.lora import LoRA
from methods.lora_fa import LoRAFA
from methods.qlora import QLoRA
from models.packed import Packed, Padded, forward_path
from serving.adapters import from_state
from serving.mixed import Server
from training.checkpoint import Checkpoint
from training.tracking import Tracker
from training.trainer import Trainer

META, CPU = torch.device("meta"), torch.device("cpu")
# each path with the one encoder or the other, and with a GPU's own precision, bf16 by autocast, or without
WAYS = pytest.mark.parametrize(
    ("forward", "architecture", "precision"), [("packed", "roberta", "bf16"), ("padded", "bert", "fp32")]
)


@pytest.fixture(autouse=True, scope="module")
def bitsandbytes_table() -> None:
    """Its first quantization makes a table that it keeps: on the host, for the tests after these."""
    METHODS["qlora"].apply(tiny_model("roberta"))


def tensors(tree: Any) -> Iterator[Tensor]:
    """Those in nested lists, tuples and dicts."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple, dict)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors(branch)


class Nothing(TorchDispatchMode):
    """Refuses every tensor on `meta`, where it is made or, as with `torch.tensor`, where it is first used."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.refuse(function, (args, kwargs))  # a kernel of the CPU might read from where there is nothing
        result = function(*args, **kwargs)
        self.refuse(function, result)
        return result

    @staticmethod
    def refuse(function: Any, tree: Any) -> None:
        if any(tensor.is_meta for tensor in tensors(tree)):
            raise AssertionError(f"{function} makes or takes a tensor that does not follow the model's device")


@contextmanager
def elsewhere() -> Iterator[None]:
    """The default device is not the model's, and nothing may be made there."""
    with Nothing(), META:
        yield


@pytest.fixture(autouse=True)
def batches_are_made_on_the_host(monkeypatch):
    """`collate` alone may do without a device: a test below shows that `to` moves all that it makes."""
    for path in (Packed, Padded):

        def on_the_host(*args, collate=path.collate):
            with CPU:
                return collate(*args)

        monkeypatch.setattr(path, "collate", on_the_host)


def applied(method: Method, architecture: str, labels: int = 3) -> nn.Module:
    """A model on the CPU, adapted where the default device is another.

    Except QLoRA: bitsandbytes makes its table for the scales on the default device, once a process, and moves it itself.
    """
    model = tiny_model(architecture, labels, dropout=0.1)
    with nullcontext() if isinstance(method, QLoRA) else elsewhere():
        method.apply(model)
    return model


def kept(trainer: Trainer) -> Iterator[Tensor]:
    """All that a trainer keeps from one step to the next."""
    yield from chain(trainer.model.parameters(), trainer.model.buffers(), [trainer.window])
    yield from tensors(list(trainer.optimizer.state.values()))


@WAYS
def test_a_run_and_its_resumption_stay_on_the_models_device(method, forward, architecture, precision, tmp_path):
    """Activations, steps, meters, evaluations and checkpoints, as `fit` has them; then what another process resumes."""
    checkpoints, file = [], tmp_path / "checkpoint.safetensors"
    model, other = (applied(method, architecture) for _ in range(2))
    with elsewhere():
        trainer = tiny_trainer(model, method, forward, precision=precision)
        trainer.resume(None)
        trainer.fit(Tracker(), checkpoints.append)
        trainer.summary()
        write_tensors(file, checkpoints[-1].tensors(), {})
        assert file.stat().st_mode & 0o777 == 0o666 & ~UMASK  # as other files: colleagues can read it
        saved, _ = read_tensors(file)
        resumed = tiny_trainer(other, method, forward, precision=precision)
        resumed.resume(Checkpoint.from_tensors(saved, checkpoints[-1].progress))
        resumed.train_step([0, 1, 2, 3])
    assert (trainer.progress.step, resumed.progress.step) == (2, 3)
    assert {tensor.device for tensor in chain(saved.values(), kept(trainer), kept(resumed))} == {CPU}


@WAYS
def test_gradients_and_merged_layers_stay_on_the_models_device(method, forward, architecture, precision):
    """In evaluation mode, where attention is torch's own on a CPU as it is on a GPU."""
    model = applied(method, architecture)
    path, data = forward_path(model, forward), encoded(architecture)
    batch = path.collate(data, [0, 3, 9])
    with elsewhere():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = path(batch)
        F.cross_entropy(logits.float(), batch.labels).backward()
        method.after_step(model, 1)
        load_trained_state(model, copy.deepcopy(trained_state(model)))
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        answers = forward_path(merge(model), forward)(batch)
    assert gradients
    assert {tensor.device for tensor in (logits, answers, *gradients, *model.parameters(), *model.buffers())} == {CPU}


@pytest.mark.parametrize("forward", ["packed", "padded"])
def test_a_servers_answers_come_from_the_models_device(forward, architecture):
    """Rows of adapters with their own ranks, layers and numbers of outputs."""
    data, served = encoded(architecture), {"one": (LoRA(rank=2), 3), "two": (LoRAFA(target_modules="."), 2)}
    models = {name: applied(method, architecture, labels) for name, (method, labels) in served.items()}
    plain = tiny_model(architecture)
    with elsewhere():
        server = Server(plain, 10**9, data, forward)
        for name, model in models.items():
            server.store.add(name, from_state(trained_state(model), served[name][0].scale))
        answers = server.logits(data, [0, 3, 9, 4], ["one", "two", "one", "two"])
    assert [len(answer) for answer in answers] == [3, 2, 3, 2]
    assert {answer.device for answer in answers} == {CPU}


def test_an_adapted_model_moves_with_all_that_its_method_made(method, architecture):
    """Also what is not a parameter or a buffer: bitsandbytes keeps the scales in an object of its own."""
    model = applied(method, architecture).to(META)
    for module in model.modules():
        own = {name: value for name, value in vars(module).items() if name != "pretrained"}  # compared on the host
        if (state := own.get("quant_state")) is not None:
            own |= {"state": vars(state), "nested": vars(state.state2) if state.nested else {}}
        assert all(tensor.is_meta for tensor in tensors(own)), type(module).__name__


@pytest.mark.parametrize("forward", ["packed", "padded"])
def test_a_batch_moves_with_all_that_is_in_it(forward, architecture):
    """So that `collate` alone need not name a device."""
    data = encoded(architecture)
    batch = forward_path(tiny_model(architecture), forward).collate(data, list(range(len(data.lengths))))
    here, there = (list(tensors(asdict(each))) for each in (batch, batch.to(META)))
    assert len(here) == len(there) >= 3
    assert {tensor.device for tensor in here} == {CPU}
    assert {tensor.device for tensor in there} == {META}


@pytest.mark.parametrize(
    "make",
    [lambda: torch.zeros(3), lambda: torch.arange(3), lambda: torch.tensor([1]) + 1, lambda: nn.Linear(2, 2)],
    ids=["zeros", "arange", "tensor", "module"],
)
def test_what_is_made_without_a_device_is_noticed(make):
    with elsewhere(), pytest.raises(AssertionError, match="does not follow the model's device"):
        make()


def test_what_follows_another_tensor_is_let_pass():
    x = torch.zeros(3)
    with elsewhere():
        made = (x.new_zeros(2), torch.zeros_like(x), torch.arange(3, device=x.device), x.sum())
    assert {tensor.device for tensor in made} == {CPU}
