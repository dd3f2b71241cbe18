"""Every table: published numbers beside ours, statistics, learning rates, costs."""

import pandas as pd

from analysis import endpoint, latency, planner, serving, speed, study
from analysis.costs import COST_ALONE, quantization_cost, training_cost
from analysis.published import PUBLISHED
from analysis.records import (
    METHODS,
    RATES,
    TASKS,
    at_chosen_setting,
    chosen_scores,
    collapsed,
    complete,
    holds_out,
    labelled,
)
from analysis.render import Table
from analysis.statistics import Summary, difference, holm, interval, summarize


def statistics(frame: pd.DataFrame) -> list[Table]:
    """A table for each experiment with runs: every setting on every task, compared with full fine-tuning and with LoRA.

    The experiments of cost have none: their hundred steps say nothing about quality.
    """
    return [
        experiment_statistics(experiment, runs)
        for experiment, runs in labelled(frame[~frame["experiment"].isin(COST_ALONE)]).groupby("experiment")
    ]


REFERENCES = {"full FT": "full", "LoRA": "lora"}
STATISTICS_NOTES = [
    "The task's main metric, times 100, on the validation set. Where runs hold out a tenth of the training set, each seed's "
    "epoch is the one that is best there (`held-out`); else it is the best one on the validation set itself (`best`), which "
    "flatters. `collapsed`: how many runs give every example the same answer at that "
    "epoch; they are included. Intervals are Student's t over seeds, 95 %; none from fewer than three seeds.",
    "`less full FT`, `less LoRA`: mean paired difference over the seeds that both have, of runs on as many examples, its "
    "95 % t interval, and in brackets the p value of a paired t test, Holm-corrected over all comparisons of this table. A "
    "reference with several settings is taken at the one whose score on held-out data is best; without held-out data "
    "there is no reference then. Settings that differ in the rate alone are compared at the rate that held-out data "
    "choose, the others' cells are blank.",
]

MIXED = (
    "In {mixed} of {pairs} pairs one run is of a GPU and the other of a CPU. Such a pair shares its data order and its head, "
    "not its dropout's draws and rounding: the same seed of one setting may then differ by as much as two seeds."
)


def experiment_statistics(experiment: str, runs: pd.DataFrame) -> Table:
    """The lines of one experiment: one for each setting on each task."""
    rows, compared = [], []
    mixed = pairs = 0
    sizes = [f"{values.get('data.train_size')} {values.get('data.eval_size')}" for values in runs["settings"]]
    for (model, task, *_), group in runs.assign(sizes=sizes).groupby(["model", "task", "metric", "sizes"], sort=False):
        settings = dict(list(group.groupby("label", sort=False)))
        scores = {label: chosen_scores(complete(part)) for label, part in settings.items()}
        references = {name: reference_label(group, method) for name, method in REFERENCES.items()}
        chosen = labels_at_chosen_rates(complete(group))
        devices = {label: complete(part).set_index("seed")["device"] for label, part in settings.items()}
        for label, part in settings.items():
            rows.append(score_cells(model, task, label, part, scores[label]))
            for reference in references.values():
                is_twin = label == references["full FT"]  # LoRA's own line has this comparison
                other = scores.get(reference, {}) if label in chosen and not is_twin and label != reference else {}
                compared.append(difference(scores[label], other))
                for seed in scores[label].keys() & other.keys():
                    pairs += 1
                    mixed += devices[label][seed] != devices[str(reference)][seed]
    p_values = holm([None if d is None else d.p for d in compared])
    cells = [difference_cell(d, p) for d, p in zip(compared, p_values, strict=True)]
    width = len(REFERENCES)
    lines = [[*row, *cells[place * width : (place + 1) * width]] for place, row in enumerate(rows)]
    columns = ["backbone", "task", "runs", "seeds", "collapsed", "failed", "epoch", "median", "mean ± std"]
    columns += ["95 % interval", *(f"less {name}" for name in REFERENCES)]
    title = f"{experiment}: statistics over seeds"
    notes = [*STATISTICS_NOTES, MIXED.format(mixed=mixed, pairs=pairs)] if mixed else STATISTICS_NOTES
    return Table(f"{experiment}_statistics", title, pd.DataFrame(lines, columns=columns), notes, 3)


def reference_label(group: pd.DataFrame, method: str) -> str | None:
    """The setting of a method that others are compared with: its only one, or the best on held-out data."""
    runs = at_chosen_setting(complete(group, method=method))
    return None if runs.empty else runs["label"].iloc[0]


def labels_at_chosen_rates(runs: pd.DataFrame) -> set[str]:
    """Of settings that differ only in the rate, the one that held-out data choose; all where nothing is held out."""
    labels: set[str] = set()
    for _, part in runs.groupby("family"):
        chosen = at_chosen_setting(part)
        labels |= set((part if chosen.empty else chosen)["label"])
    return labels


def with_choice(runs: pd.DataFrame) -> pd.DataFrame:
    """The frame with labels, and a column `chosen`: whether a run's rate is the one that held-out data choose."""
    runs = labelled(runs).assign(chosen=False)
    for _, part in runs.groupby(["experiment", "model", "task"]):
        runs.loc[part.index, "chosen"] = part["label"].isin(labels_at_chosen_rates(complete(part)))
    return runs


