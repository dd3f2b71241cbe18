"""The MiniLM study's headline table: methods by tasks, each at the rate that held-out data choose."""

import pandas as pd

from analysis.records import METHODS, TASKS, at_chosen_setting, chosen_scores, complete, in_order
from analysis.render import Table
from analysis.statistics import interval, summarize

EXPERIMENT = "minilm"
NOTES = [
    "Each task's main metric on the validation set, times 100: mean over seeds and, in brackets, its 95 % t interval and the "
    "number of seeds (no interval from fewer than three). Ten epochs of batches of 16, fp32, part of the runs on a GPU and "
    "part on CPUs. A tenth of the training set is withheld: it chooses each seed's epoch, and each method's rate on each "
    "task, from steps of a factor of 2 to 4, compared on the seeds that all of them have (0 and 1; 0 alone "
    "on STS-B, and for LoRA-FA on MRPC; the other seeds follow at the best rate). "
    "*: the chosen rate is the lowest or the highest tried so far; a better one may lie beyond.",
    "The encoder, all-MiniLM-L6-v2, is a sentence encoder: 6 layers, 384 wide, trained contrastively with mean pooling, on "
    "pairs that include SNLI, MultiNLI and Quora's questions. MNLI and QQP are therefore contaminated on it and are not run, "
    "RTE stays near the larger class's share even for full fine-tuning (minilm_rte_statistics.md), and its first token, "
    "which the head reads, is weak.",
]


def table(frame: pd.DataFrame) -> Table:
    """A line for each method, the head alone first; blank cells have no runs."""
    runs = complete(frame, experiment=EXPERIMENT)
    tasks = list(in_order(runs["task"]))
    lines = []
    for method, own in runs.groupby("method", sort=False):
        parts = [at_chosen_setting(complete(own, task=task)) for task in tasks]
        rates = " / ".join(chosen_rate(part, own) for part in parts)
        lines.append([METHODS[method], rates, f"{own['parameters'].iloc[0]:,}", *map(cell, parts)])
    names = [TASKS[task] for task in tasks]
    columns = ["method", f"learning rate, {' / '.join(names)}", "trained, without the head", *names]
    return Table(EXPERIMENT, "MiniLM on GLUE: ten epochs", pd.DataFrame(lines, columns=columns), NOTES)


def chosen_rate(part: pd.DataFrame, runs: pd.DataFrame) -> str:
    """`0.001`, with a star if it is the lowest or the highest rate that the method tried on the task; `-` without runs."""
    if part.empty:
        return "-"
    rate, tried = part["learning_rate"].iloc[0], complete(runs, task=part["task"].iloc[0])["learning_rate"]
    return f"{rate:g}" + "*" * (rate in (tried.min(), tried.max()))


def cell(runs: pd.DataFrame) -> str:
    """`28.1 (25.0 to 31.2, n = 5)`."""
    if runs.empty:
        return ""
    s = summarize(list(chosen_scores(runs).values()))
    return f"{s.mean:.1f} ({interval(s)}, n = {s.n})" if s.low is not None else f"{s.mean:.1f} (n = {s.n})"
