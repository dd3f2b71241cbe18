"""The tables: each published one beside ours, and what the papers leave out: statistics, learning rates, costs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import latency, planner, serving, speed, study
from analysis.records import (
    BACKBONES,
    METHODS,
    TASKS,
    at_chosen_setting,
    chosen_scores,
    complete,
    labelled,
    main_metric,
)
from analysis.render import Table
from analysis.reported import read_reported
from analysis.statistics import Summary, difference, holm, interval, summarize
from core.errors import UserError
from training.selection import best, selected

COLLAPSED = "‡ and a number: so many of the runs gave one answer to everything at their best; they are counted in."


@dataclass(frozen=True)
class Runs:
    """Which of our runs stand beside a published row: the experiment, the method, and settings they must have."""

    experiment: str
    method: str
    where: dict[str, Any] = field(default_factory=dict)
    backbone: str | None = None  # the only one; None: the published one and any other that there are runs of

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        return complete(frame, experiment=self.experiment, method=self.method, **self.where)


@dataclass(frozen=True)
class Published:
    """A published table and what of ours belongs beside it.

    Attributes:
        name: of its CSV in `paper_tables/reported/`, and of ours.
        title: one line.
        runs: for a published row (or for every row, by the key "") the runs to show below it.
        metrics: other than the task's main one.
        percent: whether it counts in hundredths.
        digits: after the point.
        backbone: the published one, or the one to show a blank for; a difference is taken to no other.
        comparable: whether the published numbers are of that backbone at all.
        columns: published column of each task, where its name is not the task's.
    """

    name: str
    title: str
    runs: Callable[[str], list[Runs]] = lambda row: []
    metrics: dict[str, str] = field(default_factory=dict)
    percent: bool = True
    digits: int = 1
    backbone: Callable[[str], str] = lambda row: "roberta-large" if "large" in row else "roberta-base"
    comparable: bool = True
    columns: dict[str, str] = field(default_factory=dict)

    def table(self, frame: pd.DataFrame) -> Table:
        """Published, ours and the difference, a line each."""
        reported = read_reported(self.name)
        columns = list(dict.fromkeys(reported["column"]))
        ours = [task for task in self.columns if self.columns[task] not in columns]
        lines = []
        for row, cells in reported.groupby("row", sort=False):
            values = dict(zip(cells["column"], zip(cells["value"], cells["spread"], strict=True), strict=True))
            shown = [value + (f"±{spread}" if spread else "") for value, spread in (values[c] for c in columns)]
            lines.append([row, "published", "", *shown, *[""] * len(ours)])
            for runs in self.runs(row):
                lines += self.our_lines(runs, row, frame, columns, values, ours)
        titles = [TASKS.get(column, column) for column in [*columns, *ours]]
        notes = published_notes(reported)
        if any(line[1].startswith("ours") for line in lines):
            ours = "Ours: median over seeds of the best evaluation on the validation set; difference: ours less published. "
            notes.insert(0, ours + COLLAPSED)
        return Table(self.name, self.title, pd.DataFrame(lines, columns=["", "source", "seeds", *titles]), notes, 2)

    def our_lines(
        self,
        runs: Runs,
        row: str,
        frame: pd.DataFrame,
        columns: list[str],
        values: dict[str, tuple[str, str]],
        ours: list[str],
    ) -> list[list[str]]:
        """A line for each backbone, a blank one for the published backbone if there is no run; and the differences."""
        found = runs.of(frame)
        lines = []
        for backbone in dict.fromkeys([runs.backbone or self.backbone(row), *found["backbone"]]):
            part = found[found["backbone"] == backbone]
            cells, held = [], []
            for column in [*columns, *ours]:
                task = next((t for t, c in self.columns.items() if c == column), column)
                at = part[part["task"] == task]
                metric = self.metrics.get(task, main_metric(task) if task in TASKS else "")
                cells.append(self.cell(at, metric, lambda history, m=metric: best(history, m)[m]))

                def at_selected(history: list, metric: str = metric, task: str = task) -> float | None:
                    entry = selected(history, main_metric(task))
                    return entry and entry[metric]

                held.append(self.cell(at, metric, at_selected, mark=False))
            fill_average(cells, columns, self.digits)
            fill_average(held, columns, self.digits)
            differences = [
                self.difference(cell, values.get(column, ("", ""))[0])
                for cell, column in zip(cells, [*columns, *ours], strict=True)
            ]
            if "trained" in columns and len(part):
                cells[columns.index("trained")] = f"{part['parameters'].median() / 1e6:.3g}M"
            seeds = part.groupby("task")["seed"].nunique()
            count = (
                ""
                if seeds.empty
                else str(seeds.min())
                if seeds.min() == seeds.max()
                else f"{seeds.min()}-{seeds.max()}"
            )
            name = f"ours, {BACKBONES.get(backbone, backbone)}" + suffix(runs.experiment)
            lines.append(["", name, count, *cells])
            if any(held):
                lines.append(["", f"{name}, epoch chosen on held-out data", count, *held])
            if any(differences) and backbone == self.backbone(row) and self.comparable:
                lines.append(["", "difference", "", *differences])
        return lines

    def cell(self, runs: pd.DataFrame, metric: str, read: Callable[[list], float | None], mark: bool = True) -> str:
        """The median; blank without runs.

        Raises:
            UserError: the runs differ in more than their seeds.
        """
        if runs["variant"].nunique() > 1:
            first = runs.iloc[0]
            raise UserError(
                f"{first['experiment']}: {first['method']} on {first['task']} with {first['backbone']} has records of "
                f"several settings, which no cell can hold: remove those that do not belong from paper_tables/records"
            )
        scores = [score for score in map(read, runs["history"]) if score is not None]
        if not scores:
            return ""
        flat = sum(best(history, metric)["collapsed"] for history in runs["history"])
        value = summarize(scores).median * (100 if self.percent else 1)
        return f"{value:.{self.digits}f}" + (f" ‡{flat}" if flat and mark else "")

    def difference(self, cell: str, published: str) -> str:
        try:
            return f"{float(cell.split()[0]) - float(published):+.{self.digits}f}"
        except (ValueError, IndexError):
            return ""


def published_notes(reported: pd.DataFrame) -> list[str]:
    """A line for each source and protocol, with its rows where there are several."""
    groups = reported.groupby(["source", "protocol"], sort=False)["row"].unique()
    which = {key: f" ({', '.join(rows)})" if len(groups) > 1 else "" for key, rows in groups.items()}
    return [f"Published{rows}: {source}; {protocol}." for (source, protocol), rows in which.items()]


def fill_average(cells: list[str], columns: list[str], digits: int) -> None:
    """Puts the mean of the tasks' cells under `average`, if every task has one."""
    scores = [cell.split()[0] for cell, column in zip(cells, columns, strict=False) if column in TASKS and cell]
    if "average" in columns and len(scores) == sum(column in TASKS for column in columns):
        cells[columns.index("average")] = f"{sum(map(float, scores)) / len(scores):.{digits}f}"


