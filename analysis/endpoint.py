"""The measurements of `scripts/serve_load.py`, as a table."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.records import BACKBONES, RECORDS, machine, measurements
from analysis.render import Table
from analysis.statistics import Summary, interval, summarize

FOLDER = RECORDS / "endpoint"
NOTES = [
    "Requests of one text, to adapters at random, to `scripts/serve.py` from the same machine: one at a time, and many at "
    "once, by turns. Requests/s: medians over rounds; their ratio is a mean over rounds, with its 95 % t interval. `answers "
    "that differ`: by more than 0.001 of a probability or a score between the two ways.",
]


def read(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The records, sorted by backbone, machine and number of adapters."""
    return measurements(folder, "endpoint", lambda r: (r["backbone"], machine(r), r["adapters"]))


def ratio(record: dict[str, Any]) -> Summary:
    """Requests/s of many at once over one at a time, round by round."""
    return summarize([turn["seconds_alone"] / turn["seconds_together"] for turn in record["rounds"]])


def rate(record: dict[str, Any], way: str) -> float:
    """Requests a second, median over rounds; `way`: alone or together."""
    return record["requests"] / summarize([turn[f"seconds_{way}"] for turn in record["rounds"]]).median


def differing(record: dict[str, Any]) -> str:
    """`0 of 1,280`: answers that differ between the ways."""
    return f"{sum(turn['differ'] for turn in record['rounds']):,} of {record['requests'] * len(record['rounds']):,}"


def table(folder: Path = FOLDER) -> Table:
    """The table `endpoint`: a line for each record."""
    lines = []
    for record in read(folder):
        times = ratio(record)
        place = [BACKBONES.get(record["backbone"], record["backbone"]), machine(record), f"{record['adapters']:,}"]
        speeds = [f"{rate(record, way):.0f}" for way in ("alone", "together")]
        ends = [f"{times.mean:.1f}", interval(times), str(times.n), differing(record)]
        lines.append([*place, str(record["at_once"]), *speeds, *ends])
    columns = ["backbone", "machine", "adapters", "at once", "requests/s, one at a time", "requests/s, at once"]
    columns += ["x", "95 % interval", "rounds", "answers that differ"]
    return Table("endpoint", "The HTTP endpoint under load", pd.DataFrame(lines, columns=columns), NOTES, 2)
