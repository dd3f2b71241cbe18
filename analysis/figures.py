"""The figures of the papers and of the study, from records only."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from analysis import decomposition, serving
from analysis.costs import over_full
from analysis.drawing import bar_style, draw_point, legend, line_style, look, panels, where
from analysis.published import suffix
from analysis.records import (
    BACKBONES,
    METHODS,
    RATES,
    RECORDS,
    TASKS,
    at_chosen_setting,
    at_chosen_settings,
    chosen_scores,
    complete,
    in_order,
    labelled,
    main_metric,
    measurements,
)
from analysis.statistics import interval, summarize
from analysis.tables import pick_rate
from tasks.glue import METRICS
from training.selection import best

WAYS = {
    serving.MIXED: ("#0072B2", "s", "-"),
    serving.SWITCHED: ("#D55E00", "^", "--"),
    serving.MERGED: ("#CC79A7", "v", "-."),
    serving.BARE: ("#000000", "o", ":"),
}
TABLE1 = ["parikh_wu_table1", "parikh_wu_table1_own_rates", "minilm"]


def by_method(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The methods of a frame, in the order of the tables."""
    return runs.groupby("method", sort=False)


def over_training(runs: pd.DataFrame, task: str, metric: str) -> Figure | None:
    """A metric at each evaluation: the median over seeds, and their range. Parikh and Wu, figures 1 and 2."""
    runs = at_chosen_settings(complete(runs, experiment=TABLE1, task=task))
    groups = [part for _, part in runs.groupby(["experiment", "backbone"])]
    if not groups:
        return None
    figure, axes = panels(len(groups))
    for ax, part in zip(axes, groups, strict=True):
        curves(ax, part[part["method"] != "head"], metric)  # so far below that it would flatten the others
        ax.set(
            xlabel="epoch",
            ylabel=f"{METRICS[metric]} on {TASKS[task]} x 100",
            title=f"{where(part)}\n{suffix(part['experiment'].iloc[0]).removeprefix(', ')}".strip(),
        )
    legend(figure)
    return figure


def budgets(runs: pd.DataFrame) -> Figure | None:
    """CoLA with MiniLM in three epochs and in ten, each with its own schedule, at the rates that held-out data choose.

    Methods with three seeds or more in both, on the seeds that all of them have.
    """
    metric, groups = "matthews_correlation", []
    for experiment in ("minilm_3_epochs", "minilm"):
        of = at_chosen_settings(complete(runs, experiment=experiment, backbone="minilm", task="cola"))
        groups.append([part for _, part in by_method(of) if part["seed"].nunique() >= 3])  # one seed shows no range
    shared = set.intersection(*({part["method"].iloc[0] for part in group} for group in groups))
    if not shared:
        return None
    figure, axes = panels(len(groups), width=3.8)
    for ax, group in zip(axes, groups, strict=True):
        parts = [part for part in group if part["method"].iloc[0] in shared]
        both = pd.concat(parts)
        both = both[both["seed"].isin(set.intersection(*(set(part["seed"]) for part in parts)))]
        curves(ax, both, metric)
        ax.set(
            xlabel="epoch",
            ylabel=f"{METRICS[metric]} on CoLA x 100",
            title=f"{where(both)}, {both['epochs'].iloc[0]:g} epochs",
        )
    top = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(top=top)
    figure.suptitle("a line: the median over seeds at each epoch; its band: their range", fontsize=8)
    legend(figure)
    return figure


def curves(ax: Axes, runs: pd.DataFrame, metric: str) -> None:
    """A curve a method over epochs: the median over seeds, and their range."""
    for method, of in by_method(runs):
        epochs = [entry["epoch"] for entry in min(of["history"], key=len)]
        length = min(map(len, of["history"]))
        scores = 100 * np.array([[entry[metric] for entry in history[:length]] for history in of["history"]])
        ax.plot(epochs, np.median(scores, axis=0), **line_style(method))
        if len(scores) > 1:
            ax.fill_between(epochs, scores.min(0), scores.max(0), alpha=0.12, color=look(method)[0])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def training_speed(runs: pd.DataFrame) -> Figure | None:
    """Samples a second, against full fine-tuning's. Parikh and Wu, figure 3."""
    return cost_bars(runs, "samples_per_second", "samples/s, full fine-tuning = 1")


