"""Speed and memory of training, measured alike for every method: evaluation, checkpoints and warm-up are outside."""

import contextlib
import ctypes
import gc
import os
import resource
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.batches import Batch
from models.packed import PackedBatch

WARM_UP_STEPS = 3


class SpeedMeter:
    """A clock that runs while training steps do.

    On a GPU a step's end is an event in the stream, so that the host never waits within a step. A step lasts from the end of
    the one before to its own end: making the batch counts, evaluation does not.
    """

    def __init__(self, device: torch.device, warm_up: int = WARM_UP_STEPS):
        self.device = device
        self.step_seconds: list[float] = []
        self.samples = self.tokens = self.padded_tokens = 0
        self._marks: list[Any] = []
        self._sizes: list[tuple[int, int, int]] = []
        self._to_skip = warm_up

    def start(self) -> None:
        """Begins a stretch of steps."""
        self._marks, self._sizes = [self._mark()], []

    def step(self, batches: Sequence[Batch | PackedBatch], processes: int) -> None:
        """Ends a step over `batches`. Assumes equal shares on all processes."""
        self._marks.append(self._mark())
        samples = sum(len(batch.labels) for batch in batches)
        tokens, padded = sum(batch.tokens for batch in batches), sum(batch.padded_tokens for batch in batches)
        self._sizes.append((samples * processes, tokens * processes, padded * processes))

    def stop(self) -> None:
        """Ends a stretch; the device has to be idle before the clock is read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for before, after, sizes in zip(self._marks[:-1], self._marks[1:], self._sizes, strict=True):
            if self._to_skip > 0:
                self._to_skip -= 1
                continue
            self.step_seconds.append(_between(before, after))
            self.samples += sizes[0]
            self.tokens += sizes[1]
            self.padded_tokens += sizes[2]
        self._marks, self._sizes = [], []

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @property
    def samples_per_second(self) -> float | None:
        return self._rate(self.samples)

    @property
    def tokens_per_second(self) -> float | None:
        return self._rate(self.tokens)

    def _rate(self, count: int) -> float | None:
        """Over all finished stretches; None where no step came after the warm-up."""
        return count / sum(self.step_seconds) if self.step_seconds else None

    def summary(self) -> dict[str, float | None]:
        """The record's `speed`; all None when no step came after the warm-up."""
        median = 1000 * torch.tensor(self.step_seconds, device="cpu").median().item() if self.step_seconds else None
        return {
            "samples_per_second": self.samples_per_second,
            "tokens_per_second": self.tokens_per_second,
            "padded_tokens_per_second": self._rate(self.padded_tokens),
            "step_ms_median": median,
            "steps": len(self.step_seconds),
        }

    def state(self) -> tuple[Tensor, list[int]]:
        """What a checkpoint keeps."""
        seconds = torch.tensor(self.step_seconds, dtype=torch.float64, device="cpu")
        return seconds, [self.samples, self.tokens, self.padded_tokens]

    def load(self, step_seconds: Tensor, sizes: list[int]) -> None:
        self.step_seconds = step_seconds.tolist()
        self.samples, self.tokens, self.padded_tokens = sizes


def _between(before: Any, after: Any) -> float:
    """Seconds between two marks."""
    return before.elapsed_time(after) / 1000 if isinstance(before, torch.cuda.Event) else after - before


def release_memory() -> None:
    """Frees memory that an earlier run of this process left, so that a sweep's later runs do not inherit its peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it, and keeps freed pages without it
        ctypes.CDLL(None).malloc_trim(0)


class MemoryMeter:
    """The peak while training steps run: allocated and reserved on a GPU, resident (RSS) on a CPU."""

    def __init__(self, device: torch.device):
        self.device = device
        self.peak_bytes = 0
        self.reserved_bytes: int | None = None

    def start(self) -> None:
        """Forgets earlier peaks, an evaluation's or an earlier run's of the same process."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif os.access("/proc/self/clear_refs", os.W_OK):
            Path("/proc/self/clear_refs").write_text("5")

    def stop(self) -> None:
        if self.device.type == "cuda":
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated(self.device))
            self.reserved_bytes = max(self.reserved_bytes or 0, torch.cuda.max_memory_reserved(self.device))
        else:
            self.peak_bytes = max(self.peak_bytes, _rss("VmHWM"))

    def current_bytes(self) -> int:
        """In use now."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else _rss("VmRSS")

    def utilization(self) -> int | None:
        """Percent of the last second in which the GPU worked; None where its driver does not say."""
        if self.device.type == "cuda":
            with contextlib.suppress(
                Exception
            ):  # containers often hide the driver's library; a curve is not worth a run
                return torch.cuda.utilization(self.device)
        return None

    @property
    def peak_kind(self) -> str:
        return "gpu_allocated" if self.device.type == "cuda" else "cpu_rss"


def _rss(field: str) -> int:
    """Bytes resident now (VmRSS) or at most (VmHWM); Linux can reset the latter, getrusage cannot."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def storage_bytes(tensors) -> int:
    """Bytes of the tensors' storages, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def weight_bytes(model: nn.Module) -> int:
    """Of parameters and buffers."""
    return storage_bytes(chain(model.parameters(), model.buffers()))


def weight_types(model: nn.Module) -> dict[str, int]:
    """The same by type: in a bf16 run frozen weights are bfloat16, a 4-bit layer's are uint8."""
    tensors = list(chain(model.parameters(), model.buffers()))
    types = sorted({str(tensor.dtype) for tensor in tensors})
    return {
        kind.removeprefix("torch."): storage_bytes(tensor for tensor in tensors if str(tensor.dtype) == kind)
        for kind in types
    }


def gradient_bytes(model: nn.Module) -> int:
    """Of the gradients of all that trains."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Of the optimizer's state."""
    tensors = (value for state in optimizer.state.values() for value in state.values())
    return storage_bytes(tensor for tensor in tensors if isinstance(tensor, Tensor))


def activation_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """What autograd holds for the backward pass of `forward()`, once per storage; not counting the model's own weights."""
    return sum(held_bytes(model, forward).values())


def held_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> dict[str, int]:
    """The same by type of tensor: numbers (float32, bfloat16), dropout's and attention's masks (bool), indices (int64)."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in chain(model.parameters(), model.buffers())}
    held: dict[int, tuple[str, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = str(tensor.dtype).removeprefix("torch."), storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()  # as long as it lives, so do the storages, and no address is given out twice
    del output
    kinds = sorted({kind for kind, _ in held.values()})
    return {kind: sum(size for own, size in held.values() if own == kind) for kind in kinds}