def suffix(experiment: str) -> str:
    """What an experiment does unlike the one that its table is named for."""
    if experiment.endswith("_scripts"):
        return ", as the authors' scripts"
    return {
        "parikh_wu_table1_own_rates": ", each at its own rate",
        "parikh_wu_table1_minilm": ", own rates, 3 epochs",
    }.get(experiment, "")


LABELS = {label: name for name, label in METHODS.items()}


def parikh_wu(row: str) -> list[Runs]:
    method = LABELS[row]
    roberta = [Runs("parikh_wu_table1", method), Runs("parikh_wu_table1_own_rates", method)]
    return [*roberta, Runs("parikh_wu_table1_minilm", method, backbone="minilm")]


LORA_TABLE2 = {
    # no settings are published for the base rows of Adapter-D, nor which layers it leaves out: no runs
    "RoB base BitFit*": [Runs("lora_table2_base_bitfit", "bitfit")],
    "RoB base LoRA": [Runs("lora_table2_base", "lora"), Runs("lora_table2_base_scripts", "lora")],
    "RoB large FT*": [Runs("lora_table2_large_full", "full")],
    "RoB large LoRA": [Runs("lora_table2_large", "lora"), Runs("lora_table2_large_scripts", "lora")],
    "RoB large Adapter-P† 3.0M": [Runs("lora_table2_large_adapter_p", "pfeiffer")],
    "RoB large Adapter-P† 0.8M": [Runs("lora_table2_large_adapter_p_small", "pfeiffer")],
    "RoB large Adapter-H† 6.0M": [Runs("lora_table2_large_adapter_h", "houlsby")],
    "RoB large Adapter-H† 0.8M": [Runs("lora_table2_large_adapter_h_small", "houlsby")],
    "RoB large LoRA†": [Runs("lora_table2_large_houlsby", "lora")],
}