def memory_peak(runs: pd.DataFrame) -> Figure | None:
    """Peak memory, against full fine-tuning's. Parikh and Wu, figure 4."""
    return cost_bars(runs, "peak_bytes", "peak memory (CPU: resident), full FT = 1")


def cost_bars(runs: pd.DataFrame, column: str, label: str) -> Figure | None:
    """A bar for each method: the mean of the ratios to full fine-tuning's run of the same seed, and their t interval."""
    groups = [
        part for _, part in complete(runs, experiment="training_cost").groupby(["backbone", "hardware", "precision"])
    ]
    groups = [part for part in groups if "full" in set(part["method"])]
    if not groups:
        return None
    figure, axes = panels(len(groups), width=4.2)
    for ax, part in zip(axes, groups, strict=True):
        part = part[part["task"].isin(part.loc[part["method"] == "full", "task"])]
        tasks, methods = list(in_order(part["task"])), list(dict.fromkeys(part["method"]))
        for place, method in enumerate(methods):
            for x, task in enumerate(tasks):
                if (s := over_full(part[part["task"] == task], method, column)) is None:
                    continue
                x_bar = x + (place - (len(methods) - 1) / 2) * 0.8 / len(methods)
                bar = ax.bar(x_bar, s.mean, 0.8 / len(methods), **bar_style(method))
                if x:
                    bar.set_label("_")  # one entry a method in the legend
                if s.p is not None:
                    low, high = s.ends
                    ax.errorbar(x_bar, s.mean, [[s.mean - low], [high - s.mean]], color="0.3", capsize=2, linewidth=0.9)
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_xticks(range(len(tasks)), [TASKS[task] for task in tasks])
        ax.grid(axis="x", visible=False)
        ax.set(ylabel=label, title=f"{where(part)}\n{part['hardware'].iloc[0]}, {part['precision'].iloc[0]}")
    legend(figure)
    return figure


def memory_parts(runs: pd.DataFrame) -> Figure | None:
    """Training memory by part; above each bar the sum, and on a GPU its utilization, the median over the run."""
    runs = complete(runs, experiment="training_cost", task="mrpc")
    groups = [part for _, part in runs.groupby(["backbone", "hardware", "precision"])]
    if not groups:
        return None
    figure, axes = panels(len(groups), width=4.2)
    parts = {"weights": "#bbbbbb", "gradients": "#E69F00", "optimizer_state": "#0072B2", "activations": "#009E73"}
    for ax, part in zip(axes, groups, strict=True):
        methods = [of for _, of in by_method(part)]
        bottom = np.zeros(len(methods))
        for (name, colour), hatch in zip(parts.items(), ("", "//", "xx", ".."), strict=True):
            size = np.array([of[name].median() for of in methods]) / 2**20
            ax.bar(
                range(len(methods)),
                size,
                bottom=bottom,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=name.replace("_", " "),
            )
            bottom += size
        busy = [
            np.median(
                [u["gpu_utilization"] for use in of["use"] for u in use if u["gpu_utilization"] is not None] or [np.nan]
            )
            for of in methods
        ]
        for x, (top, percent) in enumerate(zip(bottom, busy, strict=True)):
            words = f"{top:,.0f}" + (f"\nGPU {percent:.0f} %" if np.isfinite(percent) else "")
            ax.annotate(words, (x, top), ha="center", va="bottom", fontsize=6)
        ax.set_xticks(range(len(methods)), [METHODS[of["method"].iloc[0]] for of in methods], rotation=30)
        ax.grid(axis="x", visible=False)
        ax.set(ylabel="MiB", title=f"MRPC, {where(part)}\n{part['hardware'].iloc[0]}, {part['precision'].iloc[0]}")
    figure.suptitle("medians over seeds; above a bar: the sum in MiB, and on a GPU its utilization", fontsize=8)
    legend(figure)
    return figure


