"""The published tables, with our runs beside each row."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.records import BACKBONES, METHODS, RATES, TASKS, at_chosen_settings, complete, main_metric
from analysis.render import Table
from analysis.reported import read_reported
from analysis.statistics import summarize
from core.errors import UserError
from training.selection import best, selected

COLLAPSED = "‡N: N of the runs gave every example the same answer at their best; they are included."


History = list[dict[str, Any]]  # a run's evaluations
Pick = Callable[[History, str, str], dict[str, Any] | None]  # one of them, by task and metric


@dataclass(frozen=True)
class Runs:
    """Selects the runs to show beside a published row: by experiment, method and settings."""

    experiment: str
    method: str
    where: dict[str, Any] = field(default_factory=dict)
    backbone: str | None = None  # the only one; None: the published one and any other with runs

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The runs; where the experiment tries several rates, those at the one that held-out data choose on their task."""
        runs = complete(frame, experiment=self.experiment, method=self.method, **self.where)
        return at_chosen_settings(runs) if self.experiment in RATES else runs


BY_ROW = {"XXL": "deberta-v2-xxlarge", "large": "roberta-large", "": "roberta-base"}  # the first word in a row's name


@dataclass(frozen=True)
class Published:
    """A published table, and which of our runs belong beside it.

    Attributes:
        name: of its CSV in `paper_tables/reported/`, and of ours.
        title: one line.
        runs: for a published row (or for every row, by the key "") the runs to show below it.
        metrics: other than the task's main one.
        percent: whether it counts in hundredths.
        digits: after the point.
        backbone: the published one, or the one to show a blank for; differences are taken for no other.
        comparable: whether the published numbers are of that backbone.
        columns: published column of each task, where its name is not the task's.
    """

    name: str
    title: str
    runs: Callable[[str], list[Runs]] = lambda row: []
    metrics: dict[str, str] = field(default_factory=dict)
    percent: bool = True
    digits: int = 1
    backbone: Callable[[str], str] = lambda row: BY_ROW[next(word for word in BY_ROW if word in row)]
    comparable: bool = True
    columns: dict[str, str] = field(default_factory=dict)

    def table(self, frame: pd.DataFrame) -> Table:
        """The lines of a row: published, ours, and the difference."""
        reported = read_reported(self.name)
        published = list(dict.fromkeys(reported["column"]))
        columns = [*published, *(task for task, column in self.columns.items() if column not in published)]
        lines = []
        for row, cells in reported.groupby("row", sort=False):
            shown = cells["value"] + cells["spread"].map(lambda spread: f"±{spread}" if spread else "")
            theirs = dict(zip(cells["column"], shown, strict=True))
            lines.append([row, "published", "", *(theirs.get(column, "") for column in columns)])
            values = dict(zip(cells["column"], cells["value"], strict=True))
            for runs in self.runs(row):
                found = runs.of(frame)
                for backbone in dict.fromkeys([runs.backbone or self.backbone(row), *found["backbone"]]):
                    is_theirs = self.comparable and backbone == self.backbone(row)
                    name = f"ours, {BACKBONES[backbone]}{suffix(runs.experiment)}"
                    of = found[found["backbone"] == backbone]
                    lines += self.our_lines(name, of, columns, values if is_theirs else {})
        titles = [TASKS.get(column, column) for column in columns]
        notes = published_notes(reported)
        if any(line[1].startswith("ours") for line in lines):
            ours = (
                "Ours: median over seeds, of the best evaluation on the validation set where no other choice is named"
            )
            less = "; difference: ours less published" * any(line[1] == "difference" for line in lines)
            notes.insert(0, f"{ours}{less}. {COLLAPSED}")
        return Table(self.name, self.title, pd.DataFrame(lines, columns=["", "source", "seeds", *titles]), notes, 2)

    def our_lines(
        self, name: str, runs: pd.DataFrame, columns: list[str], published: dict[str, str]
    ) -> list[list[str]]:
        """The lines for one backbone: scores, scores at the held-out epochs, and the difference from `published`."""
        cells, held = self.cells(runs, columns, best_entry), self.cells(runs, columns, chosen_entry)
        differences = [
            self.difference(cell, published.get(column, "")) for cell, column in zip(cells, columns, strict=True)
        ]
        if "trained" in columns and len(runs):
            cells[columns.index("trained")] = f"{runs['parameters'].median() / 1e6:.3g}M"
        lines = [["", name, seeds(runs), *cells]]
        if any(held):
            lines.append(["", f"{name}, epoch chosen on held-out data", seeds(runs), *held])
        if any(differences):
            lines.append(["", "difference", "", *differences])
        return lines

    def cells(self, runs: pd.DataFrame, columns: list[str], pick: Pick) -> list[str]:
        """A cell for each column; `pick` chooses the evaluation of a run."""
        tasks = {column: task for task, column in self.columns.items()}
        cells = [self.cell(runs[runs["task"] == task], task, pick) for task in (tasks.get(c, c) for c in columns)]
        scores = [cell.split()[0] for cell, column in zip(cells, columns, strict=True) if column in TASKS and cell]
        if "average" in columns and len(scores) == sum(column in TASKS for column in columns):
            cells[columns.index("average")] = f"{sum(map(float, scores)) / len(scores):.{self.digits}f}"
        return cells

    def cell(self, runs: pd.DataFrame, task: str, pick: Pick) -> str:
        """The median over one task's runs; an empty string without runs.

        Raises:
            UserError: the runs differ in more than their seeds.
        """
        if runs["variant"].nunique() > 1:
            first = runs.iloc[0]
            raise UserError(
                f"{first['experiment']}: {first['method']} on {first['task']} with {first['backbone']} has records of "
                f"several settings, which no cell can hold: remove those that do not belong from paper_tables/records"
            )
        if runs.empty:
            return ""
        metric = self.metrics.get(task, main_metric(task))
        scores = [entry[metric] for history in runs["history"] if (entry := pick(history, task, metric))]
        if not scores:
            return ""
        flat = sum(best(history, metric)["collapsed"] for history in runs["history"])
        value = summarize(scores).median * (100 if self.percent else 1)
        return f"{value:.{self.digits}f}" + (f" ‡{flat}" if flat and pick is best_entry else "")

    def difference(self, cell: str, published: str) -> str:
        try:
            return f"{float(cell.split()[0]) - float(published):+.{self.digits}f}"
        except (ValueError, IndexError):
            return ""