def vera_table2(row: str) -> list[Runs]:
    return [Runs("vera_table2_large" if "large" in row else "vera_table2_base", "vera")] if "VeRA" in row else []


MATRICES = {"W_q": "query", "W_k": "key", "W_v": "value", "W_o": "attention.output.dense"}


def weight_types(experiment: str) -> Callable[[str], list[Runs]]:
    """Rows such as `W_q W_v, r = 4`."""

    def runs(row: str) -> list[Runs]:
        kinds, _, rank = row.partition(", r = ")
        pattern = "|".join(MATRICES[kind] for kind in kinds.split())
        return [Runs(experiment, "lora", {"target_modules": pattern, "rank": int(rank)})]

    return runs


GPT3 = {"mnli": "MNLI", "cola": "CoLA"}
ELSEWHERE = "(published alone: text generation is no part of this project)"
WITH_ROBERTA = "(published: GPT-3; ours: RoBERTa-base)"
PUBLISHED = (
    Published(
        "parikh_wu_table1",
        "Parikh and Wu, table 1: six methods on four tasks",
        parikh_wu,
        metrics={"mrpc": "f1"},
        percent=False,
        digits=3,
    ),
    Published("lora_table1", "LoRA, table 1: milliseconds of one forward pass"),
    Published("lora_table2", "LoRA, table 2: GLUE", lambda row: LORA_TABLE2.get(row, [])),
    Published("lora_table3", f"LoRA, table 3: GPT-2 on E2E NLG {ELSEWHERE}"),
    Published("lora_table4", f"LoRA, table 4: GPT-3 {ELSEWHERE}"),
    Published(
        "lora_table5",
        f"LoRA, table 5: which weight matrices {WITH_ROBERTA}",
        weight_types("lora_table5"),
        columns=GPT3,
        comparable=False,
    ),
    Published(
        "lora_table6",
        f"LoRA, table 6: the rank {WITH_ROBERTA}",
        weight_types("lora_table6"),
        columns=GPT3,
        comparable=False,
    ),
    Published("vera_table2", "VeRA, table 2: GLUE", vera_table2),
    Published("quantization", "lightning.ai, Insights: LoRA against QLoRA, Llama 2 7B (published alone)"),
    Published("optimizers", "lightning.ai, Insights: AdamW against SGD, Llama 2 7B (published alone)"),
)


def statistics(frame: pd.DataFrame) -> list[Table]:
    """One table an experiment that has runs: every setting on every task, against full fine-tuning and against LoRA.

    `training_cost` has none: its hundred steps say nothing of quality.
    """
    return [
        experiment_statistics(experiment, runs)
        for experiment, runs in labelled(frame[frame["experiment"] != "training_cost"]).groupby("experiment")
    ]