def quality_by_parameters(runs: pd.DataFrame) -> Figure | None:
    """Quality against trained parameters without the head, after LoRA's figure 2."""
    runs = at_chosen_settings(complete(runs, experiment=TABLE1[1:]))
    tasks = list(in_order(runs["task"]))
    if not tasks:
        return None
    figure, axes = panels(len(tasks), width=2.6)
    for ax, task in zip(axes, tasks, strict=True):
        for backbone, part in runs[runs["task"] == task].groupby("backbone"):
            for method, of in by_method(part):
                scores = of["score"]
                style = line_style(method) | {
                    "linestyle": "",
                    "fillstyle": "none" if backbone == "minilm" else "full",
                }
                if count := of["parameters"].iloc[0]:
                    ax.plot([count] * len(scores), scores, **style)
                else:  # the head alone, which a log axis cannot show: its median
                    ax.axhline(np.median(scores), color=style["color"], linestyle=":", label=style["label"])
        ax.set(xscale="log", xlabel="trained, without the head", title=TASKS[task], ylabel=METRICS[main_metric(task)])
    legend(figure)
    figure.suptitle(
        "each point is one seed; " + ", ".join(BACKBONES[b] for b in sorted(set(runs["backbone"]))), fontsize=8
    )
    return figure


def learning_rates(runs: pd.DataFrame) -> Figure | None:
    """Each method's score by learning rate: medians and ranges of seeds; a star marks the rate that held-out data choose."""
    runs = labelled(complete(runs, experiment=RATES))
    groups = [
        part[part["task"] == task]
        for _, part in runs.groupby(["experiment", "model"])
        for task in in_order(part["task"])
    ]
    groups = [part for part in groups if part.groupby("method")["learning_rate"].nunique().max() > 1]
    if not groups:
        return None
    figure, axes = panels(len(groups), width=4.4, height=3.4)
    for ax, part in zip(axes, groups, strict=True):
        for (_, method, family), of in part.groupby(["order", "method", "family"]):
            found = [(rate, list(chosen_scores(at).values())) for rate, at in of.groupby("learning_rate")]
            rates, medians = [rate for rate, _ in found], [float(np.median(scores)) for _, scores in found]
            is_first = family == part.loc[part["method"] == method, "family"].min()
            ax.plot(
                rates, medians, **line_style(method) | {"label": family, "fillstyle": "full" if is_first else "none"}
            )
            ax.vlines(rates, [min(s) for _, s in found], [max(s) for _, s in found], color=look(method)[0], alpha=0.4)
            if pick := pick_rate(of):
                star = dict(zip(rates, medians, strict=True))[pick[0]]
                ax.plot(pick[0], star, "*", color=look(method)[0], markersize=13, alpha=0.5)
        leave_out_the_floor(ax)
        task, epochs = part["task"].iloc[0], part["epochs"].iloc[0]
        ax.axvline(4e-5, color="black", linewidth=0.8, linestyle=":")
        ax.annotate(" Parikh and Wu's 4e-5", (4e-5, ax.get_ylim()[1]), fontsize=7, va="top")
        title = f"{TASKS[task]}, {part['model'].iloc[0]}, {epochs:g} epochs"
        ax.set(xscale="log", xlabel="learning rate", ylabel=f"{METRICS[main_metric(task)]} x 100", title=title)
    figure.suptitle("medians and ranges over one to five seeds; a star: the rate that held-out data choose", fontsize=8)
    legend(figure)
    return figure


def leave_out_the_floor(ax: Axes) -> None:
    """Where the head alone lies so far below that it would flatten all other lines, a sentence takes its place."""
    heights = {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in ax.lines}
    floor = heights.pop(METHODS["head"], np.array([]))
    names = tuple(METHODS.values())  # of a method's several settings, each begins with its name
    others = np.concatenate([y for label, y in heights.items() if str(label).startswith(names)] or [np.array([])])
    if not floor.size or not others.size:
        return
    low, high = others.min(), others.max()
    if floor.max() < low - (high - low):
        ax.set_ylim(low - (high - low) / 4, high + (high - low) / 4)
        words = f"Head alone, far below: {floor.max():.0f} at best"
        ax.annotate(words, (0.98, 0.02), xycoords="axes fraction", ha="right", fontsize=7)


