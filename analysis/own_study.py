"""Tables and figures of any runs, whatever grid they are: for `make_tables.py` and `make_figures.py` with folders.

A line or a point is one setting: runs that differ in nothing but the seed. Nothing here names an experiment.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from analysis.figures import legend, line_style, look, panels
from analysis.records import BACKBONES, METHODS, TASKS, chosen_scores, complete, in_order, labelled, metric_of
from analysis.render import Table
from analysis.statistics import Summary, summarize
from analysis.tables import statistics
from tasks.glue import METRICS

MOST = 6  # settings in one panel
PANELS = 4  # in a row
MARKERS = "osD^v<>Pp*h"
COST_NOTES = [
    "Medians over seeds of one setting. Samples/s: training steps alone, without warm-up and evaluations. Peak: allocated on "
    "a GPU; on a CPU resident, with the interpreter and its libraries. `x full FT`: over full fine-tuning's on the same "
    "machine, where it has one setting. Speeds are comparable only if nothing else ran on the machine.",
]


def tables(runs: pd.DataFrame) -> list[Table]:
    """Statistics of each experiment, and speed and memory of each setting."""
    return [*statistics(runs), costs(runs)]


def costs(runs: pd.DataFrame) -> Table:
    """Speed and memory of each setting on each task and machine."""
    lines = []
    keys = ["backbone", "hardware", "precision", "task"]
    for (backbone, hardware, precision, task), own in runs.groupby(keys, sort=False, dropna=False):
        group = as_one(own)
        full = complete(group, method="full")
        base = full if full["variant"].nunique() == 1 else full.iloc[:0]
        for label, part in group.groupby("label", sort=False):
            line = [BACKBONES[backbone], f"{hardware}, {precision}", TASKS[task], label]
            line.append(f"{part['parameters'].iloc[0]:,}")
            for column, unit, form in (("samples_per_second", 1, ".1f"), ("peak_bytes", 2**20, ",.0f")):
                value, reference = part[column].median(), base[column].median()
                line.append("" if np.isnan(value) else format(value / unit, form))
                line.append("" if np.isnan(reference) or np.isnan(value) else f"{value / reference:.2f}")
            lines.append(line)
    columns = ["backbone", "machine", "task", "runs", "trained", "samples/s", "x full FT", "peak MiB", "x full FT "]
    return Table("costs", "Speed and memory", pd.DataFrame(lines, columns=columns), COST_NOTES, 4)


def figures(runs: pd.DataFrame) -> dict[str, Figure]:
    """By name: for each backbone and task the curves, the trade-offs and, where rates vary, the learning rates."""
    found: dict[str, Figure | None] = {}
    for backbone, of in complete(runs).groupby("backbone", sort=False):
        for task in in_order(of["task"]):
            part, place = as_one(of[of["task"] == task]), f"{backbone}_{task}"
            found[f"curves_{place}"] = curves(part, task)
            found[f"trade_offs_{place}"] = trade_offs(part, task)
            found[f"learning_rates_{place}"] = learning_rates(part, task)
    return {name: figure for name, figure in found.items() if figure is not None}


def as_one(runs: pd.DataFrame) -> pd.DataFrame:
    """The complete runs, with labels as if all were of one experiment."""
    return complete(labelled(runs.assign(experiment="")))


def title(runs: pd.DataFrame, task: str) -> str:
    name = runs["backbone"].iloc[0]
    return f"{TASKS[task]}, {BACKBONES[name]}"


def settings(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each setting's label and its runs, in the order of the tables."""
    return runs.groupby("label", sort=False)


def curves(runs: pd.DataFrame, task: str) -> Figure:
    """The main metric over epochs, a panel for each method: a line is the median of a setting, a band its seeds' range."""
    metric = metric_of(runs)
    methods = list(dict.fromkeys(runs["method"]))
    rows = -(-len(methods) // PANELS)
    columns = min(len(methods), PANELS)
    most = min(runs.groupby("method")["label"].nunique().max(), MOST)  # lines of a legend
    figure = Figure(figsize=(max(3.0 * columns, 4.2), (2.8 + 0.14 * most) * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for ax, method in zip(axes, methods, strict=False):
        parts = list(settings(runs[runs["method"] == method]))
        parts.sort(key=lambda named: -score(named[1]).mean)
        shades = np.linspace(0, 0.85, min(len(parts), MOST))
        for (name, part), shade in zip(parts, shades, strict=False):
            draw_curve(ax, part, metric, shade, setting_words(name, method))
        left_out = f" (best {MOST} of {len(parts)} settings)" if len(parts) > MOST else ""
        ax.set(title=METHODS[method] + left_out, xlabel="epoch")
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=ax.get_xlim()[1] >= 1))
        if len(parts) > 1 or setting_words(parts[0][0], method):
            ax.legend(fontsize=6, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.26))
    for ax in axes[len(methods) :]:
        ax.set_visible(False)
    figure.supylabel(f"{METRICS[metric]} x 100", fontsize=9)
    figure.suptitle(f"{title(runs, task)}: median over seeds, and their range", fontsize=9)
    return figure