REFERENCES = {"full FT": "full", "LoRA": "lora"}
STATISTICS_NOTES = [
    "The task's main metric, times 100, on the validation set. Where runs hold out a tenth of the training set, each seed's "
    "epoch is the one that is best there (`held-out`); else it is the best one on the validation set itself (`best`), which "
    "flatters. Collapsed runs are counted in. Intervals are Student's t over seeds, 95 %; none from fewer than three seeds.",
    "`less full FT`, `less LoRA`: mean paired difference over the seeds that both have, its 95 % t interval, and in brackets "
    "the p value of a paired t test, Holm-corrected over all comparisons of this table. A reference with several settings is "
    "taken at the one whose score on held-out data is best; without held-out data there is no reference then.",
]


def experiment_statistics(experiment: str, runs: pd.DataFrame) -> Table:
    """A line for each setting on each task."""
    rows, compared = [], []
    for (backbone, task), group in runs.groupby(["backbone", "task"], sort=False):
        settings = dict(list(group.groupby("label", sort=False)))
        scores = {label: chosen_scores(complete(part), task) for label, part in settings.items()}
        references = {name: reference_label(group, method, task) for name, method in REFERENCES.items()}
        for label, part in settings.items():
            rows.append(score_cells(backbone, task, label, part, scores[label]))
            for reference in references.values():
                is_twin = label == references["full FT"]  # its comparison with LoRA stands in LoRA's line
                other = {} if is_twin or reference == label else scores.get(reference, {})
                compared.append(difference(scores[label], other))
    p_values = holm([d and d.p for d in compared])
    cells = [difference_cell(d, p) for d, p in zip(compared, p_values, strict=True)]
    width = len(REFERENCES)
    lines = [[*row, *cells[place * width : (place + 1) * width]] for place, row in enumerate(rows)]
    columns = ["backbone", "task", "runs", "seeds", "collapsed", "failed", "epoch", "median", "mean ± std"]
    columns += ["95 % interval", *(f"less {name}" for name in REFERENCES)]
    title = f"{experiment}: statistics over seeds"
    return Table(f"{experiment}_statistics", title, pd.DataFrame(lines, columns=columns), STATISTICS_NOTES, 3)


def reference_label(group: pd.DataFrame, method: str, task: str) -> str | None:
    """The setting of a method that others are compared with: its only one, or the best on held-out data."""
    runs = at_chosen_setting(complete(group, method=method), main_metric(task))
    return None if runs.empty else runs["label"].iloc[0]


def score_cells(backbone: str, task: str, label: str, part: pd.DataFrame, scores: dict[int, float]) -> list[str]:
    """What a setting's line says before the comparisons."""
    done = complete(part)
    flat = sum(best(history, main_metric(task))["collapsed"] for history in done["history"])
    failed = int((part["status"] == "failed").sum())
    held = all(selected(history, main_metric(task)) for history in done["history"])
    line = [BACKBONES.get(backbone, backbone), TASKS[task], label, str(len(done)), str(flat), str(failed)]
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
        f"{d.mean:+.1f}" + (f", {interval(d)}" if d.low is not None else "") + (f" ({p:.3f})" if p is not None else "")
    )