def rank_alpha(runs: pd.DataFrame) -> Figure | None:
    """Heat map of quality by rank and alpha, a panel for each rate; a box marks alpha = 2 r."""
    runs = complete(runs, experiment=["rank_alpha", "minilm_rank_alpha"])
    groups = [part for _, part in runs.groupby(["experiment", "backbone", "learning_rate"])]
    if not groups:
        return None
    figure, axes = panels(len(groups), width=4.6, height=3.2, in_a_row=2)
    cells = [
        {cell: summarize(list(chosen_scores(own).values())) for cell, own in part.groupby(["rank", "alpha"])}
        for part in groups
    ]
    top = max(s.mean for found in cells for s in found.values())  # one scale from 0: equal colours are equal scores
    for ax, part, found in zip(axes, groups, cells, strict=True):
        grid = pd.Series({cell: s.mean for cell, s in found.items()}).unstack()
        image = ax.imshow(grid, cmap="cividis", origin="lower", aspect="auto", vmin=0, vmax=top)
        for (y, r), (x, alpha) in ((a, b) for a in enumerate(grid.index) for b in enumerate(grid.columns)):
            if s := found.get((r, alpha)):
                spread = f"\n{interval(s)}" if s.low is not None else ""
                color = "white" if s.mean < top / 2 else "black"
                text = f"{s.mean:.1f}{spread}\nn = {s.n}"
                ax.text(x, y, text, ha="center", va="center", fontsize=7, color=color)
            if alpha == 2 * r:
                ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2))
        ax.set_xticks(range(len(grid.columns)), [f"{alpha:g}" for alpha in grid.columns])
        ax.set_yticks(range(len(grid.index)), [f"{rank:g}" for rank in grid.index])
        ax.grid(visible=False)
        first = part.iloc[0]
        ax.set(xlabel="alpha", ylabel="rank", title=f"{BACKBONES[first['backbone']]}, rate {first['learning_rate']:g}")
        figure.colorbar(image, ax=ax)
    figure.suptitle("Matthews on CoLA: mean and 95 % t interval; blank: not run; red: alpha = 2 r", fontsize=8)
    return figure


def front(runs: pd.DataFrame) -> Figure | None:
    """Quality against speed and against memory, each point a method: the mean over tasks of the main metric, and its 95 %
    t interval over seeds."""
    quality = at_chosen_settings(complete(runs, experiment=TABLE1[1:]))
    cost = complete(runs, experiment="training_cost", task="mrpc")
    groups = [
        (backbone, part, cost[cost["backbone"] == backbone])
        for backbone, part in quality.groupby("backbone")
        if "full" in set(cost.loc[cost["backbone"] == backbone, "method"])
    ]
    if not groups:
        return None
    figure, axes = panels(2 * len(groups), width=3.2, in_a_row=2)
    drawn: dict[str, Any] = {}
    for pair, (backbone, part, costs) in zip(zip(axes[::2], axes[1::2], strict=True), groups, strict=True):
        for method, of in by_method(part[part["method"].isin(costs["method"])]):
            seeds = of.pivot_table(index="seed", columns="task", values="score").reindex(columns=part["task"].unique())
            mean = seeds.dropna().mean(axis="columns")  # of the seeds that all tasks have
            if mean.empty:
                continue
            for ax, column in zip(pair, ("samples_per_second", "peak_bytes"), strict=True):
                if x := over_full(costs, method, column):
                    drawn[METHODS[method]] = draw_point(ax, x.mean, summarize(list(mean)), method)
        title = (
            f"{BACKBONES[backbone]}; quality: mean of {', '.join(TASKS[t] for t in in_order(part['task']))}\n"
            "and its 95 % t interval over the seeds that all have; open: fewer than three\n"
            f"speed and peak: MRPC alone, {costs['hardware'].iloc[0]}, {costs['precision'].iloc[0]}"
        )
        pair[0].set(xlabel="samples/s, full FT = 1", ylabel="main metric x 100", title="speed")
        pair[1].set(xlabel="peak memory, full FT = 1", title="memory")
        figure.suptitle(title, fontsize=8)
    figure.legend(drawn.values(), drawn, loc="outside right upper", fontsize=7)
    return figure