def at_chosen_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """The complete runs at the rates that held-out data choose, with a column `row` for tables: equal where runs differ
    only in the seed. It is a setting's label, without the rates if only one choice of them is left."""
    runs = with_choice(complete(runs))
    chosen = runs[runs["chosen"]]
    alone = chosen.groupby(["experiment", "model", "task", "family"])["label"].transform("nunique") == 1
    return chosen.assign(row=chosen["family"].where(alone, chosen["label"]))


def score_cells(model: str, task: str, label: str, part: pd.DataFrame, scores: dict[int, float]) -> list[str]:
    """A setting's cells before the comparisons."""
    done = complete(part)
    flat = collapsed(done)
    failed = int((part["status"] == "failed").sum())
    held = holds_out(done)
    size = part["settings"].iloc[0].get("data.eval_size")
    name = TASKS[task] + (f", {size} examples" if size else "")
    line = [model, name, label, str(len(done)), str(flat), str(failed)]
    if not scores:
        return [*line, "", "", "", ""]
    s = summarize(list(scores.values()))
    spread = "" if s.std is None else f" ± {s.std:.1f}"
    return [*line, "held-out" if held else "best", f"{s.median:.1f}", f"{s.mean:.1f}{spread}", interval(s)]


def difference_cell(d: Summary | None, p: float | None) -> str:
    """`+1.2, -0.3 to 2.7 (0.051)`."""
    if d is None:
        return ""
    return (
        f"{d.mean:+.1f}"
        + (f", {interval(d)}" if d.low is not None else "")
        + ("" if p is None else f" ({p:.3f})" if p >= 0.001 else " (<0.001)")
    )


def learning_rates(frame: pd.DataFrame) -> Table:
    """Methods by learning rate on each task, and the rate that held-out data choose."""
    lines = []
    runs = labelled(complete(frame, experiment=RATES))
    families = list(runs.sort_values("order", kind="stable")["family"].unique()) or list(METHODS.values())
    keys = ["experiment", "model", "epochs", "task"]
    for (_, model, epochs, task), part in runs.groupby(keys, sort=False):
        name = f"{model}, {epochs:g} epochs, {TASKS[task]}"
        for rate in sorted(set(part["learning_rate"])):
            at = part[part["learning_rate"] == rate]
            lines.append([name, f"{rate:g}", *(rate_cell(at[at["family"] == family]) for family in families)])
        picks = [pick_rate(part[part["family"] == family]) for family in families]
        lines.append([name, "chosen on held-out data", *(f"{pick[0]:g}" if pick else "" for pick in picks)])
        lines.append([name, "and its score", *(f"{pick[1]:.1f}" if pick else "" for pick in picks)])
    columns = ["runs", "learning rate", *families]
    notes = [
        "The task's main metric on its validation set times 100, median over seeds, and the number of seeds where there are "
        "several; at the epoch that held-out data choose, or at the best one where nothing is held out. ‡N: N of the "
        "runs give every example the same answer there; they are included.",
        "`chosen on held-out data`: the rate that is best on a tenth of the training set that was not trained on, compared "
        "on the seeds that all of a method's rates have (blank: one rate was tried); `and its score`: the validation set's "
        "verdict on that choice.",
    ]
    return Table("learning_rates", "Learning rate by method", pd.DataFrame(lines, columns=columns), notes, 2)


def rate_cell(runs: pd.DataFrame) -> str:
    """`28.9 (5)`, the median over seeds and their number; `0.0 ‡1` if one has collapsed."""
    if runs.empty:
        return ""
    flat = collapsed(runs)
    s = summarize(list(chosen_scores(runs).values()))
    return f"{s.median:.1f}" + (f" ({s.n})" if s.n > 1 else "") + (f" ‡{flat}" if flat else "")


def pick_rate(runs: pd.DataFrame) -> tuple[float, float] | None:
    """The rate that held-out data choose of several for a method on a task, and the median score at the epochs chosen."""
    part = at_chosen_setting(runs)
    if part.empty or runs["learning_rate"].nunique() < 2 or not holds_out(part):
        return None
    return part["learning_rate"].iloc[0], summarize(list(chosen_scores(part).values())).median


def all_tables(frame: pd.DataFrame) -> list[Table]:
    """Every table, in the order of the index below."""
    return [
        *(published.table(frame) for published in PUBLISHED),
        planner.table(),
        study.table(frame),
        learning_rates(frame),
        training_cost(frame),
        quantization_cost(frame),
        speed.table(),
        latency.table(),
        serving.table(),
        endpoint.table(),
        *statistics(frame),
    ]


def index(tables: list[Table]) -> Table:
    """A line for each table, with how much of it our own runs fill, and one for the claims."""
    lines = [[f"[{table.title}]({table.name}.md)", runs_in(table)] for table in tables]
    lines.append(["[Claims of the papers, and whether these records support them](claims.md)", ""])
    notes = [
        "Each table lies here as Markdown, CSV and LaTeX. Beside them: `figures/`; `reported/`, the published numbers with "
        "their sources; `records/`, our runs, one JSON each. `python scripts/make_tables.py` writes all of it from the "
        "last two, this page too.",
    ]
    return Table("README", "Tables", pd.DataFrame(lines, columns=["table", "our rows that have runs"]), notes)


def runs_in(table: Table) -> str:
    """'3 of 8' where the table has published rows and ours; blank where our numbers are not rows of their own."""
    if "source" not in table.cells:
        return ""
    ours = table.cells[table.cells["source"].str.startswith("ours")]
    return f"{(ours['seeds'] != '').sum()} of {len(ours)}" if len(ours) else ""