def best_entry(history: History, task: str, metric: str) -> dict[str, Any]:
    """A run's best evaluation by the table's metric."""
    return best(history, metric)


def chosen_entry(history: History, task: str, metric: str) -> dict[str, Any] | None:
    """The evaluation that held-out data choose by the task's main metric; None without such data."""
    return selected(history, main_metric(task))


def seeds(runs: pd.DataFrame) -> str:
    """How many seeds the tasks have: `3`, or `2-3`."""
    counts = runs.groupby("task")["seed"].nunique()
    return "-".join(map(str, dict.fromkeys((counts.min(), counts.max())))) if len(counts) else ""


def published_notes(reported: pd.DataFrame) -> list[str]:
    """A line for each source and protocol, with its rows where there are several."""
    groups = reported.groupby(["source", "protocol"], sort=False)["row"].unique()
    which = {key: f" ({', '.join(rows)})" if len(groups) > 1 else "" for key, rows in groups.items()}
    return [f"Published{rows}: {source}; {protocol}." for (source, protocol), rows in which.items()]


def suffix(experiment: str) -> str:
    """Notes on how an experiment differs from the one that its table is named for."""
    if experiment.endswith("_scripts"):
        return ", as the authors' scripts"
    return {
        "parikh_wu_table1_own_rates": ", each at its own rate",
        "minilm": ", each at its own rate, 10 epochs",
    }.get(experiment, "")


LABELS = {label: name for name, label in METHODS.items()}


def parikh_wu(row: str) -> list[Runs]:
    method = LABELS[row]
    roberta = [Runs("parikh_wu_table1", method), Runs("parikh_wu_table1_own_rates", method)]
    return [*roberta, Runs("minilm", method, backbone="minilm")]


