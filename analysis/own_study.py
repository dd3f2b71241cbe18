"""Tables and figures of any grid of runs, for `make_tables.py` and `make_figures.py` with folders.

A line or a point is one setting: runs that differ only in the seed. Nothing here names an experiment.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from analysis.costs import own_costs
from analysis.drawing import draw_point, look, panels
from analysis.figures import importances
from analysis.records import BACKBONES, METHODS, TASKS, chosen_scores, complete, in_order, labelled, metric_of
from analysis.render import Table
from analysis.statistics import Summary, summarize
from analysis.tables import statistics
from core.console import counted
from tasks.glue import METRICS

MOST = 6  # settings in one panel
PANELS = 4  # in a row
MARKERS = "osD^v<>Pp*h"
DASHES = ("-", "--", "-.", ":")


def tables(runs: pd.DataFrame) -> list[Table]:
    """Statistics of each experiment, and speed and memory of each setting."""
    named = [as_one(of) for _, of in runs.groupby(["model", "task"], sort=False)]
    return [*statistics(runs), own_costs(pd.concat(named))]


def figures(runs: pd.DataFrame) -> dict[str, Figure]:
    """By name: for each model, task and metric the curves, the trade-offs and, where rates vary, the learning rates."""
    found: dict[str, Figure | None] = {}
    for (backbone, data, model), of in complete(runs).groupby(["backbone", "data", "model"], sort=False):
        for task in in_order(of["task"]):
            metrics = dict(list(as_one(of[of["task"] == task]).groupby("metric", sort=False)))
            for metric, part in metrics.items():
                place = (
                    f"{backbone}_{task}"
                    + f"_{metric}" * (len(metrics) > 1)
                    + f"_{data}" * (model != BACKBONES[backbone])
                )
                head = title(part, runs)
                found[f"curves_{place}"] = curves(part, head)
                found[f"trade_offs_{place}"] = trade_offs(part, head)
                found[f"learning_rates_{place}"] = learning_rates(part, head)
                found[f"importances_{place}"] = importances(part)
    return {name: figure for name, figure in found.items() if figure is not None}


def as_one(runs: pd.DataFrame) -> pd.DataFrame:
    """The complete runs, each once, with labels as if all were of one experiment."""
    return labelled(complete(runs).drop_duplicates("hash").assign(experiment=""))


def title(shown: pd.DataFrame, runs: pd.DataFrame) -> str:
    """A figure's task and encoder, and how many of their settings it lacks because they have no complete run."""
    keys = ["backbone", "data", "model", "task"]
    same = runs[(runs[keys] == shown[keys].iloc[0]).all(axis="columns")]
    each = labelled(same.drop_duplicates("hash").assign(experiment="")).groupby("label")["status"]
    lost = sum("complete" not in set(states) for _, states in each)
    words = f" ({counted(lost, 'setting')} without a complete run)" if lost else ""
    return f"{TASKS[shown['task'].iloc[0]]}, {shown['model'].iloc[0]}{words}"


