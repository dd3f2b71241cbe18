"""The files that GLUE's server (gluebenchmark.com) takes: for each test example a line with its index and prediction."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from core.io import write_text
from tasks.glue import Task
from tasks.loading import Split

SUFFIXES = {"test": "", "test_matched": "-m", "test_mismatched": "-mm"}  # in the name of a split's file: MNLI-mm.tsv
WORDS = ("mnli", "qnli", "rte")  # tasks whose answers are names; the others' are 0 and 1, STS-B's a score


def write_submission(task: Task, predictions: dict[str, tuple[Split, np.ndarray]], folder: Path) -> list[Path]:
    """Writes one file for each test split, sorted by index; returns their paths.

    Args:
        predictions: by split; logits (examples, outputs).
    """
    paths = []
    for name, (split, logits) in predictions.items():
        lines = sorted(zip(split.idx, map(answer_of(task), logits), strict=True))
        paths.append(folder / f"{task.label}{SUFFIXES[name]}.tsv")
        write_text(paths[-1], "index\tprediction\n" + "".join(f"{idx}\t{answer}\n" for idx, answer in lines))
    return paths


def answer_of(task: Task) -> Callable[[np.ndarray], str]:
    """The function from an example's logits to its prediction in the file."""
    if task.is_regression:
        return lambda row: f"{np.clip(row[0], 0, 5):.3f}"
    if task.name in WORDS:
        return lambda row: task.labels[row.argmax()]
    return lambda row: str(row.argmax())