LORA_TABLE2 = {
    # no settings are published for the base rows of Adapter-D, or which layers it leaves out: no runs
    "RoB base BitFit*": [Runs("lora_table2_base_bitfit", "bitfit")],
    "RoB base LoRA": [Runs("lora_table2_base", "lora"), Runs("lora_table2_base_scripts", "lora")],
    "DeB XXL LoRA": [Runs("lora_table2_xxl", "lora")],
    "RoB large FT*": [Runs("lora_table2_large_full", "full")],
    "RoB large LoRA": [Runs("lora_table2_large", "lora"), Runs("lora_table2_large_scripts", "lora")],
    "RoB large Adapter-P† 3.0M": [Runs("lora_table2_large_adapter_p", "pfeiffer")],
    "RoB large Adapter-P† 0.8M": [Runs("lora_table2_large_adapter_p_small", "pfeiffer")],
    "RoB large Adapter-H† 6.0M": [Runs("lora_table2_large_adapter_h", "houlsby")],
    "RoB large Adapter-H† 0.8M": [Runs("lora_table2_large_adapter_h_small", "houlsby")],
    "RoB large LoRA†": [Runs("lora_table2_large_houlsby", "lora")],
}


REPLICATIONS = {
    "RoB base LoRA (issue 149)": [Runs("lora_table2_base", "lora"), Runs("lora_table2_base_scripts", "lora")],
    "RoB base LoRA (issue 151)": [Runs("lora_table2_base", "lora"), Runs("lora_table2_base_scripts", "lora")],
    "RoB large LoRA (issue 151)": [Runs("lora_table2_large", "lora"), Runs("lora_table2_large_scripts", "lora")],
    "RoB large LoRA, 32 a step (issue 35)": [Runs("lora_table2_large_scripts", "lora")],
    "RoB large full FT (LQ-LoRA)": [Runs("lora_table2_large_full", "full")],
}


def vera_table2(row: str) -> list[Runs]:
    return [Runs("vera_table2_large" if "large" in row else "vera_table2_base", "vera")] if "VeRA" in row else []


LORA_PLUS = {
    "LoRA+, best pair of rates": [Runs("lora_plus_figure3", "lora_plus")],
    "LoRA, equal rates": [Runs("lora_plus_figure3", "lora")],
}


def base(row: str) -> str:
    return "roberta-base"


MATRICES = {"W_q": "query", "W_k": "key", "W_v": "value", "W_o": "attention.output.dense"}


def weight_types(experiment: str) -> Callable[[str], list[Runs]]:
    """Rows such as `W_q W_v, r = 4`."""

    def runs(row: str) -> list[Runs]:
        kinds, _, rank = row.partition(", r = ")
        pattern = "|".join(MATRICES[kind] for kind in kinds.split())
        return [Runs(experiment, "lora", {"target_modules": pattern, "rank": int(rank)})]

    return runs


GPT3 = {"mnli": "MNLI", "cola": "CoLA"}
ELSEWHERE = "(published alone: this project does not cover text generation)"
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
    Published("lora_table15", f"LoRA, table 15: how many trained places {ELSEWHERE}"),
    Published("vera_table2", "VeRA, table 2: GLUE", vera_table2),
    Published(
        "lora_plus_figure3",
        "LoRA+, figure 3: GLUE (ours at one pair of rates)",
        lambda row: LORA_PLUS[row],
        backbone=base,
    ),
    Published("dylora_table2", "DyLoRA, tables 2 and 4: GLUE at two ranks (published alone: means over tasks)"),
    Published("intrinsic_dimension", "Intrinsic dimension, table 1: d90 (published alone)"),
    Published("ladder_side_table1", "LST, table 1: T5-base on GLUE (published alone)"),
    Published("replications", "RoBERTa on GLUE: later papers and users", lambda row: REPLICATIONS.get(row, [])),
    Published("qlora_table3", "QLoRA, table 3: RoBERTa-large (published alone)"),
    Published("lora_sizes", "LoRA: sizes and speed of GPT-3 175B (published alone)"),
    Published("hilgart", "Hilgart: the summary of his table (published alone)"),
    Published("insights", "lightning.ai, Insights: settings and costs of LoRA, Llama 2 7B (published alone)"),
    Published("quantization", "lightning.ai, Insights: LoRA against QLoRA, Llama 2 7B (published alone)"),
    Published("optimizers", "lightning.ai, Insights: AdamW against SGD, Llama 2 7B (published alone)"),
)