def settings(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each setting's label and its runs, in the order of the tables."""
    return runs.groupby("label", sort=False)


def curves(runs: pd.DataFrame, head: str) -> Figure:
    """The main metric over epochs, a panel for each method: a line is the median of a setting, a band its seeds' range."""
    metric = metric_of(runs)
    methods = list(dict.fromkeys(runs["method"]))
    rows = -(-len(methods) // PANELS)
    columns = min(len(methods), PANELS)
    width = max(3.0, 4.2 / columns)
    shown = {method: curve_labels(runs[runs["method"] == method], method, width) for method in methods}
    places = list(dict.fromkeys(words for labels in shown.values() for words in labels.values()))  # alike in all panels
    most = max("\n".join(labels.values()).count("\n") + 1 for labels in shown.values())  # lines of a legend
    figure = Figure(figsize=(width * columns, (2.9 + 0.16 * most) * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for ax, method in zip(axes, methods, strict=False):
        parts = dict(list(settings(runs[runs["method"] == method])))
        for name, words in shown[method].items():
            place = places.index(words)
            draw_curve(ax, parts[name], metric, 0.85 * place / max(1, len(places) - 1), place, words)
        left_out = f"\n(best {MOST} of {len(parts)} settings)" if len(parts) > MOST else ""
        ax.set_title(METHODS[method] + left_out, fontsize=10)
        ax.set_xlabel("epoch")
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=ax.get_xlim()[1] >= 1))
        if any(shown[method].values()):
            below = ax.transAxes + ScaledTranslation(0, -0.42, figure.dpi_scale_trans)  # inches under the axis
            own = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below}
            ax.legend(fontsize=6, frameon=False, handlelength=3.5, **own)
    for ax in axes[len(methods) :]:
        ax.set_visible(False)
    figure.supylabel(f"{METRICS[metric]} x 100", fontsize=9)
    title = f"{head}: median over seeds, and their range"
    figure.suptitle(fold(title, figure.get_figwidth() + 0.4, 9), fontsize=9)
    return figure


def draw_curve(ax: Axes, runs: pd.DataFrame, metric: str, shade: float, place: int, label: str) -> None:
    length = min(map(len, runs["history"]))
    epochs = [entry["epoch"] for entry in runs["history"].iloc[0][:length]]
    scores = 100 * np.array([[entry[metric] for entry in history[:length]] for history in runs["history"]])
    colour = (shade * 0.9, 0.35 + shade * 0.4, 0.7 - shade * 0.5)
    own: dict[str, Any] = {
        "color": colour,
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place % len(DASHES)],
        "markersize": 4,
        "fillstyle": "none",  # equal points stay in sight
    }
    ax.plot(epochs, np.median(scores, axis=0), **own, label=label)
    if len(scores) > 1:
        ax.fill_between(epochs, scores.min(0), scores.max(0), color=colour, alpha=0.12)


def curve_labels(runs: pd.DataFrame, method: str, inches: float) -> dict[str, str]:
    """The best settings of a method, best first, by their labels: what a legend calls them."""
    parts = sorted(settings(runs), key=lambda named: -score(named[1]).mean)[:MOST]
    words = {label: label.removeprefix(METHODS[method]).removeprefix(", ") for label, _ in parts}
    return {label: fold(text, inches, 6) for label, text in words.items()}


def fold(label: str, inches: float, points: int) -> str:
    """A legend's label in lines that fit a column, beside the line that they explain."""
    return textwrap.fill(label, max(12, int(72 * (inches - 0.5) / (0.56 * points))))


def score(runs: pd.DataFrame) -> Summary:
    return summarize(list(chosen_scores(runs).values()))