def importances(runs: pd.DataFrame) -> Figure | None:
    """The share of each adapted layer in what all of them add, where runs found it: medians over seeds, and their ranges.

    Zhou et al. 2024 (LoRA-drop), stage 1. Filled: layers that most seeds keep; the others share one pair.
    """
    runs = complete(runs)
    has = runs["findings"].map(lambda findings: "importance" in findings)
    runs = runs[has.astype(bool)]  # of objects, if there are no runs
    groups = [part for _, part in runs.groupby(["method", "backbone", "task", "variant"], sort=False)]
    if not groups:
        return None
    figure, axes = panels(len(groups), width=max(3.4, 0.22 * max(len(of["importance"]) for of in runs["findings"])))
    for ax, part in zip(axes, groups, strict=True):
        names = list(part["findings"].iloc[0]["importance"])
        shares = np.array([[found["importance"][name] for name in names] for found in part["findings"]])
        kept = [sum(name in found["kept"] for found in part["findings"]) > len(part) / 2 for name in names]
        colour, middle = look(part["method"].iloc[0])[0], np.median(shares, axis=0)
        ax.bar(range(len(names)), middle, color=[colour if own else "white" for own in kept], edgecolor=colour)
        ax.vlines(range(len(names)), shares.min(0), shares.max(0), color="black", linewidth=0.8)
        ax.set_xticks(range(len(names)), [re.sub(r"^.*?(\d+)\..*?([^.]+)$", r"\1 \2", name) for name in names])
        ax.tick_params(axis="x", rotation=90, labelsize=6)
        ax.grid(axis="x", visible=False)
        name = part["label"].iloc[0] if "label" in part else METHODS[part["method"].iloc[0]]
        words = f"{name} on {TASKS[part['task'].iloc[0]]}, {where(part)}"
        ax.set(ylabel="importance $I_i$", title=f"{words}\nfilled: most seeds keep it ({sum(kept)} of {len(kept)})")
    return figure


def ranks(runs: pd.DataFrame, records: list[dict[str, Any]]) -> Figure | None:
    """DyLoRA's score at each rank of one run, and LoRA's own run at its rank: means over seeds. DyLoRA, tables 2 and 4.

    All at the best epoch on the validation set, whose state a run keeps.

    Args:
        records: of `scripts/ranks.py`; those of runs that are not in `runs` are left out.
    """
    by_hash = {record["config_hash"]: record["ranks"] for record in records}
    of = complete(runs, hash=list(by_hash))
    if of.empty:
        return None
    groups = list(labelled(of).groupby(["experiment", "backbone", "task"], sort=False))
    figure, axes = panels(len(groups), width=4.6, height=3.2)
    for ax, ((experiment, backbone, task), group) in zip(axes, groups, strict=True):
        for place, (label, part) in enumerate(group.groupby("label", sort=False)):
            found = [by_hash[run] for run in part["hash"]]
            scores = 100 * np.array([[entry[main_metric(task)] for entry in entries] for entries in found])
            style = line_style(part["method"].iloc[0]) | {"linestyle": ("-", "--", "-.", ":")[place % 4]}
            xs = [entry["rank"] for entry in found[0]]
            ax.plot(xs, scores.mean(0), **style | {"label": f"{label} ({len(found)})"})
            ax.fill_between(xs, scores.min(0), scores.max(0), color=style["color"], alpha=0.12)
        lora = complete(runs, experiment=experiment, backbone=backbone, task=task, method="lora")
        for rank, part in lora.groupby("rank"):
            histories = at_chosen_setting(part)["history"]
            own = [100 * best(history, main_metric(task))[main_metric(task)] for history in histories]
            style = line_style("lora") | {"linestyle": "", "label": f"LoRA, a run at its rank ({len(own)})"}
            ax.errorbar(
                [rank], [np.mean(own)], [[np.mean(own) - min(own)], [max(own) - np.mean(own)]], capsize=2, **style
            )
        ax.set(xlabel="rank", ylabel=f"{METRICS[main_metric(task)]} x 100", ylim=(0, None))
        head = f"{TASKS[task]}, {BACKBONES[backbone]}: means and ranges over (seeds)"
        ax.set_title(f"{head}\nat each run's best epoch on the validation set", fontsize=9)
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


