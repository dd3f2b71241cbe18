"""Our training step against peft's under transformers.Trainer, side by side: `python scripts/benchmark.py [overrides]`.

    python scripts/benchmark.py backbone=minilm data=local data.path=DIR              # on a CPU, MiniLM on real text
    python scripts/benchmark.py backbone=roberta-base backbone.random_init=true data=generated   # on a GPU, no download

For each cell of `conf/experiment/benchmark.yaml` (methods by tasks; overrides as for `train.py -m`) five sides load the same
model, method, data and settings, each in a process of its own, and train by turns: `rounds=6` turns of `steps=4` steps, over
the same rounds x steps x trainer.batch_size examples, once. What else the machine does falls on all of them.

Writes a record a cell to `records/benchmark/` and the table `speed` in `into=paper_tables`, where `make_tables.py` makes it
again, and says plainly where a method is not faster, or not smaller. Five copies of a model want their memory: 15 GB for
MiniLM on MRPC, where the copy that pads to the maximum takes most.
"""

import random
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from analysis.records import ROOT
from analysis.speed import FOLDER, LONGEST, OURS, THEIRS, held, ratio, table
from core.errors import UserError
from core.io import write_json
from experiments.config import RunConfig, file_name, to_dict
from experiments.record import git_state, hardware, versions
from experiments.sweep import cells
from methods.base import Method
from scripts.cli import command, parse, whole

LOSS_TOLERANCE = 0.02  # bf16 rounds that far
OWN = {"rounds": "6", "steps": "4", "into": str(ROOT / "paper_tables")}


class Side:
    """One side in a process of its own, which trains when it is told to."""

    def __init__(self, run: RunConfig, name: str):
        from scripts.benchmark_sides import serve  # seconds to import: a user's mistake should not wait for it

        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(run, name, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.name, self.turns = name, []

    def hear(self) -> dict[str, Any]:
        """What the side says next.

        Raises:
            UserError: it met a mistake, or died.
        """
        try:
            answer = self.pipe.recv()
        except EOFError:
            raise UserError(f"the side '{self.name}' ended without an answer: out of memory?") from None
        if "error" in answer:
            raise UserError(answer["error"])
        return answer

    def ask(self, steps: int | None) -> dict[str, Any]:
        """Sends a number of steps, or None for the end; returns what the side says to it."""
        self.pipe.send(steps)
        return self.hear()


def measure(run: RunConfig, rounds: int, steps: int) -> dict[str, Any]:
    """The record of one cell."""
    from scripts.benchmark_sides import SIDES

    trainer = replace(run.trainer, epochs=1, max_steps=None, eval_every=None, micro_batch_size=None)
    data = replace(run.data, train_size=rounds * steps * run.trainer.batch_size, holdout=0.0)
    run = replace(run, trainer=trainer, data=data)
    sides = [Side(run, name) for name in SIDES]
    try:
        about = [side.hear() for side in sides]
        require_equal({side.name: answer.pop("first_loss") for side, answer in zip(sides, about, strict=True)})
        for turn in range(rounds):
            for side in random.Random(turn).sample(sides, len(sides)):  # nobody always comes after the same one
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
        "config": to_dict(run) | {"output_dir": "runs", "data": to_dict(run.data) | {"path": None}},
        "provenance": provenance | {"hardware": hardware() | machine},
        "peak_flops": peak,
        "sides": {side.name: {"turns": side.turns} | ends[side.name] for side in sides},
    }


def require_equal(losses: dict[str, float]) -> None:
    """Raises a UserError if the untrained models' losses on the same batch, without dropout, tell of other models."""
    if max(losses.values()) - min(losses.values()) > LOSS_TOLERANCE:
        raise UserError(f"the sides do not hold the same model, their first losses are {losses}: nothing was measured")


def peak_flops(run: RunConfig) -> tuple[dict[str, Any], float]:
    """The machine as runs record it, and the multiplications and additions a second of a product of 2048 x 2048 matrices."""
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
    """Those that are not the method's own defaults."""
    own = asdict(type(method)())
    return {key: value for key, value in asdict(method).items() if value != own[key] and key != "projection_seed"}


def verdicts(record: dict[str, Any]) -> list[str]:
    """In words, what was measured; in capitals, where we are behind."""
    cell, sides, lines = f"{record['method']} on {record['task']}", record["sides"], []
    for side in THEIRS.values():
        speed = ratio(record, OURS, side)
        lines.append(f"{cell}: {speed:.2f} times the samples/s of {side}" + (", NOT FASTER" if speed <= 1 else ""))
    for what, size in (("bytes held for backward", held), ("peak memory", lambda side: side["peak_bytes"])):
        share = size(sides[OURS]) / size(sides[LONGEST])
        lines.append(f"{cell}: {share:.2f} of the {what} of {LONGEST}" + (", NOT SMALLER" if share >= 1 else ""))
    return lines


@command
def main(words: list[str]) -> None:
    own, overrides = parse(words, OWN)
    rounds, steps = (whole(key, own[key]) for key in ("rounds", "steps"))
    records = Path(own["into"]) / "records" / FOLDER.name
    runs = cells(["experiment=benchmark", *overrides])
    records.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {run.method.name} on {run.task.name}", flush=True)
        record = measure(run, rounds, steps)
        device = record["provenance"]["hardware"]["device"]
        parts = (run.backbone.name, run.task.name, run.method.name, device, record["config_hash"][:8])
        path = records / f"{'-'.join(map(file_name, parts))}.json"
        write_json(path, record)
        print("\n".join(verdicts(record)), f"record: {path}", sep="\n", flush=True)
    print(*table(records).write(Path(own["into"])), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
