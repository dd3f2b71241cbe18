"""The MiniLM study's headline table: methods by tasks, each at the rate that held-out data choose."""

import pandas as pd

from analysis.records import METHODS, TASKS, at_chosen_setting, chosen_scores, complete, in_order
from analysis.render import Table
from analysis.statistics import interval, summarize

EXPERIMENT = "minilm"
NOTES = [
    "Each task's main metric on the validation set, times 100: mean over seeds and, in brackets, its 95 % t interval and the "
    "number of seeds (no interval from fewer than three). Ten epochs of batches of 16, fp32. A tenth of the training set is "
    "withheld: it chooses each seed's epoch, and each method's rate on each task, from steps of a factor of 2 to 3, compared "
    "on the seeds that all rates have (seed 0; the other seeds follow at the best rate). *: the chosen rate is the lowest or "
    "the highest tried so far, and a better one may lie beyond.",
    "The encoder, all-MiniLM-L6-v2, is a sentence encoder: 6 layers, 384 wide, trained contrastively with mean pooling, on "
    "pairs that include SNLI, MultiNLI and Quora's questions. MNLI and QQP are therefore contaminated on it and are not run, "
    "RTE stays at chance even for full fine-tuning, and its first token, which the head reads, is weak.",
    "Head alone: no weight of the encoder trains; the head itself holds 148,610 numbers, twice as many as LoRA's matrices. "
    "It learns at the rate shown; the adapters' heads learn at 1e-3, full fine-tuning's at its own rate.",
]


def table(frame: pd.DataFrame) -> Table:
    """A line for each method, the head alone first; blank cells have no runs."""
    runs = complete(frame, experiment=EXPERIMENT)
    tasks = list(in_order(runs["task"]))
    lines = []
    for method in dict.fromkeys(runs["method"]):
        parts = {task: at_chosen_setting(complete(runs, method=method, task=task)) for task in tasks}
        rates = dict.fromkeys(chosen_rate(part, runs) for part in parts.values() if len(part))
        trained = next(part["parameters"].iloc[0] for part in parts.values() if len(part))
        cells = [cell(part, task) for task, part in parts.items()]
        lines.append([METHODS[method], ", ".join(rates), f"{trained:,}", *cells])
    columns = ["method", "learning rate", "trained, without the head", *(TASKS[task] for task in tasks)]
    return Table(EXPERIMENT, "MiniLM on GLUE: ten epochs", pd.DataFrame(lines, columns=columns), NOTES)


def chosen_rate(part: pd.DataFrame, runs: pd.DataFrame) -> str:
    """`0.001`, with a star if it is the lowest or the highest rate tried."""
    first = part.iloc[0]
    tried = complete(runs, method=first["method"], task=first["task"])["learning_rate"]
    return f"{first['learning_rate']:g}" + " *" * (first["learning_rate"] in (tried.min(), tried.max()))


def cell(runs: pd.DataFrame, task: str) -> str:
    """`28.1 (25.0 to 31.2, n = 5)`."""
    if runs.empty:
        return ""
    s = summarize(list(chosen_scores(runs).values()))
    return f"{s.mean:.1f} ({interval(s)}, n = {s.n})" if s.low is not None else f"{s.mean:.1f} (n = {s.n})"
