"""No step waits for the device, shown on a CPU.

A synchronisation is a call that cannot return before a GPU has done all that it was given: one that hands the host a number
of the device's (`item`, `bool`, `tolist`), whose result has a shape that depends on such numbers (`nonzero`, `x[mask]`), that
checks them (`linalg.inv`), or that copies from memory which the driver has to read first (`torch.tensor`). The host then
gives the GPU no work while it waits, and the GPU is idle when the host continues.

They are counted over whole steps, from the finished batch to the speed meter; `collate` makes the batch on the host.
SYNCHRONISATIONS lists all that there are. A CPU shows what the code asks for, whatever the device. It does not show what runs
on a GPU alone (its dropout, bitsandbytes' kernels), or a `to` from one device to the other.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.tiny import METHODS, tiny_model
from support.trainers import tiny_trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

SYNCHRONISATIONS: dict[str, dict[str, str]] = {
    "packed": {},
    "padded": {
        "aten._local_scalar_dense by _ignore_bidirectional_mask_sdpa": "transformers asks once a forward pass whether the"
        " batch has padding at all, and if not, leaves out the mask"
    },
}
WAITING = {  # operators whose result, or its shape, the host needs from the device
    *(
        "aten._local_scalar_dense",
        "aten.nonzero",
        "aten.masked_select",
        "aten.is_nonzero",
        "aten.equal",
        "aten.bincount",
    ),
    *("aten._unique", "aten._unique2", "aten.unique_dim", "aten.unique_consecutive", "aten.unique_dim_consecutive"),
    *("aten.repeat_interleave", "aten._linalg_check_errors"),
}
INDEXING = {"aten.index", "aten.index_put", "aten.index_put_", "aten._index_put_impl_"}  # with a mask, by its nonzero
COPYING = {  # unseen among the operators of a CPU, where nothing has to be copied
    *(Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__),
    *(torch.tensor, torch.as_tensor, torch.from_numpy),
}
TORCH = str(Path(torch.__file__).parent)


def caller() -> str:
    """The innermost function outside torch and this file."""
    frames = reversed(traceback.extract_stack())
    return next((f.name for f in frames if not f.filename.startswith((TORCH, __file__))), "")


class Operators(TorchDispatchMode):
    """Counts the operators that wait, those of the backward pass among them."""

    def __init__(self, found: Counter):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.overloadpacket)
        indices = args[1] if name in INDEXING else []
        is_masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        if name in WAITING or is_masked:
            self.found[f"{name} by {caller()}"] += 1
        return function(*args, **kwargs or {})


class Calls(TorchFunctionMode):
    """Counts the calls that copy between host and device, and wait."""

    def __init__(self, found: Counter):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in COPYING:
            self.found[f"{function.__name__} by {caller()}"] += 1
        return function(*args, **kwargs or {})


@contextmanager
def counting() -> Iterator[Counter]:
    """What waits within, as `OPERATOR by FUNCTION`."""
    found: Counter = Counter()
    with Operators(found), Calls(found):
        yield found


def waits_of_steps(trainer) -> Counter:
    """Over an epoch, whose batches are made beforehand."""
    steps = list(trainer.remaining_batches())
    pieces = [piece for indices in steps for piece in trainer.pieces(indices)]
    assert len(steps) == 2
    assert len(pieces) == 4
    batches = {tuple(piece): trainer.path.collate(trainer.train, piece) for piece in pieces}
    trainer.path.collate = lambda _, piece: batches[tuple(piece)]
    trainer.speed.start()
    with counting() as found:
        for indices in steps:
            trainer.train_step(indices)
    return found


@pytest.mark.parametrize(
    ("forward", "architecture", "precision"), [("packed", "roberta", "bf16"), ("padded", "bert", "fp32")]
)
def test_no_step_waits_except_for_the_named_reasons(method, forward, architecture, precision):
    """Each path with the one encoder or the other, and with a GPU's own precision, bf16 by autocast, or without."""
    model = tiny_model(architecture, dropout=0.1)
    method.apply(model)
    found = waits_of_steps(tiny_trainer(model, method, forward, precision=precision))
    taken = "padded" if method.takes_plain_path else forward
    assert found == dict.fromkeys(SYNCHRONISATIONS[taken], 4)  # once a forward pass


@pytest.mark.parametrize("more", [{"optimizer": "sgd"}, {"max_grad_norm": None}], ids=["sgd", "unclipped"])
def test_no_other_optimizer_waits(more, architecture):
    model = tiny_model(architecture)
    METHODS["lora"].apply(model)
    assert waits_of_steps(tiny_trainer(model, METHODS["lora"], "packed", **more)) == {}


x, mask = torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([True, False])
WAITS: dict[str, Callable[[], object]] = {
    "item": lambda: x[0, 0].item(),
    "float": lambda: float(x[0, 0]),
    "bool": lambda: bool(x.isfinite().all()),
    "tolist": lambda: x.tolist(),
    "numpy": lambda: x.numpy(),
    "cpu": lambda: x.cpu(),
    "nonzero": lambda: x.nonzero(),
    "where": lambda: torch.where(x > 1),
    "x[mask]": lambda: x[mask],
    "x[mask] = y": lambda: x.clone().__setitem__(mask, x[:1]),
    "masked_select": lambda: x.masked_select(x > 1),
    "unique": lambda: x.unique(),
    "equal": lambda: torch.equal(x, x),
    "bincount": lambda: torch.bincount(mask.long()),
    "repeat_interleave": lambda: x.repeat_interleave(mask.long(), 0),
    "inv": lambda: torch.linalg.inv(x),
    "solve": lambda: torch.linalg.solve(x, x),
    "tensor": lambda: torch.tensor([1.0]),
}


@pytest.mark.parametrize("kind", WAITS)
def test_each_kind_of_wait_is_noticed(kind):
    with counting() as found:
        WAITS[kind]()
    assert found


def test_what_does_not_wait_is_not_counted():
    places = mask.long()
    with counting() as found:
        x.index_select(0, places)
        x[places]
        x.masked_fill(x > 1, 0.0)
        torch.where(x > 1, x, 0.0)
        torch.linalg.solve_ex(x, x)
        x.to(torch.float64) + torch.zeros(2)
    assert found == {}
