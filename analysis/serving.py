"""The measurements of `scripts/serve_bench.py`, as a table."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.records import BACKBONES, RECORDS, TASKS, machine, measurements
from analysis.render import Table
from analysis.statistics import summarize

FOLDER = RECORDS / "serving"
MIXED, SWITCHED, MERGED, BARE = "mixed batch", "one at a time", "folded, one at a time", "no adapters"
WAYS = (MIXED, SWITCHED, MERGED, BARE)  # by their names in records
LABELS = {way: way.replace("folded", "merged") for way in WAYS}
NOTES = [
    "A batch's requests are drawn at random over the adapters (LoRA of mixed rank, each with a head of its own), its texts "
    "over the task's validation set. Four ways serve the same batches by turns in one process: all adapters in one forward "
    "pass; a pass for each adapter in the batch; the same with the adapter written into the weights and taken out again; and "
    "one pass of the backbone with one head, which no adapters can be faster than. Tokenizing and drawing are outside.",
    "`adapters a batch`: the median. `ms`: median a batch (90th percentile). `x ...`: requests/s of the mixed batch over "
    "theirs, over all turns.",
    "`GB`: the backbone and all adapters with their heads; `GB of models`: as many whole models. `loads`: how often an "
    "adapter came to the device in all turns; on a CPU that takes no time.",
]


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The records, sorted by backbone, machine, task and size of a batch."""
    place = {name: i for i, name in enumerate(TASKS)}
    return measurements(
        folder, "serving", lambda r: (r["backbone"], machine(r), place[r["task"]], r["settings"]["batch"])
    )


def title(record: dict[str, Any]) -> list[str]:
    """Backbone, machine, and the make-up of a batch."""
    backbone = BACKBONES[record["backbone"]]
    return [backbone, machine(record), f"{record['settings']['batch']} of {TASKS[record['task']]}"]


def rate(record: dict[str, Any], step: dict[str, Any], way: str) -> float:
    """Requests a second over all turns."""
    seconds = step["seconds"][way]
    return record["settings"]["batch"] * len(seconds) / sum(seconds)


def ratio(step: dict[str, Any], way: str) -> float:
    """Requests/s of the mixed batch over another way's, over all turns."""
    return sum(step["seconds"][way]) / sum(step["seconds"][MIXED])


def line(record: dict[str, Any], step: dict[str, Any]) -> list[str]:
    ms = {way: 1000 * np.array(step["seconds"][way]) for way in WAYS}
    memory = record["model_bytes"] + step["adapter_bytes"], step["adapters"] * record["model_bytes"]
    return [
        *title(record),
        f"{step['adapters']:,}",
        f"{np.median(step['adapters_a_batch']):.0f}",
        *(f"{rate(record, step, way):.0f}" for way in WAYS),
        *(f"{np.median(each):.0f} ({np.quantile(each, 0.9):.0f})" for each in ms.values()),
        *(f"{ratio(step, way):.2f}" for way in WAYS[1:]),
        *(f"{size / 1e9:.2f}" for size in memory),
        str(step["loads"]),
    ]


def table(folder: Path = FOLDER) -> Table:
    """The table `serving`: a line for each number of adapters."""
    lines = [line(record, step) for record in read(folder) for step in record["steps"]]
    columns = ["backbone", "machine", "batch", "adapters", "adapters a batch"]
    labels = list(LABELS.values())
    columns += [f"{label}, {what}" for what in ("requests/s", "ms") for label in labels]
    columns += [f"x {label}" for label in labels[1:]]
    columns += ["GB", "GB of models", "loads"]
    return Table("serving", "Many adapters beside one backbone", pd.DataFrame(lines, columns=columns), NOTES, 3)


def thousands(folder: Path = FOLDER) -> list[tuple[str, bool | None, str]]:
    """Whether requests/s stay above half of the model's own with each record's largest number of adapters."""
    lines = []
    for record in read(folder):
        step = max(record["steps"], key=lambda step: step["adapters"])
        share = summarize(list(np.divide(step["seconds"][BARE], step["seconds"][MIXED])))
        low, high = share.ends
        holds: bool | None = True if low >= 0.5 else None
        if step["adapters"] < 2000 or high < 0.5:
            holds = False
        what = f"{', '.join(title(record)[1:])}: {step['adapters']:,} adapters"
        figures = (
            f"{what}, x {ratio(step, BARE):.2f} of the model alone ({low:.2f} to {high:.2f} by batch, n = {share.n})"
        )
        lines.append((record["backbone"], holds, figures))
    return lines


def mixing(folder: Path = FOLDER) -> list[tuple[str, bool | None, str]]:
    """Mixed batches give right answers: the script checks their logits against one adapter at a time."""
    lines = []
    for record in read(folder):
        most = max(n for step in record["steps"] for n in step["adapters_a_batch"])
        figures = f"{', '.join(title(record)[1:])}: up to {most} adapters in one pass, with the logits of one at a time"
        lines.append((record["backbone"], most < 2, figures))
    return lines
