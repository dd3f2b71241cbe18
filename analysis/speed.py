"""The measurements of `scripts/benchmark.py`, as a table."""

import statistics
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.records import BACKBONES, METHODS, RECORDS, TASKS, machine, measurements, show
from analysis.render import Table

FOLDER = RECORDS / "benchmark"
OURS, RANDOM = "ours", "ours, random batches"
LONGEST = "peft + Trainer, random batches"
GROUPED = "peft + Trainer, group_by_length"
MAXIMUM = "peft + Trainer, padded to max_length"
THEIRS = {"x random": LONGEST, "x group_by_length": GROUPED, "x max_length": MAXIMUM}
NOTES = [
    "Five processes a cell train by turns on one machine, over the same examples once: our default, our step over random "
    "batches, and peft under transformers.Trainer over those random batches padded to their longest, with group_by_length, "
    "and padded to max_length. Same model, method, dropout, batch size and optimizer; loading, warm-up and evaluation are "
    "outside.",
    "`x ...`: our default's samples/s over theirs, over all turns. `random / random`: our step over the very batches of "
    "`x random`, the median of ratios taken turn by turn (and the lowest and highest): our step "
    "alone, without batches of similar length, which any trainer can have. `x full FT`: samples/s over our full "
    "fine-tuning's, another cell "
    "of the same session.",
    "`step ms`: median of our default's steps (10th and 90th percentile). `held`: bytes kept for the backward pass of the "
    "same four random batches, ours over those of `x random`. `peak`: our default's over theirs of `x random`; on a CPU "
    "resident memory, with the interpreter, the libraries and the model in it; in brackets what training added to those.",
    "NVIDIA H200: RoBERTa-base's shape with random weights and its real tokenizer, torch 2.11, eight turns of eight steps. "
    "They reach 2 % of the GPU's multiplications a second: at this size steps wait for kernel launches.",
    "MiniLM: batches of 32, eight turns of six steps on CoLA, four of four on MRPC and RTE, a session for each precision. "
    "RoBERTa-base on a CPU: random weights, its real tokenizer, batches of 8, four turns of four.",
    "`group_by_length` sorts 50 batches at once, as on the whole of CoLA, and pads 2 to 5 %. RoBERTa-base's cells on a CPU "
    "are older: it sorted a quarter of their 128 examples at once and padded 14 to 21 %, so that `x group_by_length` is too "
    "high there; on the GPU it padded 5 %. `x max_length` is measured for LoRA on CoLA and in the older cells.",
    "`of peak`: multiplications and additions a second, as a fraction of a product of 2048 x 2048 matrices measured in the "
    "same session: our default, `x random`. QLoRA's is too low on both sides: what bitsandbytes multiplies is not counted.",
]


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The records, sorted by backbone, machine, task and method."""
    place = {name: i for i, name in enumerate([*TASKS, *METHODS])}
    return measurements(
        folder,
        "benchmark",
        lambda r: (r["backbone"], machine(r), place[r["task"]], place.get(r["method"], len(place))),
    )


def ratios(record: dict[str, Any], one: str, other: str) -> list[float]:
    """The ratio of two sides' samples/s, for each turn."""

    def speeds(side: str) -> list[float]:
        return [turn["samples"] / sum(turn["seconds"]) for turn in record["sides"][side]["turns"]]

    return [a / b for a, b in zip(speeds(one), speeds(other), strict=True)]


def ratio(record: dict[str, Any], one: str, other: str) -> float:
    """The ratio of two sides' samples/s over all turns."""
    return rate(record, one, "samples") / rate(record, other, "samples")


def bytes_held(side: dict[str, Any]) -> int:
    """Bytes held for the backward pass, of all types."""
    return sum(side["held"].values())


def same_settings(record: dict[str, Any]) -> tuple[Any, ...]:
    """The settings in which two cells must agree to be compared."""
    trainer = record["config"]["trainer"]
    sizes = trainer["batch_size"], trainer.get("forward"), record["config"]["task"]["max_length"]
    return record["backbone"], machine(record), record["task"], *sizes


def steps(record: dict[str, Any], side: str) -> pd.Series:
    """Milliseconds of each step."""
    return pd.Series([1000 * s for turn in record["sides"][side]["turns"] for s in turn["seconds"]])


def rate(record: dict[str, Any], side: str, what: str) -> float:
    """Samples or tokens a second over all turns."""
    turns = record["sides"][side]["turns"]
    return sum(turn[what] for turn in turns) / sum(sum(turn["seconds"]) for turn in turns)


def line(record: dict[str, Any], full: dict[str, Any] | None) -> list[str]:
    sides = record["sides"]
    ms = steps(record, OURS)
    cells = [
        BACKBONES[record["backbone"]],
        machine(record),
        TASKS[record["task"]],
        METHODS[record["method"]] + "".join(f", {k} {show(v)}" for k, v in record["settings"].items()),
        f"{rate(record, OURS, 'samples'):.0f}",
        f"{rate(record, OURS, 'tokens'):,.0f}",
        f"{ms.median():.0f} ({ms.quantile(0.1):.0f}-{ms.quantile(0.9):.0f})",
    ]
    cells += [f"{ratio(record, OURS, side):.2f}" if side in sides else "" for side in THEIRS.values()]
    each = ratios(record, RANDOM, LONGEST)
    cells.append(f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})")
    cells.append("" if full is None else f"{rate(record, OURS, 'samples') / rate(full, OURS, 'samples'):.2f}")
    a, b = sides[OURS], sides[LONGEST]
    cells.append(f"{bytes_held(a) / bytes_held(b):.2f}")
    grown = (a["peak_bytes"] - a["before"]) / (b["peak_bytes"] - b["before"])
    cells.append(f"{a['peak_bytes'] / b['peak_bytes']:.2f} ({grown:.2f})")
    achieved = [rate(record, s, "padded_tokens") * sides[s]["flops_per_token"] for s in (OURS, LONGEST)]
    return [*cells, ", ".join(f"{flops / record['peak_flops']:.2f}" for flops in achieved)]


def table(folder: Path = FOLDER) -> Table:
    """The table `speed`: a line for each measured cell."""
    records = read(folder)
    full = {same_settings(r): r for r in records if r["method"] == "full"}
    lines = [line(r, full.get(same_settings(r))) for r in records]
    columns = ["backbone", "machine", "task", "method", "samples/s", "tokens/s", "step ms", *THEIRS]
    columns += ["random / random", "x full FT", "held", "peak", "of peak"]
    title = "Our training step against peft under transformers.Trainer"
    return Table("speed", title, pd.DataFrame(lines, columns=columns), NOTES, 4)
