"""Our training step against peft's under transformers.Trainer; the sides train in turns, each in its own process."""

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any

import torch

from core.errors import UserError
from experiments.config import RunConfig, to_dict
from experiments.record import git_state, hardware, versions, without_paths
from methods.base import Method

LOSS_TOLERANCE = 0.02  # bf16 rounds that far


class Side:
    """One side in its own process, which trains on request."""

    def __init__(self, run: RunConfig, name: str):
        from benchmarks.sides import serve  # seconds to import: a user's mistake should not wait for it

        if torch.cuda.is_available():
            context: Any = get_context("spawn")  # libraries set CUDA up when they are imported, which no fork survives
        else:
            context = get_context("forkserver")  # imports the libraries once, for all sides of all cells
            context.set_forkserver_preload(["benchmarks.sides"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(run, name, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.name = name
        self.turns: list[dict[str, Any]] = []

    def hear(self) -> dict[str, Any]:
        """The side's next answer.

        Raises:
            UserError: it reports a user's mistake, or it died.
        """
        try:
            answer = self.pipe.recv()
        except EOFError:
            raise UserError(f"the side '{self.name}' ended without an answer: out of memory?") from None
        if "error" in answer:
            raise UserError(answer["error"])
        return answer

    def ask(self, steps: int | None) -> dict[str, Any]:
        """Sends a number of steps, or None for the end; returns the side's answer."""
        self.pipe.send(steps)
        return self.hear()


def measure(run: RunConfig, rounds: int, steps: int, names: Sequence[str]) -> dict[str, Any]:
    """The record of one cell; `names`: of the sides."""

    trainer = replace(run.trainer, epochs=1, max_steps=None, eval_every=None, micro_batch_size=None)
    data = replace(run.data, train_size=rounds * steps * run.trainer.batch_size, holdout=0.0)
    run = replace(run, trainer=trainer, data=data)
    sides = [Side(run, name) for name in names]
    try:
        about = [side.hear() for side in sides]
        require_equal({side.name: answer.pop("first_loss") for side, answer in zip(sides, about, strict=True)})
        for turn in range(rounds):
            for side in random.Random(turn).sample(
                sides, len(sides)
            ):  # a random order, so that no side always follows the same one
                side.turns.append(side.ask(steps))
        ends = {side.name: side.ask(None) for side in sides}
    finally:
        for side in sides:
            side.process.terminate()
            side.process.join()
    machine, peak = peak_flops(run)
    provenance = {"git": git_state(), "versions": versions() | {"peft": version("peft")}, **about[0]}
    return {
        "benchmark": 1,
        **{"method": run.method.name, "settings": settings(run.method), "task": run.task.name},
        **{"backbone": run.backbone.name, "seed": run.seed, "config_hash": run.hash},
        "config": without_paths(to_dict(run)),
        "provenance": provenance | {"hardware": hardware() | machine},
        "peak_flops": peak,
        "sides": {side.name: {"turns": side.turns} | ends[side.name] for side in sides},
    }


def require_equal(losses: dict[str, float]) -> None:
    """Raises a UserError unless all untrained models have the same loss on the same batch, without dropout."""
    if max(losses.values()) - min(losses.values()) > LOSS_TOLERANCE:
        raise UserError(f"the sides do not hold the same model, their first losses are {losses}: nothing was measured")


def peak_flops(run: RunConfig) -> tuple[dict[str, Any], float]:
    """The machine as in runs' records, and its operations a second in a product of 2048 x 2048 matrices."""
    from training.accelerator import describe_machine, make_accelerator

    accelerator, seconds = make_accelerator(run.trainer, run.deterministic), []
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    a = torch.randn(2048, 2048, device=accelerator.device, dtype=dtype)
    for _ in range(10):
        begin = time.perf_counter()
        a @ a
        if a.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return describe_machine(accelerator), 2 * 2048**3 / min(seconds)


def settings(method: Method) -> dict[str, Any]:
    """The settings that differ from the method's defaults."""
    own = asdict(type(method)(name=method.name))
    return {key: value for key, value in asdict(method).items() if value != own[key] and key != "projection_seed"}