def learning_rates(frame: pd.DataFrame) -> Table:
    """Methods by learning rate on CoLA, and the rate that held-out data choose."""
    lines = []
    runs = complete(frame, experiment=["learning_rates", "learning_rates_minilm", "minilm"], task="cola")
    methods = list(dict.fromkeys(runs["method"])) or list(METHODS)
    for (_, backbone, epochs), part in runs.groupby(["experiment", "backbone", "epochs"], sort=False):
        name = f"{BACKBONES.get(backbone, backbone)}, {epochs} epochs"
        for rate in sorted(set(part["learning_rate"])):
            at = part[part["learning_rate"] == rate]
            lines.append([name, f"{rate:g}", *(rate_cell(at[at["method"] == method]) for method in methods)])
        picks = [pick_rate(part[part["method"] == method]) for method in methods]
        lines.append([name, "chosen on held-out data", *(f"{pick[0]:g}" if pick else "" for pick in picks)])
        lines.append([name, "and its score", *(f"{pick[1]:.1f}" if pick else "" for pick in picks)])
    columns = ["backbone", "learning rate", *(METHODS.get(method, method) for method in methods)]
    notes = [
        "Matthews correlation on CoLA's validation set times 100, best evaluation, median over seeds. " + COLLAPSED,
        "`chosen on held-out data`: the rate, and the epoch of each seed, that are best on a tenth of the training set that "
        "was not trained on; `and its score`: the validation set's verdict on that choice.",
    ]
    return Table("learning_rates", "Learning rate by method on CoLA", pd.DataFrame(lines, columns=columns), notes, 2)


def rate_cell(runs: pd.DataFrame) -> str:
    if runs.empty:
        return ""
    metric = "matthews_correlation"
    flat = sum(best(history, metric)["collapsed"] for history in runs["history"])
    value = summarize([100 * best(history, metric)[metric] for history in runs["history"]]).median
    return f"{value:.1f}" + (f" ‡{flat}" if flat else "")


def pick_rate(runs: pd.DataFrame) -> tuple[float, float] | None:
    """The rate that held-out data choose on CoLA, and the median validation score at the epochs chosen there."""
    part = at_chosen_setting(runs, main_metric("cola"))
    if part.empty or not all(selected(history, main_metric("cola")) for history in part["history"]):
        return None
    return part["learning_rate"].iloc[0], summarize(list(chosen_scores(part, "cola").values())).median


PARTS = ("weights", "gradients", "optimizer_state", "activations")


def training_cost(frame: pd.DataFrame) -> Table:
    """Speed and memory of `training_cost`, relative to full fine-tuning on the same machine."""
    lines = []
    keys = ["backbone", "hardware", "precision", "task"]
    for (backbone, hardware, precision, task), group in complete(frame, experiment="training_cost").groupby(
        keys, sort=False
    ):
        full = group[group["method"] == "full"]
        if full.empty:
            continue
        base = full.iloc[0]
        for run in group.itertuples():
            lines.append(
                [
                    BACKBONES.get(backbone, backbone),
                    f"{hardware}, {precision}",
                    TASKS[task],
                    METHODS.get(run.method, run.method),
                    f"{run.parameters:,}",
                    f"{run.samples_per_second:.1f}",
                    f"{run.samples_per_second / base.samples_per_second:.2f}",
                    f"{run.peak_bytes / 2**20:,.0f}",
                    f"{run.peak_bytes / base.peak_bytes:.2f}",
                    *(f"{getattr(run, part) / 2**20:,.1f}" for part in PARTS),
                ]
            )
    columns = ["backbone", "machine", "task", "method", "trained", "samples/s", "x full FT", "peak MiB", "x full FT "]
    columns += ["weights MiB", "gradients MiB", "optimizer MiB", "activations MiB"]
    notes = [
        "A process a run, nothing else on the machine, evaluation and warm-up left out. Peak: allocated on a GPU, resident "
        "on a CPU, where the interpreter and its libraries are in it. Activations: bytes held for the backward pass of the "
        "largest batch.",
    ]
    return Table("training_cost", "Speed and memory of training", pd.DataFrame(lines, columns=columns), notes, 4)


def all_tables(frame: pd.DataFrame) -> list[Table]:
    """Every table, in the order of the index."""
    return [
        *(published.table(frame) for published in PUBLISHED),
        planner.table(),
        study.table(frame),
        learning_rates(frame),
        training_cost(frame),
        speed.table(),
        latency.table(),
        serving.table(),
        *statistics(frame),
    ]


def write_tables(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes every table below `folder`; returns the files."""
    return [path for table in all_tables(frame) for path in table.write(folder)]
