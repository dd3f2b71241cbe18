"""Records as one data frame with a row for each run, and how they come into `paper_tables/records/`."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from core.console import log
from core.errors import Damaged, UserError, no_folder
from core.io import with_checksum, write_json
from experiments.config import HASH_NEUTRAL_DEFAULTS, file_name, identity
from experiments.naming import HEAD_RATE, PER_SEED, RATE, differing, flat, short, show, unequal
from experiments.record import RECORD, parse, without_paths
from methods.base import REGISTERED
from tasks.glue import GLUE
from tasks.settings import HELD_OUT
from training.selection import best, selected

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "paper_tables" / "records"
RATES = ["learning_rates", "minilm_3_epochs", "minilm"]  # experiments that try several rates for each method
NEUTRAL = {key: value for key, value in HASH_NEUTRAL_DEFAULTS.items() if not key.startswith("method.")}
# folders of the scripts' measurements, of other forms
MEASURED = ("benchmark", "decomposition", "endpoint", "latency", "ranks", "serving", "similarity")
ORDER = (  # of methods in tables; others come last
    *("head", "full", "lora", "dora", "lora_fa", "lora_fa_corrected", "vera", "qlora", "bitfit", "top_layers"),
    *("houlsby", "lin", "pfeiffer", "adapterdrop"),
)


class Labels(dict[str, str]):
    """Labels by name; a name without a label, such as a user's own task, is its own label."""

    def __missing__(self, name: str) -> str:
        return name


METHODS = Labels({name: REGISTERED[name].label for name in dict.fromkeys((*ORDER, *sorted(REGISTERED)))})
TASKS = Labels({task.name: task.label for task in GLUE.values()})
BACKBONES = Labels(
    {
        "roberta-base": "RoBERTa-base",
        "roberta-large": "RoBERTa-large",
        "deberta-v2-xxlarge": "DeBERTa XXL",
        "minilm": "MiniLM",
    }
)
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
    """The records among the files, of complete and of failed runs.

    Damaged records, and further copies of a run's record, are named in a warning and left out.
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


def collect(folder: Path, into: Path = RECORDS, check: Callable[[pd.DataFrame], Any] | None = None) -> list[Path]:
    """Copies the records of ended runs below `folder` to `into/EXPERIMENT/RUN.json`: all of them or, after an error, none.

    Machine paths are blanked. Runs on generated data and runs without an experiment are not copied; a warning counts them.

    Args:
        check: takes the frame that `into` would then hold, and raises a UserError if tables cannot be made of it.

    Returns:
        The files written.

    Raises:
        UserError: there is no such folder, or `check` raised it.
    """
    if not folder.is_dir():
        raise UserError(f"{no_folder(folder)}; give one of runs, as in runs/NAME, which an experiment makes")
    files = sorted(folder.rglob(RECORD))
    new: dict[Path, dict[str, Any]] = {}
    left_out: Counter[str] = Counter()
    for file, record in ended(files):
        if file_name(record["experiment"]) != record["experiment"]:
            log.warning(f"{file}: experiment '{record['experiment']}' cannot name a folder: left out")
        elif record["data"] == "generated":
            left_out["on generated data"] += 1
        elif record["experiment"] == "default":
            left_out["of no experiment (conf/experiment/NAME.yaml)"] += 1
        else:
            record["config"] = without_paths(record["config"])
            new[into / record["experiment"] / f"{file.parent.name}.json"] = record
    for reason, count in left_out.items():
        log.warning(f"{folder}: {count} run{'s' * (count > 1)} {reason}: left out")
    if not files:
        log.warning(f"{folder} holds no run")
    if check:
        check(frame([*(record for file, record in read_all(into) if file not in new), *new.values()]))
    for file, record in new.items():
        write_json(file, with_checksum(record))
    return list(new)


def read_all(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The records of ended runs below a folder of records, sorted by name."""
    return ended(file for file in sorted(folder.rglob("*.json")) if file.parent.name not in MEASURED)


def load(folder: Path = RECORDS) -> pd.DataFrame:
    """Every record below a folder of records; an empty frame has the same columns."""
    return frame(record for _, record in read_all(folder))


def read_runs(paths: Iterable[Path | str]) -> pd.DataFrame:
    """The complete and failed runs below folders of runs or of records, each once, with a column `path`: folder or record.

    Raises:
        UserError: a path does not exist, or there is no complete run.
    """
    found = records_below(paths)
    places = {(record["experiment"], record["config_hash"]): place for place, record in found.items()}
    all_runs = frame(found.values())  # in an order of its own
    own = [places[key] for key in zip(all_runs["experiment"], all_runs["hash"], strict=True)]
    return all_runs.assign(path=[str(place.parent if place.name == RECORD else place) for place in own])


