"""How figures look: a method has the same colour, marker and dash in each, and equal figures are equal files.

The colours are Okabe and Ito's, then Tol's, which colour-blind readers can tell apart; markers and dashes survive a grey
printer.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.records import METHODS
from analysis.statistics import Summary
from methods.base import REGISTERED

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.hashsalt": "0",
    "pdf.fonttype": 42,
}
LOOKS = {  # colour, marker, dash, hatch
    "head": ("#999999", "_", ":", ""),
    "full": ("#000000", "o", "-", ""),
    "lora": ("#0072B2", "s", "--", "//"),
    "dora": ("#D55E00", "^", "-.", "\\\\"),
    "lora_fa": ("#009E73", "D", ":", "xx"),
    "lora_fa_corrected": ("#56B4E9", "P", (0, (5, 1)), "++"),
    "vera": ("#CC79A7", "v", (0, (3, 1, 1, 1)), ".."),
    "qlora": ("#E69F00", "X", (0, (1, 1)), "oo"),
    "bitfit": ("#999933", "<", "-.", "--"),
    "top_layers": ("#555555", ">", "--", "||"),
    "houlsby": ("#332288", "h", ":", "**"),
    "lin": ("#AA4499", "d", "-", "///"),
    "pfeiffer": ("#882255", "p", "--", "xxx"),
    "prefix_embed": ("#DDAA33", "8", (0, (7, 2)), "\\\\\\"),
    "prefix_layer": ("#44AA99", "1", (0, (2, 1, 2, 3)), "|"),
    "lora_drop": ("#A6761D", "2", "-", "oo"),
    "ladder_side": ("#1B4F72", "3", "-.", "++"),
    "adapterdrop": ("#88CCEE", "H", "-.", "..."),
    "delta_lora": ("#117733", "*", "-", ".."),
    "dylora": ("#AA4499", "h", "--", "oo"),
    "intrinsic_dimension": ("#6699CC", "p", "-.", "xx"),
    "lora_plus": ("#661100", "d", ":", "//"),
}
OWN = (  # of a user's methods, in the order of their names
    ("#FF4D6D", "*", "-", ".."),
    ("#6A3D9A", "P", "--", "oo"),
    ("#B15928", "D", "-.", "xx"),
    ("#008080", "s", ":", "//"),
)


def look(method: str) -> tuple[Any, ...]:
    """Colour, marker, dash and hatch of a method, the same in every figure."""
    own = sorted(set(REGISTERED) - set(LOOKS))
    return LOOKS.get(method) or OWN[own.index(method) % len(OWN) if method in own else -1]


def line_style(method: str) -> dict[str, Any]:
    colour, marker, dash, _ = look(method)
    return {"color": colour, "marker": marker, "linestyle": dash, "markersize": 5, "label": METHODS[method]}


def bar_style(method: str) -> dict[str, Any]:
    colour, _, _, hatch = look(method)
    return {"color": colour, "hatch": hatch, "edgecolor": "white", "label": METHODS[method]}


def panels(count: int, width: float = 3.4, height: float = 2.8, in_a_row: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, in rows of at most `in_a_row`."""
    columns = min(count, in_a_row)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(width * columns, 4.2), height * rows), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).flat)
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def legend(figure: Figure) -> None:
    """One legend for all panels, to their right, with each method of any panel once, in the order of the tables."""
    drawn = {label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = {name: place for place, name in enumerate(METHODS.values())}
    once = {label: drawn[label] for label in sorted(drawn, key=lambda name: order.get(name, len(order)))}
    figure.legend(once.values(), once, loc="outside right upper", fontsize=7)


def where(runs: pd.DataFrame) -> str:
    """A panel's title: the backbone and the number of seeds."""
    seeds = runs["seed"].nunique()
    return f"{runs['model'].iloc[0]}, {seeds} seed{'s' * (seeds > 1)}"


def draw_point(ax: Axes, x: float, s: Summary, method: str, marker: str | None = None) -> Any:
    """A mean, and its 95 % t interval where there are three seeds; returns what a legend shows."""
    style = line_style(method) | {"linestyle": "", "markersize": 6, "marker": marker or look(method)[1], "label": None}
    if s.low is None or s.high is None:
        return ax.plot([x], [s.mean], **style | {"fillstyle": "none"})[0]
    return ax.errorbar([x], [s.mean], yerr=[[s.mean - s.low], [s.high - s.mean]], capsize=2, **style)


def tell_truncated(figure: Figure) -> None:
    """Labels linear y axes that do not start at 0, so that no difference looks too large."""
    for ax in figure.axes:
        begin, is_colour_bar = ax.get_ylim()[0], ax.get_label() == "<colorbar>"
        shown = ax.get_visible() and ax.yaxis.get_visible() and not is_colour_bar
        if shown and ax.get_yscale() == "linear" and begin > 0:
            ax.annotate(
                f" axis from {begin:.3g}", (0, 0), xycoords="axes fraction", fontsize=6, color="0.4", va="bottom"
            )


def write_figures(figures: Callable[[], dict[str, Figure]], folder: Path) -> list[Path]:
    """Draws figures in our style as `folder/NAME.png` and `.pdf`, without dates: equal figures are equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context(STYLE):
        for name, figure in figures().items():
            tell_truncated(figure)
            for ending, metadata in (
                ("png", {"Software": None}),
                ("pdf", {"CreationDate": None, "Producer": None, "Creator": None}),
            ):
                paths.append(folder / f"{name}.{ending}")
                figure.savefig(paths[-1], metadata=metadata)
    return paths
