"""What `scripts/benchmark.py` measured, as a table."""

import json
import statistics
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.records import BACKBONES, METHODS, RECORDS, TASKS, describe_hardware, show
from analysis.render import Table

FOLDER = RECORDS / "benchmark"
OURS, RANDOM = "ours", "ours, random batches"
THEIRS = {
    "x random": "peft + Trainer, random batches",
    "x group_by_length": "peft + Trainer, group_by_length",
    "x max_length": "peft + Trainer, padded to max_length",
}
NOTES = [
    "Five processes a cell train in turns on one machine: our default, our step over random batches, and peft under "
    "transformers.Trainer over the same random batches padded to their longest, with group_by_length, and padded to 128 "
    "tokens. Same model, method, data, dropout and batch size; loading, warm-up and evaluation are outside.",
    "`x ...`: our default's samples/s over theirs, the median of ratios taken turn by turn (and the lowest and highest). "
    "`random / random`: our step over the very batches of `x random`, which leaves the packed forward pass alone.",
    "`step ms`: median of our default's steps (10th and 90th percentile). `x full FT`: our full fine-tuning's step time over "
    "this method's. `held`: bytes kept for the backward pass of the same four random batches, ours over peft's. `peak`: ours "
    "over theirs, random batches; on a CPU resident memory, the interpreter and its libraries in it.",
    "`of peak`: multiplications and additions a second, as a fraction of a product of 2048 x 2048 matrices measured in the "
    "same run: ours, theirs (random batches). QLoRA's is too low on both sides: what "
    "bitsandbytes multiplies is not counted.",
]


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The records, in the order of methods within tasks."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    order = list(METHODS)
    place = {name: i for i, name in enumerate(order)}
    return sorted(
        records,
        key=lambda r: (r["backbone"], machine(r), list(TASKS).index(r["task"]), place.get(r["method"], len(order))),
    )


def machine(record: dict[str, Any]) -> str:
    hardware = record["provenance"]["hardware"]
    return f"{describe_hardware(hardware)}, {hardware['precision']}"


def ratios(record: dict[str, Any], one: str, other: str) -> list[float]:
    """Samples/s of one side over another's, turn by turn."""

    def speeds(side: str) -> list[float]:
        return [turn["samples"] / sum(turn["seconds"]) for turn in record["sides"][side]["turns"]]

    return [a / b for a, b in zip(speeds(one), speeds(other), strict=True)]


def ratio(record: dict[str, Any], one: str, other: str) -> float:
    """The median over turns."""
    return statistics.median(ratios(record, one, other))


def steps(record: dict[str, Any], side: str) -> pd.Series:
    """Milliseconds of every step."""
    return pd.Series([1000 * s for turn in record["sides"][side]["turns"] for s in turn["seconds"]])


def rate(record: dict[str, Any], side: str, what: str) -> float:
    """Samples or tokens a second over all turns."""
    turns = record["sides"][side]["turns"]
    return sum(turn[what] for turn in turns) / sum(sum(turn["seconds"]) for turn in turns)


def line(record: dict[str, Any], full: dict[str, Any] | None) -> list[str]:
    sides, random = record["sides"], THEIRS["x random"]
    ms = steps(record, OURS)
    cells = [
        BACKBONES.get(record["backbone"], record["backbone"]),
        machine(record),
        TASKS[record["task"]],
        METHODS.get(record["method"], record["method"])
        + "".join(f", {k} {show(v)}" for k, v in record["settings"].items()),
        f"{rate(record, OURS, 'samples'):.0f}",
        f"{rate(record, OURS, 'tokens'):,.0f}",
        f"{ms.median():.0f} ({ms.quantile(0.1):.0f}-{ms.quantile(0.9):.0f})",
    ]
    for side in THEIRS.values():
        each = ratios(record, OURS, side)
        cells.append(f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})")
    cells.append(f"{ratio(record, RANDOM, random):.2f}")
    cells.append("" if full is None else f"{rate(record, OURS, 'samples') / rate(full, OURS, 'samples'):.2f}")
    held = [sum(sides[side]["held"].values()) for side in (OURS, random)]
    cells.append(f"{held[0] / held[1]:.2f}")
    cells.append(f"{sides[OURS]['peak_bytes'] / sides[random]['peak_bytes']:.2f}")
    achieved = [
        rate(record, side, "padded_tokens") * sides[side]["flops_per_token"] / record["peak_flops"]
        for side in (OURS, random)
    ]
    return [*cells, ", ".join(f"{share:.2f}" for share in achieved)]


def table(folder: Path = FOLDER) -> Table:
    """`speed`: a line for each cell that was measured."""
    records = read(folder)
    full = {(r["backbone"], machine(r), r["task"]): r for r in records if r["method"] == "full"}
    lines = [line(r, full.get((r["backbone"], machine(r), r["task"]))) for r in records]
    columns = ["backbone", "machine", "task", "method", "samples/s", "tokens/s", "step ms", *THEIRS]
    columns += ["random / random", "x full FT", "held", "peak", "of peak"]
    title = "Our training step against peft under transformers.Trainer"
    return Table("speed", title, pd.DataFrame(lines, columns=columns), NOTES, 4)