def trade_offs(runs: pd.DataFrame, head: str) -> Figure:
    """Quality against trained parameters, speed and peak memory: a point for each setting, the best of each method.

    Speed and memory are those of one machine: the one that ran most of the settings.
    """
    parts = [(label, part) for _, of in runs.groupby("method", sort=False) for label, part in best_settings(of)]
    left_out = runs["label"].nunique() - len(parts)
    machine = runs.groupby(["hardware", "precision"], dropna=False)["label"].nunique().idxmax()
    longest = max(len(label) for label, _ in parts)
    columns = 3 if longest < 30 else 2 if longest < 90 else 1
    words = {label: fold(label, 8.4 / columns, 7) for label, _ in parts}
    high = max(text.count("\n") + 1 for text in words.values()) * -(-len(parts) // columns)  # lines of the legend
    figure = Figure(figsize=(8.4, 3.2 + 0.15 * high), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    names = {"parameters": "trained parameters", "samples_per_second": "samples/s", "peak_bytes": "peak memory, GB"}
    drawn: dict[str, Any] = {}
    for ax, (column, name) in zip(axes, names.items(), strict=True):
        places: dict[str, int] = {}
        for label, part in parts:
            method = part["method"].iloc[0]
            place = places[method] = places.get(method, -1) + 1
            own = part if column == "parameters" else on_machine(part, machine)
            x = own[column].median() / (1e9 if column == "peak_bytes" else 1)
            if x > 0:  # a run of three steps has no speed, and a setting that ran elsewhere no point
                drawn.setdefault(label, draw_point(ax, x, score(part), method, marker=marker_of(method, place)))
            elif column == "parameters":  # only the head trains: a level, since a log axis has no 0
                style = {"color": look(method)[0], "linestyle": DASHES[(place + 3) % len(DASHES)], "linewidth": 0.8}
                drawn[label] = ax.axhline(score(part).mean, **style)
        ax.set(xlabel=name)
        if column != "parameters":
            ax.set_xlim(0, 1.05 * ax.get_xlim()[1])
            ax.xaxis.set_major_locator(MaxNLocator(3))  # more would overlap
        if runs[column].isna().all():
            ax.set(xticks=[])
            ax.text(0.5, 0.5, "not measured", ha="center", transform=ax.transAxes, color="0.5")
    widen_log_axis(axes[0])
    axes[0].set_ylabel(f"{METRICS[metric_of(runs)]} x 100")
    labels = [label for label, _ in parts if label in drawn]
    marks, texts = [drawn[name] for name in labels], [words[name] for name in labels]
    figure.legend(marks, texts, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)
    omitted = f"; without {left_out} worse settings" if left_out else ""
    figure.suptitle(
        f"{head}: mean and 95 % t interval; open: fewer than three seeds{omitted}\n"
        f"speed and memory on {', '.join(map(str, machine))}",
        fontsize=9,
    )
    return figure


def best_settings(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """A method's best settings, in the order of the tables: as many as a figure can tell apart."""
    parts = list(settings(runs))
    kept = sorted(parts, key=lambda named: -score(named[1]).mean)[:MOST]
    return [(label, part) for label, part in parts if label in dict(kept)]


def on_machine(runs: pd.DataFrame, machine: tuple[str, str]) -> pd.DataFrame:
    return runs[(runs["hardware"] == machine[0]) & (runs["precision"] == machine[1])]


def marker_of(method: str, place: int) -> str:
    """A method's settings differ in their markers; the first has the method's own."""
    own = look(method)[1]
    return own if not place else [marker for marker in MARKERS if marker != own][place - 1]


def widen_log_axis(ax: Axes) -> None:
    """A log axis that spans a factor of 6.25 or more: it has two of 1, 2, 5, 10 on it, and small differences look small."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, (low * high) ** 0.5 / 2.5), max(high, (low * high) ** 0.5 * 2.5))
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0), numticks=5))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())


def learning_rates(runs: pd.DataFrame, head: str) -> Figure | None:
    """Quality by learning rate, a line for each method and other setting; None if nothing was tried at two rates."""
    lines = [part for _, part in runs.groupby("family", sort=False) if part["learning_rate"].nunique() > 1]
    if not lines:
        return None
    names = {part["family"].iloc[0]: fold(part["family"].iloc[0], 2.8, 7) for part in lines}
    high = sum(name.count("\n") + 1 for name in names.values())
    figure, (ax,) = panels(1, width=5.6, height=3.4 + 0.08 * high)
    places: dict[str, int] = {}
    for part in lines:
        method, family = part["method"].iloc[0], part["family"].iloc[0]
        place = places[method] = places.get(method, -1) + 1
        points = [(rate, score(at)) for rate, at in part.groupby("learning_rate")]
        style = {"color": look(method)[0], "marker": marker_of(method, place % MOST), "markersize": 6}
        dash = look(method)[2] if not place else DASHES[place % len(DASHES)]
        ax.plot(
            [rate for rate, _ in points],
            [s.mean for _, s in points],
            **style,
            fillstyle="none",
            linestyle=dash,
            label=names[family],
        )
        for rate, s in points:
            draw_point(ax, rate, s, method, marker=style["marker"])
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    once = runs["family"].nunique() - len(lines)
    words = f"; {once} settings with one rate are left out" if once else ""
    ax.set(xscale="log", xlabel="learning rate", ylabel=f"{METRICS[metric_of(runs)]} x 100")
    ax.set_title(f"{head}: mean and 95 % t interval\nopen: fewer than three seeds{words}", fontsize=9)
    return figure