def records_below(paths: Iterable[Path | str]) -> dict[Path, dict[str, Any]]:
    """The records of the complete and failed runs below folders of runs or of records, each run once, by their files.

    Raises:
        UserError: a path does not exist, or there is no complete run.
    """
    found: dict[tuple[str, str], tuple[Path, dict[str, Any]]] = {}
    for path in (paths := list(map(Path, paths))):
        if not path.exists():
            raise UserError(f"there is no {path}; give folders of runs, as in runs/default")
        if path.is_file() and path.suffix != ".json":
            raise UserError(f"{path} is not a record; give folders of runs, as in runs/default, or records (.json)")
        runs = [path] if path.is_file() else sorted(path.rglob(RECORD))
        for file, record in ended(runs) if runs else read_all(path):
            key = record["experiment"], record["config_hash"]
            if record["status"] == "complete" or key not in found:
                found[key] = file, record
    if all(record["status"] != "complete" for _, record in found.values()):
        places = ", ".join(map(str, paths))
        raise UserError(f"no complete run in {places}; give folders of runs, as in runs/default")
    return dict(found.values())


def frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """A frame with a row for each run; `history` and `use` are lists in it.

    `score`, `held_out_score` and `is_collapsed` are of the evaluation that tables show: at the epoch that held-out data
    choose, or at the best epoch if nothing was held out. The scores are the main metric, times 100.

    A column `model` names the backbone in tables, says where its weights are random, and names the source of data where it
    is generated, or where the backbone has runs on several. Only runs with the same name there are compared.
    """
    rows = pd.DataFrame(list(map(row, records)), columns=list(COLUMNS))
    mixed = rows.groupby("backbone")["data"].transform("nunique") > 1
    rows["model"] = [
        BACKBONES[run.backbone]
        + ", random weights" * run.random_init
        + (f", data={run.data}" if several or run.data == "generated" else "")
        for run, several in zip(rows.itertuples(), mixed, strict=True)
    ]
    order = {name: place for place, name in enumerate(METHODS)}
    rows["order"] = rows["method"].map(lambda name: order.get(name, len(order)))
    keys = ["experiment", "backbone", "order", "method", "task", "learning_rate", "rank", "alpha", "variant", "seed"]
    return rows.sort_values(keys, kind="stable").reset_index(drop=True)


COLUMNS = {
    **dict.fromkeys(
        ("experiment", "method", "task", "backbone", "data", "seed", "status", "reason", "metric"), lambda r, k: r[k]
    ),
    **dict.fromkeys(SETTINGS, lambda r, k: r["config"][SETTINGS[k]].get(k)),
    "start": lambda r, _: r["config"].get("start"),
    "random_init": lambda r, _: r["config"]["backbone"].get("random_init", False),
    "history": lambda r, _: r["history"],
    "score": lambda r, _: 100 * entry[r["metric"]] if (entry := chosen(r)) else None,
    "held_out_score": lambda r, _: 100 * entry[HELD_OUT][r["metric"]] if HELD_OUT in (entry := chosen(r)) else None,
    "is_collapsed": lambda r, _: chosen(r).get("collapsed"),
    "parameters": lambda r, _: r["parameters"]["trained_without_head"],
    "trained": lambda r, _: r["parameters"].get("trained"),
    "total": lambda r, _: r["parameters"]["total"],
    **dict.fromkeys(("samples_per_second", "tokens_per_second", "step_ms_median"), lambda r, k: r["speed"][k]),
    **dict.fromkeys(
        ("peak_bytes", "peak_kind", "weights", "gradients", "optimizer_state", "activations"),
        lambda r, k: r["memory"][k.removesuffix("_state")],
    ),
    "use": lambda r, _: r["memory"].get("over_training", []),
    "findings": lambda r, _: r.get("findings", {}),
    "hardware": lambda r, _: describe_hardware(r["provenance"]["hardware"]),
    "device": lambda r, _: r["provenance"]["hardware"].get("device"),
    "precision": lambda r, _: r["provenance"]["hardware"].get("precision"),
    "hash": lambda r, _: r["config_hash"],
    "settings": lambda r, _: settings(r["config"]),
    "variant": lambda r, _: json.dumps(settings(r["config"]), sort_keys=True),
}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """All settings that shape the result, flat, except those that differ between the seeds of one setting."""
    own = NEUTRAL | flat(identity(config))  # the identity is without the defaults of newer settings
    return {key: value for key, value in own.items() if key not in PER_SEED}


