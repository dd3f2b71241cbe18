"""The results page: what it shows, as JSON, and the folder that opens from disk.

All statistics are computed here, by the functions that make the tables; `page_files/page.js` only chooses and draws.
"""

import json
import math
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import plotly

from analysis.claims import CLAIMS
from analysis.drawing import LOOKS, look
from analysis.records import METHODS, TASKS, chosen_scores, collapsed, complete, holds_out, in_order, on_glue
from analysis.render import Table
from analysis.statistics import difference, holm, summarize
from analysis.tables import with_choice
from core.errors import USER_ERRORS
from core.io import write_text
from core.mistakes import composing
from experiments.config import to_dict
from experiments.naming import flat
from experiments.record import RECORD
from experiments.run_folder import PREDICTIONS
from experiments.sweep import composer
from models.settings import BackboneConfig
from tasks.glue import METRICS
from tasks.settings import HELD_OUT, TaskConfig
from training.selection import best, selected

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "page_files"
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}
SYMBOLS = {
    **{"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "P": "cross", "v": "triangle-down"},
    **{"X": "x", "<": "triangle-left", ">": "triangle-right", "h": "hexagon", "d": "diamond-tall", "p": "pentagon"},
    **{
        "H": "hexagon2",
        "*": "star",
        "_": "line-ew-open",
        "8": "octagon",
        "1": "y-down-open",
        "2": "y-up-open",
        "3": "y-left-open",
    },
}
COST = ("samples_per_second", "weights", "gradients", "optimizer_state", "activations")
Records = dict[tuple[str, str], tuple[Path, dict[str, Any]]]
HIDDEN = (
    "output_dir",
    "force",
    "retry",
    "reuse_records",
    "logger.",
    "backbone.architecture.",
    "backbone.learning_rates.",
    "data.path",
)  # of settings


def page_data(runs: pd.DataFrame, records: Records, tables: list[Table], first: str) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        runs: complete and failed runs, as `records.frame` has them.
        records: each run's file and record, by its experiment and the hash of its settings.
        tables: shown as they are.
        first: the experiment that the page opens on.
    """
    verdicts, runs = claims(on_glue(runs)), with_choice(by_metric(runs))
    keys = ["experiment", "model", "task", "label"]
    settings = [setting(part) for _, part in runs.groupby(keys, sort=False)]
    return {
        "first": first,
        "methods": {name: method_look(name) for name in dict.fromkeys(runs["method"])},
        "tasks": {task: TASKS[task] for task in in_order(runs["task"])},
        "metrics": {task: METRICS.get(name, name) for task, name in zip(runs["task"], runs["metric"], strict=True)},
        "settings": settings,
        "runs": [run_data(row, *records[row.experiment, row.hash]) for row in runs.itertuples()],
        "pairs": list(pairs(complete(runs))),
        "claims": verdicts,
        "tables": [
            {"title": t.title, "columns": list(t.cells.columns), "rows": t.cells.to_numpy().tolist()} for t in tables
        ],
    }


def by_metric(runs: pd.DataFrame) -> pd.DataFrame:
    """The frame, in which a task with two metrics becomes two tasks."""
    mixed = runs.groupby("task")["metric"].transform("nunique") > 1
    return runs.assign(task=runs["task"].where(~mixed, runs["task"].map(TASKS) + " (" + runs["metric"] + ")"))


def method_look(name: str) -> dict[str, str]:
    """A method's name, and its colour, symbol and dash in every figure."""
    colour, marker, dash, _ = look(name)
    drawn = DASHES.get(dash, "dash") if isinstance(dash, str) else "longdash"
    return {"label": METHODS[name], "colour": colour, "symbol": SYMBOLS[marker], "dash": drawn}


assert {marker for _, marker, _, _ in LOOKS.values()} <= set(SYMBOLS)


def setting(part: pd.DataFrame) -> dict[str, Any]:
    """One setting: runs that differ only in the seed."""
    done, first = complete(part), part.iloc[0]
    best_scores = [100 * best(h, metric)[metric] for h, metric in zip(done["history"], done["metric"], strict=True)]
    cost = {
        f"{hardware}, {precision}": {column: number(own[column].median()) for column in COST}
        for (hardware, precision), own in done.groupby(["hardware", "precision"], sort=False)
    }
    named = ("experiment", "model", "task", "method", "label", "family", "rank", "target_modules", "learning_rate")
    return {
        **{key: plain(first[key]) for key in named},
        "epochs": max((round(history[-1]["epoch"], 2) for history in done["history"]), default=plain(first["epochs"])),
        "chosen": bool(first["chosen"]),
        "held_out": holds_out(done) and len(done) > 0,
        "parameters": int(first["parameters"]),
        "cost": cost,
        "collapsed": collapsed(done),
        "failed": int((part["status"] == "failed").sum()),
        "runs": list(part["experiment"] + "/" + part["hash"]),
        "scores": {"held-out": summary(list(done["score"])), "best": summary(best_scores)},
    }


def summary(values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    s = summarize(values)
    return {"n": s.n, "mean": s.mean, "median": s.median, "std": s.std, "low": s.low, "high": s.high, "p": s.p}


def pairs(runs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Each two settings' paired differences, at the rates that held-out data choose; p corrected within an experiment."""
    for (experiment, model), of in runs[runs["chosen"]].groupby(["experiment", "model"], sort=False):
        found = []
        for task, group in of.groupby("task", sort=False):
            scores = {label: chosen_scores(part) for label, part in group.groupby("label", sort=False)}
            for a, b in combinations(scores, 2):
                if d := difference(scores[a], scores[b]):
                    each = {
                        str(seed): scores[a][seed] - scores[b][seed]
                        for seed in sorted(scores[a].keys() & scores[b].keys())
                    }
                    found.append(
                        (
                            {"task": task, "a": a, "b": b, "each": each, "mean": d.mean, "low": d.low, "high": d.high},
                            d.p,
                        )
                    )
        for (pair, p), corrected in zip(found, holm([p for _, p in found]), strict=True):
            yield {
                "experiment": experiment,
                "model": model,
                **pair,
                "p": p,
                "corrected": corrected,
                "of": len(found),
            }


def run_data(row: Any, file: Path, record: dict[str, Any]) -> dict[str, Any]:
    """One run: its settings and results."""
    provenance, config = record["provenance"], flat(record["config"])
    default = composed(tuple(chosen(record)))
    changed = {key: (default.get(key), value) for key, value in config.items() if differs(key, value, default)}
    held, top = selected(row.history, row.metric), best(row.history, row.metric) if row.history else None
    return {
        "id": f"{row.experiment}/{row.hash}",
        "name": file.parent.name if file.name == RECORD else file.stem,
        **{
            key: plain(getattr(row, key))
            for key in ("experiment", "model", "task", "method", "label", "seed", "status")
        },
        "reason": plain(row.reason),
        "epoch": [round(entry["epoch"], 4) for entry in row.history],
        "score": [round(100 * entry[row.metric], 3) for entry in row.history],
        "loss": [round(entry["train_loss"], 5) for entry in row.history],
        "held": [round(100 * entry[HELD_OUT][row.metric], 3) for entry in row.history if HELD_OUT in entry],
        "best": top and round(100 * top[row.metric], 3),
        "chosen": held and {"epoch": held["epoch"], "score": round(100 * held[row.metric], 3)},
        "parameters": int(row.parameters),
        "samples_per_second": number(row.samples_per_second),
        "peak_bytes": number(row.peak_bytes),
        "hardware": f"{row.hardware}, {row.precision}",
        "started": provenance.get("started"),
        "commit": (provenance.get("git") or {}).get("commit"),
        "dirty": (provenance.get("git") or {}).get("dirty"),
        "data": provenance.get("data_fingerprint"),
        "versions": provenance.get("versions") or {},
        "settings": [[key, text(was), text(value)] for key, (was, value) in changed.items()],
        "command": command(record),
        "confusion": confusion(file.parent / PREDICTIONS),
    }


UNASKED = ("backbone.name", "backbone.sha256", "backbone.head_learning_rates.", "tags", "note")  # no part of a command
SCHEMAS = {"task": TaskConfig, "backbone": BackboneConfig}


def chosen(record: dict[str, Any]) -> list[str]:
    """The overrides that choose a run's method, task, backbone and data: `custom` and its settings where `conf/` has none."""
    words = []
    for group in ("method", "task", "backbone", "data"):
        name = record[group]
        if group not in SCHEMAS or (ROOT / f"conf/{group}/{name}.yaml").exists():
            words.append(f"{group}={name}")
            continue
        defaults = {field.name: field.default for field in fields(SCHEMAS[group])}
        own = {key: value for key, value in record["config"][group].items() if value not in (None, {}, defaults[key])}
        words += [f"{group}=custom", *(f"{group}.{key}={override(value)}" for key, value in own.items())]
    return words


@cache
def composed(words: tuple[str, ...]) -> dict[str, Any]:
    """The settings that these overrides have today, flat; {} where they do not compose."""
    try:
        with composing():
            return flat(to_dict(composer().run([*words, "data.path=DIR"])))
    except USER_ERRORS:  # a method that is no longer there, a task that an experiment has no settings for
        return {}


def differs(key: str, value: Any, settings: dict[str, Any]) -> bool:
    return not key.startswith(HIDDEN) and key != "experiment" and value != settings.get(key)


def command(record: dict[str, Any]) -> str:
    """The command that trains the run again: its choices, and the settings that differ from what they give today."""
    words, name = chosen(record), record["experiment"]
    if (ROOT / f"conf/experiment/{name}.yaml").exists() and composed((f"experiment={name}", *words)):
        words = [f"experiment={name}", *words]
    own: dict[str, str] = {}
    for _ in range(2):  # again with what the first finds: an experiment's rate may follow from its optimizer
        base = composed((*words, *own.values()))
        own |= {
            key: f"{key}={override(value)}"
            for key, value in flat(record["config"]).items()
            if differs(key, value, base) and not key.startswith(UNASKED) and (key in base or not base)
        }
    path = ["data.path=DIR"] if record["data"] == "local" else []
    return " ".join(["python train.py", *map(shlex.quote, [*words, *path, *own.values()]), "reuse_records=false"])


def override(value: Any) -> str:
    """A setting's value in Hydra's grammar of overrides."""
    if isinstance(value, list):
        return f"[{','.join(map(override, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{override(item)}' for key, item in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str) and not re.fullmatch(r"(?!(?i:true|false|null|nan|inf)$)[A-Za-z_/.-][\w/.+-]*", value):
        return "'" + re.sub(r"\\+(?='|$)", r"\g<0>\g<0>", value).replace("'", "\\'") + "'"
    return text(value)


def confusion(file: Path) -> dict[str, Any] | None:
    """Validation examples by label and prediction, where the run's folder has them and labels are classes."""
    if not file.exists():
        return None
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if any(isinstance(line.get("label"), float) or line.get("label") is None for line in lines):
        return None
    counts = Counter((line["label"], line["prediction"]) for line in lines)
    labels = sorted({label for pair in counts for label in pair})
    return {"labels": labels, "counts": [[counts[a, b] for b in labels] for a in labels]}


def claims(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Each claim's verdicts, a line for each experiment and backbone."""
    return [
        {
            "claim": claim.text,
            "source": claim.source,
            "rule": claim.rule,
            "experiment": next((name for name in claim.experiments if f"`{name}`" in tested or name == tested), None),
            "tested": tested.replace("`", ""),
            "backbone": backbone,
            "verdict": verdict,
            "figures": figures,
        }
        for claim in CLAIMS
        for tested, backbone, verdict, figures in claim.lines(runs)
    ]


def number(value: float | None) -> float | None:
    """JSON has no NaN."""
    return None if value is None or math.isnan(value) else float(value)


def plain(value: Any) -> Any:
    """A cell of a frame as JSON has it."""
    return number(value) if isinstance(value, float) else value.item() if hasattr(value, "item") else value


def text(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def write_page(data: dict[str, Any], folder: Path) -> Path:
    """`folder/index.html` and what it reads; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("index.html", "page.css", "page.js"):
        shutil.copyfile(FILES / name, folder / name)
    shutil.copyfile(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", folder / "plotly.min.js")
    shown = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    write_text(folder / "data.js", f"const DATA = {shown};\n")
    return folder / "index.html"
