"""Records as one data frame, a row a run; and how they come into `paper_tables/records/`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from core.console import log
from core.errors import Damaged, UserError
from core.io import with_checksum, write_json
from experiments.config import file_name, identity
from experiments.record import parse
from methods.base import REGISTERED
from tasks.glue import GLUE
from tasks.loading import HELD_OUT
from training.selection import best, selected

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "paper_tables" / "records"
MEASURED = ("benchmark", "latency", "serving")  # folders of what scripts measured, in forms of their own
ORDER = (  # of methods in tables; those not named here come last
    *("head", "full", "lora", "dora", "lora_fa", "lora_fa_corrected", "vera", "qlora", "bitfit", "top_layers"),
    *("houlsby", "lin", "pfeiffer", "adapterdrop"),
)
METHODS = {name: REGISTERED[name].label for name in dict.fromkeys((*ORDER, *sorted(REGISTERED)))}
TASKS = {task.name: task.label for task in GLUE.values()}
BACKBONES = {
    "roberta-base": "RoBERTa-base",
    "roberta-large": "RoBERTa-large",
    "deberta-v2-xxlarge": "DeBERTa XXL",
    "minilm": "MiniLM",
}
METRICS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "matthews_correlation": "Matthews",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
}
SETTINGS = {
    "learning_rate": "trainer",
    "head_learning_rate": "trainer",
    "rank": "method",
    "alpha": "method",
    "target_modules": "method",
    "bottleneck": "method",
    "dropped_layers": "method",
    "layers": "method",
    "quant_type": "method",
    "optimizer": "trainer",
    "schedule": "trainer",
    "epochs": "trainer",
    "max_steps": "trainer",
    "batch_size": "trainer",
    "max_length": "task",
    "train_size": "data",
    "holdout": "data",
}


def ended(files: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Those of the files that are records of runs that ended, well or not.

    A damaged one is named and left out, and so is a run's second, which a copied file or folder is.
    """
    seen: dict[tuple[str, str], Path] = {}
    for file in files:
        try:
            record = parse(file)
        except Damaged as error:
            log.warning(f"{error}: left out; the command that trained it sets it aside and trains it again")
            continue
        if record["status"] not in ("complete", "failed") or "config" not in record:
            continue
        first = seen.setdefault((record["experiment"], record["config_hash"]), file)
        if first is not file:
            log.warning(f"{file} is of the same run as {first}: left out")
            continue
        yield file, record


def collect(folder: Path, into: Path = RECORDS) -> list[Path]:
    """Takes over the ended runs below `folder`, each to `into/EXPERIMENT/RUN.json`; returns what was written.

    Machine paths are blanked. Runs on generated data, and those of no experiment, are left where they are.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give a folder of runs, as in runs/parikh_wu_table1")
    written = []
    for file, record in ended(sorted(folder.rglob("result.json"))):
        if file_name(record["experiment"]) != record["experiment"]:
            log.warning(f"{file}: experiment '{record['experiment']}' cannot name a folder: left out")
        elif record["data"] != "generated" and record["experiment"] != "default":
            record["config"]["data"]["path"] = None
            record["config"]["output_dir"] = "runs"
            if begun := record["config"].get("init_from"):
                record["config"]["init_from"] = Path(begun).name
            written.append(into / record["experiment"] / f"{file.parent.name}.json")
            write_json(written[-1], with_checksum(record))
    return written


def load(folder: Path = RECORDS) -> pd.DataFrame:
    """Every record below `folder`, in the order of their names; an empty frame has the columns all the same."""
    files = [file for file in sorted(folder.rglob("*.json")) if file.parent.name not in MEASURED]
    return frame(record for _, record in ended(files))


def frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A row a run; `history` and `use` stay lists."""
    rows = pd.DataFrame(list(map(row, records)), columns=list(COLUMNS))
    order = {name: place for place, name in enumerate(METHODS)}
    rows["order"] = rows["method"].map(lambda name: order.get(name, len(order)))
    keys = ["experiment", "backbone", "order", "method", "task", "learning_rate", "rank", "alpha", "seed"]
    return rows.sort_values(keys, kind="stable").reset_index(drop=True)


