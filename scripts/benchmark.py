"""Our training step against peft's under transformers.Trainer, side by side: `python scripts/benchmark.py [overrides]`.

    python scripts/benchmark.py backbone=minilm data=local data.path=DIR              # on a CPU, MiniLM on real text
    python scripts/benchmark.py backbone=roberta-base backbone.random_init=true data=generated   # on a GPU, no download

For each cell of `conf/experiment/benchmark.yaml` (methods by tasks; overrides as for `train.py -m`) five sides load the same
model, method, data and settings, each in a process of its own, and train in turns: `rounds=6` turns of `steps=4` steps.
Ratios are taken turn by turn, so that what else the machine does falls on both. Loading, warm-up and evaluation are outside.

Writes a record a cell to `records/benchmark/` and the table `speed` in `into=paper_tables`, where `make_tables.py` makes it
again, and says plainly where a method is not faster, or not smaller. Five copies of a model want their memory: 15 GB for
MiniLM on MRPC, where the copy that pads to the maximum takes most.
"""

import sys
import time
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from analysis.records import ROOT
from analysis.speed import FOLDER, OURS, THEIRS, ratio, table
from methods.base import Method
from scripts.benchmark_sides import SIDES, serve
from train import machine, make_accelerator
from training.config import RunConfig, file_name, to_dict
from training.errors import USER_ERRORS, UserError, sentence
from training.files import write_json
from training.meters import WARM_UP_STEPS
from training.record import describe
from training.sweep import cells

OWN = {"rounds": "6", "steps": "4", "into": str(ROOT / "paper_tables")}


def peak_flops(run: RunConfig) -> float:
    """Multiplications and additions a second in the product of two matrices of 2048 rows, the best of ten."""
    accelerator, seconds = make_accelerator(run), []
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    a = torch.randn(2048, 2048, device=accelerator.device, dtype=dtype)
    for _ in range(10):
        begin = time.perf_counter()
        a @ a
        if a.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return 2 * 2048**3 / min(seconds)


class Side:
    """One side in a process of its own, which trains when it is told to."""

    def __init__(self, run: RunConfig, name: str):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(run, name, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.name, self.turns = name, []

    def ask(self, steps: int | None) -> dict[str, Any]:
        """Sends a number of steps, 0 for a profile, or None for the end; returns what the side says to it."""
        try:
            self.pipe.send(steps)
            answer = self.pipe.recv()
        except (EOFError, BrokenPipeError):
            raise UserError(f"the side '{self.name}' ended without an answer; what it printed is above") from None
        if "error" in answer:
            raise UserError(f"the side '{self.name}': {answer['error']}")
        return answer


def measure(run: RunConfig, rounds: int, steps: int) -> dict[str, Any]:
    """The record of one cell."""
    sides = [Side(run, name) for name in SIDES]
    try:
        profiles = {side.name: side.ask(0) for side in sides if side.name in (OURS, THEIRS["x random"])}
        for side in sides:
            side.ask(WARM_UP_STEPS)
        for turn in range(rounds):
            for place in range(len(sides)):
                side = sides[(turn + place) % len(sides)]  # nobody comes always after the same one
                side.turns.append(side.ask(steps))
        peaks = {side.name: side.ask(None) for side in sides}
    finally:
        for side in sides:
            side.process.terminate()
            side.process.join()
    accelerator = make_accelerator(run)
    record = describe(run, {}, "", machine(accelerator))
    return {
        "benchmark": 1,
        **{key: record[key] for key in ("method", "task", "backbone", "data", "seed")},
        "settings": settings(run.method),
        "provenance": {key: record["provenance"][key] for key in ("git", "versions", "hardware")},
        "config": to_dict(run) | {"output_dir": "runs", "data": to_dict(run.data) | {"path": None}},
        "peak_flops": peak_flops(run),
        "sides": {side.name: {"turns": side.turns} | profiles.get(side.name, {}) | peaks[side.name] for side in sides},
    }


def settings(method: Method) -> dict[str, Any]:
    """Those that are not the method's own defaults."""
    own = asdict(type(method)())
    return {key: value for key, value in asdict(method).items() if value != own[key] and key != "projection_seed"}


def verdicts(record: dict[str, Any]) -> list[str]:
    """In words, what was measured; in capitals, where we are behind."""
    cell, lines = f"{record['method']} on {record['task']}", []
    for side in THEIRS.values():
        speed = ratio(record, OURS, side)
        lines.append(f"{cell}: {speed:.2f} times the samples/s of {side}" + (", NOT FASTER" if speed <= 1 else ""))
    sides = record["sides"]
    for what, key in (("bytes held for backward", "held"), ("peak memory", "peak_bytes")):
        ours, theirs = (
            sum(v.values()) if isinstance(v := sides[s][key], dict) else v for s in (OURS, THEIRS["x random"])
        )
        lines.append(f"{cell}: {ours / theirs:.2f} of its {what}" + (", NOT SMALLER" if ours >= theirs else ""))
    return lines


def whole(key: str, value: str) -> int:
    """A number of at least one."""
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{key} is '{value}'; give a whole number of at least 1")
    return int(value)


def main() -> int:
    words = [word for word in sys.argv[1:] if word.partition("=")[0] not in OWN]
    try:
        own = OWN | {key: value for key, _, value in (w.partition("=") for w in sys.argv[1:] if w not in words)}
        rounds, steps = (whole(key, own[key]) for key in ("rounds", "steps"))
        records = Path(own["into"]) / "records" / FOLDER.name
        records.mkdir(parents=True, exist_ok=True)
        runs = cells(["experiment=benchmark", *words])
        for number, run in enumerate(runs, 1):
            print(f"[{number}/{len(runs)}] {run.method.name} on {run.task.name}", flush=True)
            record = measure(run, rounds, steps)
            hardware = record["provenance"]["hardware"]
            parts = (run.backbone.name, run.task.name, run.method.name, *map(str, record["settings"].values()))
            parts += hardware["device"], hardware["precision"]
            path = records / f"{'-'.join(map(file_name, parts))}.json"
            write_json(path, record)
            print("\n".join(verdicts(record)), f"record: {path}", sep="\n", flush=True)
    except (OSError, *USER_ERRORS) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    print(*table(records).write(Path(own["into"])), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
