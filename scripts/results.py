"""Prints Markdown tables of finished runs: `python scripts/results.py runs/default [more folders or result.json files]`.

A table a backbone and source of data, a row a method at its settings, a column a task. A cell is the best evaluation of
the task's main metric, times 100, the median where there are several seeds (their number in brackets). A dagger marks runs
whose best evaluation gave one answer to everything.
"""

import json
import statistics
import sys
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

from analysis.records import METHODS, TASKS, ended
from analysis.records import variant as shared_settings
from core.errors import UserError
from experiments.record import NAME
from scripts.cli import command


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """The complete records below the paths."""
    return [record for _, record in ended(chain.from_iterable(map(files, paths))) if record["status"] == "complete"]


def files(path: Path) -> list[Path]:
    """A record; the runs' below a folder; or those that `paper_tables/` keeps there."""
    return [path] if path.is_file() else sorted(path.rglob(NAME)) or sorted(path.rglob("*.json"))


def variant(record: dict[str, Any]) -> str:
    """The settings that runs of one row share: all but task, seed, and where things lie."""
    config = json.loads(shared_settings(record["config"]))
    del config["task"]
    return json.dumps(config, sort_keys=True)


def cell(records: list[dict[str, Any]]) -> str:
    """One number of the table; nothing where there is no run."""
    if not records:
        return ""
    score = statistics.median(100 * record["best"][record["metric"]] for record in records)
    mark = "†" * any(record["best"]["collapsed"] for record in records)
    seeds = len({record["seed"] for record in records})
    return f"{score:.1f}{mark}" + (f" ({seeds})" if seeds > 1 else "")


def table(records: list[dict[str, Any]]) -> str:
    """Markdown, for records of one backbone and source of data."""
    rows = defaultdict(lambda: defaultdict(list))
    for record in records:
        rows[record["method"], variant(record)][record["task"]].append(record)
    tasks = [task for task in TASKS if any(task in row for row in rows.values())]
    metric = {record["task"]: record["metric"] for record in records}
    lines = ["| method | learning rate | trained | " + " | ".join(f"{task} ({metric[task]})" for task in tasks) + " |"]
    lines.append("|---|" + "---:|" * (len(tasks) + 2))
    for (method, _), row in sorted(rows.items(), key=lambda item: (rank(item[0][0]), item[0])):
        first = next(iter(row.values()))[0]
        rate, trained = first["config"]["trainer"]["learning_rate"], first["parameters"]["trained_without_head"]
        cells = " | ".join(cell(row.get(task, [])) for task in tasks)
        lines.append(f"| {method} | {rate:g} | {trained:,} | {cells} |")
    return "\n".join(lines)


def rank(method: str) -> int:
    """Where a method's rows stand; those of one's own come last."""
    return [*METHODS, method].index(method)


@command
def main(folders: list[str]) -> None:
    records = read([Path(folder) for folder in folders or ["runs"]])
    if not records:
        raise UserError("no complete run there; give folders of runs, as in scripts/results.py runs/default")
    for backbone, data in sorted({(record["backbone"], record["data"]) for record in records}):
        print(f"\n{backbone}, data={data}\n")
        print(table([record for record in records if (record["backbone"], record["data"]) == (backbone, data)]))


if __name__ == "__main__":
    sys.exit(main())