def subspace(pairs: list[dict[str, Any]]) -> Figure | None:
    """φ between adapters of two ranks, and of two seeds. LoRA, figures 3 and 4."""
    if not pairs:
        return None
    figure = Figure(figsize=(3.1 * len(pairs) / 2, 5.4), layout="constrained")
    axes = figure.subplots(2, (len(pairs) + 1) // 2, squeeze=False)
    for ax, pair in zip(axes.T.flat, pairs, strict=False):
        phi = np.array(pair["phi"])
        ends = (0.5, phi.shape[1] + 0.5, 0.5, phi.shape[0] + 0.5)  # i and j begin at 1
        image = ax.imshow(phi, vmin=0, vmax=1, cmap="cividis", origin="lower", aspect="auto", extent=ends)
        one, other = (f"r = {run['rank']}, seed {run['seed']}" for run in pair["runs"])
        ax.set_title(f"{pair['matrix']}\n{one}\nand {other}", fontsize=7)
        ax.set(xlabel="j", ylabel="i")
        ax.grid(visible=False)
    figure.colorbar(image, ax=axes, label="φ(i, j), mean over layers")
    return figure


def weight_decomposition(records: list[dict[str, Any]]) -> Figure | None:
    """How far each layer's query matrix moves in magnitude and in direction, a point a layer and seed. DoRA, figure 2."""
    groups = decomposition.groups(records)
    if not groups:
        return None
    of_methods = [[r for r in group if r["method"] == method] for group in groups for method in decomposition.COMPARED]
    shown = [own for own in of_methods if own]
    figure, axes = panels(len(shown), width=2.7)
    layers = max(len(decomposition.points(own[0])) for own in shown)
    for ax, own in zip(axes, shown, strict=True):
        for record in own:
            moved = decomposition.points(record)
            drawn = ax.scatter(
                moved[:, 1], moved[:, 0], c=range(1, len(moved) + 1), vmin=1, vmax=layers, cmap="cividis", s=14
            )
        r = decomposition.correlations(own)[own[0]["method"]]
        ax.set_title(f"{METHODS[own[0]['method']]}\nr = {decomposition.shown(r)}", fontsize=8)
        ax.set(xlabel="ΔD, direction", ylabel="ΔM, magnitude")
        ax.ticklabel_format(axis="both", style="sci", scilimits=(-2, 2))
        right, top = 1.06 * np.max([decomposition.points(record)[:, ::-1].max(0) for record in own], axis=0)
        ax.set(xlim=(0, right), ylim=(0, top))
    figure.colorbar(drawn, ax=axes, label="layer", ticks=range(1, layers + 1))
    figure.suptitle("; ".join(decomposition.title(group) for group in groups), fontsize=8)
    return figure


def throughput(records: list[dict[str, Any]]) -> Figure | None:
    """Requests a second by the number of adapters on one backbone, after S-LoRA's table 3."""
    if not records:
        return None
    figure, axes = panels(len(records), width=4.2)
    for ax, record in zip(axes, records, strict=True):
        counts = [step["adapters"] for step in record["steps"]]
        for way, (colour, marker, dash) in WAYS.items():
            speeds = [serving.rate(record, step, way) for step in record["steps"]]
            ax.plot(
                counts, speeds, color=colour, marker=marker, linestyle=dash, markersize=5, label=serving.LABELS[way]
            )
        backbone, machine, batch = serving.title(record)
        ax.set(xscale="log", xlabel="adapters", ylabel="requests/s", title=f"{backbone}, batches of {batch}\n{machine}")
        ax.set_ylim(bottom=0)
    legend(figure)
    return figure


def all_figures(runs: pd.DataFrame, similarity: list[dict[str, Any]]) -> dict[str, Figure]:
    """Every figure that has records, by name."""
    figures = {
        "parikh_wu_figure1_cola": over_training(runs, "cola", "matthews_correlation"),
        "parikh_wu_figure2_mrpc": over_training(runs, "mrpc", "f1"),
        "parikh_wu_figure3_speed": training_speed(runs),
        "parikh_wu_figure4_memory": memory_peak(runs),
        "memory_parts": memory_parts(runs),
        "quality_by_parameters": quality_by_parameters(runs),
        "learning_rates": learning_rates(runs),
        "budgets": budgets(runs),
        "rank_alpha": rank_alpha(runs),
        "front": front(runs),
        "subspace": subspace(similarity),
        "ranks": ranks(runs, measurements(RECORDS / "ranks", "ranks", lambda record: (record["config_hash"],))),
        "importances": importances(at_chosen_settings(complete(runs))),
        "decomposition": weight_decomposition(decomposition.read()),
        "serving": throughput(serving.read()),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}
