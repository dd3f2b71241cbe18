"""The measurements of `scripts/latency.py`: a table beside LoRA's table 1, and whether adapters add latency."""

import re
import statistics
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.records import BACKBONES, METHODS, RECORDS, machine, measurements
from analysis.render import Table
from analysis.reported import read_reported
from analysis.statistics import LEAST, summarize

FOLDER = RECORDS / "latency"
PLAIN, MERGED = "full", "lora_folded"  # by their names in records
ADAPTERS = ("houlsby", "lin", "pfeiffer")
VARIANTS = (MERGED, "lora", "dora", "vera", *ADAPTERS)
LABELS = METHODS | {MERGED: "LoRA, merged"}
LEVEL = 1.02  # a variant up to this many times the plain model's time counts as no slower
REPORTED = {PLAIN: "Fine-Tune/LoRA", MERGED: "Fine-Tune/LoRA", "lin": "Adapter-L", "houlsby": "Adapter-H"}
NOTES = [
    "A forward pass without gradients, in evaluation mode, over inputs without padding: milliseconds of the plain model, "
    "which is what full fine-tuning leaves, and each variant's time over it. All variants take turns in one process, in "
    "another order each turn; a ratio is of two passes of one turn. Medians, and in brackets the 10th and 90th percentile.",
    "Methods at their own defaults, weights at random: a pass takes as long with any. LoRA, DoRA and VeRA are measured as "
    "they train; all three merge, and are then the plain model, as `LoRA, merged` is. Adapters do not merge.",
]


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The records, sorted by backbone and machine."""
    return measurements(folder, "latency", lambda r: (r["backbone"], machine(r)))


def ratios(cell: dict[str, Any], variant: str) -> pd.Series:
    """A variant's seconds over the plain model's, turn by turn, in one cell: a batch size and a length."""
    return pd.Series(cell["seconds"][variant]) / pd.Series(cell["seconds"][PLAIN])


def verdict(record: dict[str, Any]) -> tuple[bool | None, str]:
    """Whether adapters are slower than the plain model at batch 1 while merged LoRA is not anywhere; and the numbers.

    None: undecided, because an interval reaches both sides, or because there are too few turns for intervals.
    """
    found = {
        (variant, cell["batch"], cell["length"]): summarize(ratios(cell, variant).tolist())
        for cell in record["cells"]
        for variant in (MERGED, *ADAPTERS)
    }
    turns = min(s.n for s in found.values())
    if turns < LEAST:
        return None, f"{turns} turns are too few for an interval"
    merged = [s.ends for (variant, *_), s in found.items() if variant == MERGED]
    single = [s.ends for (variant, batch, _), s in found.items() if variant != MERGED and batch == 1]
    holds: bool | None = None
    if any(low > LEVEL for low, _ in merged) or any(high < 1 for _, high in single):
        holds = False
    elif single and all(low > 1 for low, _ in single):
        holds = True
    figures = []
    for variant in (MERGED, *ADAPTERS):
        judged = [s.ends for (v, batch, _), s in found.items() if v == variant and (v == MERGED or batch == 1)]
        lows, highs = zip(*judged, strict=True)
        where = "any batch" if variant == MERGED else "batch 1"
        figures.append(f"{LABELS[variant]}, {where}: x {min(lows):.2f} to {max(highs):.2f}")
    return holds, "; ".join(figures) + f" (widest ends of the intervals over lengths; n = {turns} turns)"


def verdicts(folder: Path = FOLDER) -> list[tuple[str, bool | None, str]]:
    """For each record: backbone, whether the claim holds, the numbers."""
    lines = []
    for record in read(folder):
        holds, figures = verdict(record)
        lines.append((record["backbone"], holds, f"{machine(record)}: {figures}"))
    return lines


def line(record: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    cells = [BACKBONES[record["backbone"]], machine(record)]
    cells += [str(cell["batch"]), str(cell["length"]), f"{1000 * statistics.median(cell['seconds'][PLAIN]):.1f}"]
    for variant in VARIANTS:
        each = ratios(cell, variant)
        cells.append(f"{each.median():.2f} ({each.quantile(0.1):.2f}-{each.quantile(0.9):.2f})")
    return cells


def published() -> tuple[list[list[str]], str]:
    """LoRA's table 1 in our columns, and its source."""
    reported = read_reported("lora_table1")
    reported = reported[~reported["column"].str.startswith("added")]  # in percent
    lines = []
    for column, part in reported.groupby("column", sort=False):
        batch, length = re.findall(r"\d+", column)[:2]
        ms = {v: float(part.set_index("row")["value"][row]) for v, row in REPORTED.items()}
        shares = [f"{ms[v] / ms[PLAIN]:.2f}" if v in ms else "" for v in VARIANTS]
        lines.append(["GPT-2 medium", "published", batch, length, f"{ms[PLAIN]:.1f}", *shares])
    [source], [protocol] = set(reported["source"]), set(reported["protocol"])
    same = "one number for full fine-tuning and merged LoRA; ratios taken here, of its means"
    return lines, f"Published: {source}; {protocol}; {same}."


def table(folder: Path = FOLDER) -> Table:
    """The table `latency`: a line for each batch size and length, published ones first."""
    lines, source = published()
    lines += [line(record, cell) for record in read(folder) for cell in record["cells"]]
    columns = ["backbone", "machine", "batch", "length", "ms", *(LABELS[variant] for variant in VARIANTS)]
    cells = pd.DataFrame(lines, columns=columns)
    return Table("latency", "A forward pass, over the plain model's", cells, [*NOTES, source], 2)