COLUMNS = {
    **dict.fromkeys(
        ("experiment", "method", "task", "backbone", "data", "seed", "status", "reason", "metric"), lambda r, k: r[k]
    ),
    **dict.fromkeys(SETTINGS, lambda r, k: r["config"][SETTINGS[k]].get(k)),
    "start": lambda r, _: r["config"].get("start"),
    "history": lambda r, _: r["history"],
    "parameters": lambda r, _: r["parameters"]["trained_without_head"],
    "total": lambda r, _: r["parameters"]["total"],
    **dict.fromkeys(("samples_per_second", "tokens_per_second", "step_ms_median"), lambda r, k: r["speed"][k]),
    **dict.fromkeys(
        ("peak_bytes", "peak_kind", "weights", "gradients", "optimizer_state", "activations"),
        lambda r, k: r["memory"][k.removesuffix("_state")],
    ),
    "use": lambda r, _: r["memory"].get("over_training", []),
    "hardware": lambda r, _: describe_hardware(r["provenance"]["hardware"]),
    "precision": lambda r, _: r["provenance"]["hardware"].get("precision"),
    "hash": lambda r, _: r["config_hash"],
    "variant": lambda r, _: variant(r["config"]),
}


def variant(config: dict[str, Any]) -> str:
    """The settings that runs to be averaged share: all that shape the result but the seed."""
    config = identity(config)
    config.pop("seed", None)
    config["method"].pop("projection_seed", None)
    return json.dumps(config, sort_keys=True)


def row(record: dict[str, Any]) -> dict[str, Any]:
    """One row of the frame."""
    return {name: read(record, name) for name, read in COLUMNS.items()}


def describe_hardware(hardware: dict[str, Any]) -> str:
    """`NVIDIA H200`, or `AMD EPYC, 2 threads`."""
    if hardware.get("device") == "cuda":
        return hardware["gpu"]
    return f"{hardware['cpu']}, {hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"


def complete(frame: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The complete runs whose columns have these values; a list stands for any of its members."""
    rows = frame[frame["status"] == "complete"]
    for column, value in where.items():
        rows = rows[rows[column].isin(value if isinstance(value, list) else [value])]
    return rows


def chosen_scores(runs: pd.DataFrame, task: str) -> dict[int, float]:
    """By seed, times 100: at the epoch that held-out data choose, or at the best where nothing was held out."""
    metric = main_metric(task)
    return {run.seed: 100 * chosen_score(run.history, metric) for run in runs.itertuples()}


def chosen_score(history: list[dict[str, Any]], metric: str) -> float:
    return (selected(history, metric) or best(history, metric))[metric]


def at_chosen_setting(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Of one method's runs on one task those of one setting: the only one, or the best median on held-out data.

    Settings are compared on the seeds that all of them have: more seeds for one of them neither help nor harm it. Where they
    share none, only those with the most seeds are compared. Empty where several settings held nothing out.
    """
    parts = [part for _, part in runs.groupby("variant", sort=False)]
    if len(parts) < 2:
        return runs
    held = runs["history"].map(lambda history: (selected(history, metric) or {}).get(HELD_OUT, {}).get(metric))
    if held.isna().any():
        return runs.iloc[:0]
    shared = set.intersection(*(set(part["seed"]) for part in parts))
    most = max(map(len, parts))

    def held_out(part: pd.DataFrame) -> float:
        judged = part[part["seed"].isin(shared)] if shared else part
        return held[judged.index].median()

    return max((part for part in parts if shared or len(part) == most), key=held_out)


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a column `label`: the method, and those settings in which the runs of an experiment differ."""
    frame = frame.assign(label=[METHODS.get(name, name) for name in frame["method"]])
    for _, group in frame.groupby(["experiment", "backbone", "method"]):
        for name in (*SETTINGS, "start"):
            if any(part[name].nunique(dropna=False) > 1 for _, part in group.groupby("task")):
                words = [f", {name} {show(value)}" for value in group[name]]
                frame.loc[group.index, "label"] += pd.Series(words, index=group.index)
    return frame


def show(value: Any) -> str:
    """A setting in few characters."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_order(tasks: Iterable[str]) -> Iterator[str]:
    """Tasks as the papers order their columns."""
    present = set(tasks)
    return (task for task in TASKS if task in present)


def main_metric(task: str) -> str:
    """What tables show."""
    return GLUE[task].metrics[0]
