"""Speed and memory of runs, beside a method's on the same machine: of the experiments of cost, and of any folder."""

import numpy as np
import pandas as pd

from analysis.records import METHODS, TASKS, complete, labelled
from analysis.render import Table
from analysis.statistics import Summary, quotient

COST_ALONE = ("training_cost", "quantization_cost")
PARTS = ("weights", "gradients", "optimizer_state", "activations")
MEASURED = ["samples_per_second", "peak_bytes", *PARTS]
NOTE = (
    "Medians over the runs of one setting; one without a complete run has no line. `x {reference}`: the mean of the ratios "
    "to {reference}'s run of the same seed on the same machine, where {reference} has one setting, from three seeds on with "
    "its 95 % t interval. Samples/s: training steps alone, without warm-up and evaluations. Peak: allocated on a GPU; on a "
    "CPU resident, with the interpreter and its libraries. Activations: bytes held for the backward pass of the largest "
    "batch. "
)
ALONE = "A process a run, and nothing else on the machine."
PERHAPS = "Speeds are comparable only if nothing else ran on the machine."


def training_cost(frame: pd.DataFrame) -> Table:
    """Speed and memory of `training_cost`, relative to full fine-tuning."""
    runs = labelled(complete(frame, experiment="training_cost"))
    return table(runs, "training_cost", "full", "Speed and memory of training", ALONE)


def quantization_cost(frame: pd.DataFrame) -> Table:
    """Speed and memory of `quantization_cost`, relative to LoRA on the same layers."""
    runs = labelled(complete(frame, experiment="quantization_cost"))
    return table(runs, "quantization_cost", "lora", "What 4 bits cost in time and save in memory", ALONE)


def own_costs(runs: pd.DataFrame) -> Table:
    """Speed and memory of any labelled runs, relative to full fine-tuning."""
    return table(runs, "costs", "full", "Speed and memory", PERHAPS)


def table(runs: pd.DataFrame, name: str, reference: str, title: str, note: str) -> Table:
    """A line for each setting on each task and machine.

    Args:
        runs: complete and labelled.
        reference: the method whose speed and peak are 1; its cells are blank where it has no run, or several settings.
    """
    lines = []
    keys = ["model", "hardware", "precision", "task"]
    for (model, hardware, precision, task), group in runs.groupby(keys, sort=False, dropna=False):
        of_reference = group[group["method"] == reference]
        base = of_reference if of_reference["label"].nunique() == 1 else of_reference[:0]
        for label, own in group.groupby("label", sort=False):
            found = own[MEASURED].median()
            line = [
                model,
                f"{hardware}, {precision}",
                TASKS[task],
                label,
                str(len(own)),
                f"{own['parameters'].iloc[0]:,}",
            ]
            for column, unit, form in (("samples_per_second", 1, ".1f"), ("peak_bytes", 2**20, ",.0f")):
                line += [cell(found[column] / unit, form), ratio(own, base, column)]
            lines.append([*line, *(cell(found[part] / 2**20, ",.1f") for part in PARTS)])
    columns = ["backbone", "machine", "task", "method", "runs", "trained"]
    columns += ["samples/s", f"speed x {METHODS[reference]}", "peak MiB", f"peak x {METHODS[reference]}"]
    columns += ["weights MiB", "gradients MiB", "optimizer MiB", "activations MiB"]
    notes = [NOTE.format(reference=METHODS[reference]) + note]
    return Table(name, title, pd.DataFrame(lines, columns=columns), notes, 4)


def by_seed(runs: pd.DataFrame, column: str) -> dict[int, float]:
    """A measurement of the runs of one setting, for each seed."""
    return runs.groupby("seed")[column].median().to_dict()


def over_full(runs: pd.DataFrame, method: str, column: str) -> Summary | None:
    """A method's measurements over full fine-tuning's, paired by seed; `runs` are of one task and machine."""
    own, full = (by_seed(complete(runs, method=name), column) for name in (method, "full"))
    return quotient(own, full)


def ratio(own: pd.DataFrame, base: pd.DataFrame, column: str) -> str:
    """The mean over seeds of the ratio of two settings' runs, `1.67 (1.39 to 1.95)`; empty without a common seed."""
    if (found := quotient(by_seed(own, column), by_seed(base, column))) is None:
        return ""
    return f"{found.mean:.2f}" + (f" ({found.low:.2f} to {found.high:.2f})" if found.p is not None else "")


def cell(value: float, form: str) -> str:
    return "" if np.isnan(value) else format(value, form)