def draw_curve(ax: Axes, runs: pd.DataFrame, metric: str, shade: float, label: str) -> None:
    length = min(map(len, runs["history"]))
    epochs = [entry["epoch"] for entry in runs["history"].iloc[0][:length]]
    scores = 100 * np.array([[entry[metric] for entry in history[:length]] for history in runs["history"]])
    colour = (shade * 0.9, 0.35 + shade * 0.4, 0.7 - shade * 0.5)
    ax.plot(epochs, np.median(scores, axis=0), color=colour, marker="o", markersize=3, label=label)
    if len(scores) > 1:
        ax.fill_between(epochs, scores.min(0), scores.max(0), color=colour, alpha=0.12)


def setting_words(label: str, method: str) -> str:
    """The label without the method's name."""
    return label.removeprefix(METHODS[method]).removeprefix(", ")


def score(runs: pd.DataFrame) -> Summary:
    return summarize(list(chosen_scores(runs).values()))


def draw_point(ax: Axes, x: float, s: Summary, method: str, **more: str) -> None:
    """A mean, and its 95 % t interval where there are three seeds; `more` changes the method's style."""
    style = line_style(method) | {"linestyle": "", "markersize": 6} | more
    if s.low is None or s.high is None:
        ax.plot([x], [s.mean], **style | {"fillstyle": "none"})
    else:
        ax.errorbar([x], [s.mean], yerr=[[s.mean - s.low], [s.high - s.mean]], capsize=2, **style)


def trade_offs(runs: pd.DataFrame, task: str) -> Figure:
    """Quality against trained parameters, speed and peak memory: a point for each setting."""
    labels = runs["label"].nunique()
    columns = 3 if runs["label"].str.len().max() < 30 else 2
    figure, axes = panels(3, width=2.8, height=3.0 + 0.17 * -(-labels // columns))
    names = {"parameters": "trained parameters", "samples_per_second": "samples/s", "peak_bytes": "peak memory, GB"}
    for ax, (column, name) in zip(axes, names.items(), strict=True):
        places: dict[str, int] = {}
        for label, part in settings(runs):
            method, x = part["method"].iloc[0], part[column].median() / (1e9 if column == "peak_bytes" else 1)
            place = places[method] = places.get(method, -1) + 1
            if x:  # a method's settings differ in their markers; a run of three steps has no speed, and no point
                own = look(method)[1]
                others = [marker for marker in MARKERS if marker != own]
                more = {"marker": others[(place - 1) % len(others)]} if place else {}
                draw_point(ax, x, score(part), method, label=label, **more)
            else:  # nothing trains but the head: a level, since a log axis has no 0
                ax.axhline(score(part).mean, color=look(method)[0], linestyle=":", linewidth=0.8)
        ax.set(xlabel=name)
        ax.xaxis.set_major_locator(MaxNLocator(3))  # more would overlap
        if runs[column].isna().all():
            ax.set(xticks=[], yticks=[])
            ax.text(0.5, 0.5, "not measured", ha="center", transform=ax.transAxes, color="0.5")
    axes[0].set_xscale("log")
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    axes[0].xaxis.set_major_locator(LogLocator(numticks=4))
    axes[0].set_ylabel(f"{METRICS[metric_of(runs)]} x 100")
    once = dict(zip(*reversed(axes[-1].get_legend_handles_labels()), strict=True))
    figure.legend(once.values(), once, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)
    figure.suptitle(f"{title(runs, task)}: mean and 95 % t interval; open: fewer than three seeds", fontsize=9)
    return figure


def learning_rates(runs: pd.DataFrame, task: str) -> Figure | None:
    """Quality by learning rate, a line for each method; None if no method has two rates."""
    runs = runs.assign(
        other=[{k: v for k, v in s.items() if not k.endswith("learning_rate")} for s in runs["settings"]]
    )
    runs = runs.assign(other=runs["other"].astype(str))
    lines = [part for _, part in runs.groupby(["method", "other"], sort=False) if part["learning_rate"].nunique() > 1]
    if not lines:
        return None
    figure, (ax,) = panels(1, width=5, height=3.4)
    for part in lines:
        method = part["method"].iloc[0]
        points = [(rate, score(at)) for rate, at in part.groupby("learning_rate")]
        ax.plot(
            [rate for rate, _ in points],
            [s.mean for _, s in points],
            color=look(method)[0],
            linestyle=look(method)[2],
        )
        for rate, s in points:
            draw_point(ax, rate, s, method)
    legend(figure, ax)
    ax.set(xscale="log", xlabel="learning rate", ylabel=f"{METRICS[metric_of(runs)]} x 100")
    ax.set_title(f"{title(runs, task)}: mean and 95 % t interval\nopen: fewer than three seeds", fontsize=9)
    return figure
