"""A run's whole state at a step, from which it resumes to the same bits.

One value for one file: a fault could leave a separate file of the best state at another step.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.base import load_trained_state, trained_state


@dataclass(frozen=True)
class Best:
    """The best evaluation so far: the trained state there, its predictions as JSON lines, and its step."""

    state: dict[str, Tensor]
    predictions: str
    step: int


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to resume.

    Attributes:
        model: the trained state, by name.
        optimizer: its moments, as INDEX/KEY, by the parameter's place in the optimizer's groups.
        generators: `generator_state()` of each process, by rank.
        step_seconds: the speed meter's, (steps,).
        progress: whatever JSON can hold.
        best: None: the best evaluation is that of the checkpoint before, or there is none yet.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    generators: list[dict[str, Tensor]]
    step_seconds: Tensor
    progress: dict[str, Any]
    best: Best | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All but `best`, as GROUP/NAME."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.items()}
        for rank, state in enumerate(self.generators):
            tensors |= {f"generator/{rank}/{device}": value for device, value in state.items()}
        return tensors | {"speed/step_seconds": self.step_seconds}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], progress: dict[str, Any]) -> "Checkpoint":
        """What `tensors()` gave; groups of other names are left out."""
        generators: dict[str, dict[str, Tensor]] = {}
        for name, tensor in group(tensors, "generator").items():
            rank, device = name.split("/")
            generators.setdefault(rank, {})[device] = tensor
        return cls(
            group(tensors, "model"),
            group(tensors, "optimizer"),
            [generators[rank] for rank in sorted(generators, key=int)],
            tensors["speed/step_seconds"],
            progress,
        )

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> None:
        """Puts model, optimizer and this process's generators back where they were.

        Raises:
            UserError: the state is of another model.
        """
        load_trained_state(model, self.model)
        parameters = _parameters(optimizer)
        for name, tensor in self.optimizer.items():
            index, key = name.split("/")
            parameter = parameters[int(index)]
            device = parameter.device if key != "step" or parameter.is_cuda else "cpu"
            optimizer.state[parameter][key] = tensor.to(device)
        set_generator_state(self.generators[rank])


def capture(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The fields `model` and `optimizer` of a checkpoint; the tensors are the live ones, not copies."""
    moments = {
        f"{index}/{key}": value
        for index, parameter in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }
    return trained_state(model), moments


def group(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of a group, without its name."""
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}


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
    return [parameter for each in optimizer.param_groups for parameter in each["params"]]