def chosen(record: dict[str, Any]) -> dict[str, Any]:
    """The evaluation that tables show; empty for a run that failed before its first one."""
    history, metric = record["history"], record["metric"]
    return selected(history, metric) or best(history, metric) if history else {}


def row(record: dict[str, Any]) -> dict[str, Any]:
    """One row of the frame."""
    return {name: read(record, name) for name, read in COLUMNS.items()}


def describe_hardware(hardware: dict[str, Any]) -> str:
    """`NVIDIA H200`, or `AMD EPYC, 2 threads`."""
    if hardware.get("device") == "cuda":
        return hardware["gpu"]
    return f"{hardware['cpu']}, {hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"


def machine(record: dict[str, Any]) -> str:
    """`NVIDIA H200, bf16`."""
    hardware = record["provenance"]["hardware"]
    return f"{describe_hardware(hardware)}, {hardware['precision']}"


def measurements(folder: Path, kind: str, key: Callable[[dict[str, Any]], tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The records of a script in `folder`, sorted by `key`; each has the word `kind` as a key."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return sorted((record for record in records if kind in record), key=key)


def complete(frame: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The complete runs whose columns have these values; a list means any of its members."""
    rows = frame[frame["status"] == "complete"]
    for column, value in where.items():
        rows = rows[rows[column].isin(value if isinstance(value, list) else [value])]
    return rows


def on_glue(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs to compare with papers' numbers: none on generated data."""
    return runs[runs["data"] != "generated"]


def chosen_scores(runs: pd.DataFrame) -> dict[int, float]:
    """Scores by seed, as `frame` has them.

    Raises:
        ValueError: two runs have one seed, so they are of several settings.
    """
    if runs["seed"].duplicated().any():
        raise ValueError(f"{len(runs)} runs of {runs['seed'].nunique()} seeds are of several settings")
    return dict(zip(runs["seed"], runs["score"], strict=True))


def metric_of(runs: pd.DataFrame) -> str:
    """The main metric of runs on one task."""
    return runs["metric"].iloc[0]


def collapsed(runs: pd.DataFrame) -> int:
    """How many of the runs give every example the same answer, at the evaluation that tables show."""
    return int(runs["is_collapsed"].sum())


def holds_out(runs: pd.DataFrame) -> bool:
    """Whether held-out data choose the epoch of every run."""
    return bool(runs["held_out_score"].notna().all())


def at_chosen_setting(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of one setting, out of one method's runs on one task: the only setting, or the best on held-out data.

    Settings are compared by their median over the seeds that all of them have, so that extra seeds neither help nor harm. If
    they share no seed, only the settings with the most seeds are compared. Empty if several settings held nothing out.
    """
    parts = [part for _, part in runs.groupby("variant", sort=False)]
    if len(parts) < 2:
        return runs
    if not holds_out(runs):
        return runs.iloc[:0]
    shared = set.intersection(*(set(part["seed"]) for part in parts))
    most = max(map(len, parts))

    def held_out(part: pd.DataFrame) -> float:
        judged = part[part["seed"].isin(shared)] if shared else part
        return judged["held_out_score"].median()

    return max((part for part in parts if shared or len(part) == most), key=held_out)


def at_chosen_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Each method's runs at its chosen setting, by experiment, backbone and task, as `at_chosen_setting` has it."""
    keys = ["experiment", "backbone", "task", "method"]
    return pd.concat([runs.iloc[:0], *(at_chosen_setting(of) for _, of in runs.groupby(keys, sort=False))])


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a column `label`: the method, and the settings in which the runs of an experiment differ on a task.

    Complete runs of one experiment, model, task and label differ only in the seed. A column `family` is the same
    without the learning rates.
    """
    names = [METHODS[name] for name in frame["method"]]
    frame = frame.assign(label=names, family=names)
    for _, grid in frame.groupby(["experiment", "model"]):
        shared = unequal(list(grid["settings"]))
        for _, group in grid.groupby("method"):
            keys = dict.fromkeys([*differing(list(group["settings"]), within=("task.name",)), *shared])
            rest = [key for key in keys if key not in (RATE, HEAD_RATE)]
            for column, chosen in (("label", keys), ("family", rest)):
                words = ["".join(f", {short(k)} {show(values.get(k))}" for k in chosen) for values in group["settings"]]
                frame.loc[group.index, column] += pd.Series(words, index=group.index)
    return frame


def in_order(tasks: Iterable[str]) -> Iterator[str]:
    """The tasks, each once, in the order of the papers' columns, a user's own last."""
    present = dict.fromkeys(tasks)
    return (task for task in dict.fromkeys([*TASKS, *present]) if task in present)


def main_metric(task: str) -> str:
    """A GLUE task's main metric."""
    return GLUE[task].metrics[0]
