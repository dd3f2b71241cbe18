"""Prints tables of finished runs: `python scripts/results.py runs/default [more folders or record files] [format=md]`.

There is a table for each backbone and source of data, under a line with the budget that its runs share: a row for each
method and setting, a column for each task and its metric. Runs in a cell differ only in the seed; settings may differ between
a row's tasks, but not within one. A cell is the metric on the validation set, times 100: the mean over seeds, with its 95 % t
interval and the number of seeds. The epoch is the one that is best on held-out data, or on the validation set itself if
nothing was held out. ‡N: N runs gave every example the same answer. Failed runs are counted.

format=md is the default. format=csv and format=json give all numbers: a line for each method, setting and task, with mean,
interval, median, failed runs, the machines, the runs' folders and, where all ran on one machine, speed and peak memory.
"""

import json
import math
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.records import METHODS, TASKS, chosen_scores, collapsed, complete, in_order, read_runs
from analysis.statistics import summarize
from core.checks import one_of
from experiments.naming import RATE, differing, natural, short, show, unequal
from scripts.cli import command, parse
from tasks.glue import METRICS


def settings_that_differ(runs: pd.DataFrame) -> list[str]:
    """The learning rate, every setting in which runs of one method differ on one task, and what methods do not share."""
    parts = [differing(list(part["settings"]), within=("task.name",)) for _, part in runs.groupby("method")]
    return list(dict.fromkeys([RATE, *chain.from_iterable(parts), *unequal(list(runs["settings"]))]))


def summaries(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each method, setting and task: the numbers of its runs over seeds."""
    keys = settings_that_differ(runs)
    rows = []
    for _, own in runs.groupby(["order", "method"], sort=True):
        own = own.assign(key=[json.dumps([values.get(key, "") for key in keys]) for values in own["settings"]])
        parts = [summary(part, keys) for _, part in own.groupby(["key", "task", "metric"], sort=False)]
        rows += sorted(parts, key=lambda row: [natural(row[short(key)]) for key in keys])
    return rows


def summary(runs: pd.DataFrame, keys: list[str]) -> dict[str, Any]:
    """The numbers of one method, setting and task over its seeds."""
    first, done = runs.iloc[0], complete(runs)
    task, metric = first["task"], first["metric"]
    s = summarize(list(chosen_scores(done).values())) if len(done) else None
    machines = sorted({f"{run.hardware}, {run.precision}" for run in done.itertuples()})
    measured = done if len(machines) == 1 else done.iloc[:0]  # a median over machines is not the speed of any machine
    return {
        "method": first["method"],
        **{short(key): first["settings"].get(key, "") for key in keys},  # a method without this setting: nothing
        "trained": int(first["parameters"]),
        "task": task,
        "metric": metric,
        "seeds": len(done),
        **{key: getattr(s, key, None) for key in ("mean", "low", "high", "median")},
        "collapsed": collapsed(done),
        "failed": len(runs) - len(done),
        "machines": "; ".join(machines),
        "samples_per_second": number(measured["samples_per_second"].median()),
        "peak_bytes": number(measured["peak_bytes"].median()),
        "runs": list(runs["path"]),
    }


def number(value: float) -> float | None:
    """A run of three steps or fewer has no speed, and JSON has no NaN."""
    return None if math.isnan(value) else value


BUDGET = (
    "start",
    "init_from",
    "trainer.epochs",
    "trainer.max_steps",
    "trainer.batch_size",
    "trainer.precision",
    "data.train_size",
    "data.eval_size",
    "data.holdout",
)


def budget(runs: pd.DataFrame) -> str:
    """The training's length and data, as `epochs 1 or 3, batch_size 16`; without what has a column."""
    found = {key: sorted({show(values.get(key)) for values in runs["settings"]}, key=natural) for key in BUDGET}
    columns = settings_that_differ(runs)
    told = {key: values for key, values in found.items() if key not in columns and values != ["null"]}
    return ", ".join(f"{short(key)} {' or '.join(values)}" for key, values in told.items())


def cell(row: dict[str, Any]) -> str:
    """`26.0 (21.6 to 30.5, n = 4)`, and how many failed."""
    failed = f"{row['failed']} failed" if row["failed"] else ""
    if row["mean"] is None:
        return failed
    spread = f" ({row['low']:.1f} to {row['high']:.1f}, n = {row['seeds']})" if row["low"] is not None else ""
    if not spread and row["seeds"] > 1:
        spread = f" (n = {row['seeds']})"
    return f"{row['mean']:.1f}" + spread + f" ‡{row['collapsed']}" * (row["collapsed"] > 0) + (failed and f", {failed}")


def markdown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table with a column for each task."""
    columns = list(rows[0])[: list(rows[0]).index("task")]
    order = list(in_order(row["task"] for row in rows))
    tasks = sorted(dict.fromkeys((row["task"], row["metric"]) for row in rows), key=lambda pair: order.index(pair[0]))
    lines: dict[str, dict[Any, str]] = {}
    for row in rows:
        line = lines.setdefault(json.dumps([row[name] for name in columns]), {})
        line[row["task"], row["metric"]] = cell(row)
        line |= {name: show(row[name]) for name in columns}
        line |= {"method": METHODS[row["method"]], "trained": f"{row['trained']:,}"}
    heads = [*columns, *(f"{TASKS[task]} ({METRICS.get(metric, metric)})" for task, metric in tasks)]
    table = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    table += [[line.get(name, "").replace("|", "\\|") for name in (*columns, *tasks)] for line in lines.values()]
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


@command
def main(words: list[str]) -> None:
    options, folders = parse(words, {"format": "md"}, rest_are="paths")
    one_of("md", "csv", "json")("format", options["format"])
    runs = read_runs([Path(folder) for folder in folders or ["runs"]]).drop_duplicates("hash")
    parts = dict(list(runs.groupby(["backbone", "random_init", "data"])))
    groups = {key: summaries(part) for key, part in parts.items()}
    if options["format"] == "md":
        for (backbone, random, data), rows in groups.items():
            words = f"{backbone}{', random weights' * random}, data={data}; {budget(parts[backbone, random, data])}"
            print(f"\n{words}\n\n{markdown(rows)}")
        print("\nMean over seeds, 95 % t interval, number of seeds if there are several.")
        print("‡N: N runs gave every example the same answer.")
        return
    named = ("backbone", "random_init", "data")
    flat = [dict(zip(named, key, strict=True)) | row for key, rows in groups.items() for row in rows]
    if options["format"] == "json":
        print(json.dumps(flat, indent=1, allow_nan=False))
    else:
        table = pd.DataFrame(flat)
        print(table.assign(runs=table["runs"].map(" ".join)).to_csv(index=False), end="")


if __name__ == "__main__":
    sys.exit(main())
