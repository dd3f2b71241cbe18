"""A run's whole state in one safetensors file, from which it goes on to the same bits.

Tensors: what trains, the optimizer's moments, the generators of each process. In the metadata, as JSON: the progress.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.io import read_header, read_tensors, write_tensors
from methods.base import load_trained_state, trained_state

NAME = "checkpoint.safetensors"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generators: list[dict[str, Tensor]],
    extra: dict[str, Tensor],
    progress: dict[str, Any],
    identity: dict[str, Any],
) -> None:
    """Replaces the folder's checkpoint.

    Args:
        generators: `generator_state()` of each process, by rank.
        extra: further tensors to keep, by name.
        progress: whatever JSON can hold.
        identity: what has to be the same for the run to go on from here.
    """
    tensors = {f"model/{name}": tensor for name, tensor in trained_state(model).items()}
    for index, parameter in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
    for rank, state in enumerate(generators):
        tensors |= {f"generator/{rank}/{device}": value for device, value in state.items()}
    tensors |= {f"extra/{name}": tensor for name, tensor in extra.items()}
    write_tensors(folder / NAME, tensors, {"identity": identity, "progress": progress})


def read_identity(folder: Path) -> dict[str, Any] | None:
    """What the checkpoint was written with; None without one."""
    return read_header(folder / NAME)["identity"] if (folder / NAME).exists() else None


def read_progress(folder: Path) -> dict[str, Any]:
    """How far the folder's checkpoint is."""
    return read_header(folder / NAME)["progress"]


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, rank: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Puts everything back where it was; returns the extra tensors and the progress.

    Raises:
        UserError: the file is damaged, or of another model.
    """
    tensors, header = read_tensors(folder / NAME)
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "generator": {}, "extra": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor
    load_trained_state(model, groups["model"])
    parameters = _parameters(optimizer)
    for name, tensor in groups["optimizer"].items():
        index, key = name.split("/")
        parameter = parameters[int(index)]
        device = parameter.device if key != "step" or parameter.is_cuda else "cpu"
        optimizer.state[parameter][key] = tensor.to(device)
    own = {name.partition("/")[2]: t for name, t in groups["generator"].items() if name.startswith(f"{rank}/")}
    set_generator_state(own)
    return groups["extra"], header["progress"]


def generator_state() -> dict[str, Tensor]:
    """Of torch's global generators, from which dropout draws."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_generator_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """In the order of the groups, which method and model fix."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
