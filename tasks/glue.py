"""GLUE (Wang et al. 2018, arXiv 1804.07461) as a table: a row is a task.

Columns, label names and their order are the hub's (`nyu-mll/glue`). Metrics are those that GLUE reports; tables show the
first one. MNLI's accuracy is over the matched and mismatched sets together, as in LoRA's tables.
"""

import math
from dataclasses import dataclass

METRICS = {  # by name, what figures call them
    "accuracy": "accuracy",
    "f1": "F1",
    "matthews_correlation": "Matthews",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
}


@dataclass(frozen=True)
class Task:
    """One row: a task.

    Attributes:
        name: the hub's configuration name.
        label: the task's name in tables and in the files of a submission.
        columns: one sentence, or a pair.
        labels: class names by id; empty: a score to regress (STS-B).
        metrics: names in METRICS; the first one chooses the best evaluation.
        validation: the splits to evaluate on.
        lowest, highest: what a score may be.
    """

    name: str
    label: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: tuple[str, ...] = ("validation",)
    lowest: float = -math.inf
    highest: float = math.inf

    def __post_init__(self) -> None:
        suffixes = [split.removeprefix("validation") for split in self.validation]
        known = {name + suffix for name in METRICS for suffix in ("", *suffixes)}
        if unknown := [name for name in self.metrics if name not in known]:
            raise ValueError(f"{self.name}: there is no metric {unknown[0]} in tasks/glue.py")

    @property
    def is_regression(self) -> bool:
        return not self.labels

    @property
    def outputs(self) -> int:
        """How many outputs the classification head has."""
        return len(self.labels) or 1


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")

GLUE = {
    task.name: task
    for task in (  # in the order of the papers' tables
        Task(
            *("mnli", "MNLI"),
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy", "accuracy_matched", "accuracy_mismatched"),
            ("validation_matched", "validation_mismatched"),
        ),
        Task("sst2", "SST-2", ("sentence",), ("negative", "positive"), ("accuracy",)),
        Task("mrpc", "MRPC", PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        Task("cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation", "accuracy")),
        Task("qnli", "QNLI", ("question", "sentence"), ENTAILMENT, ("accuracy",)),
        Task("qqp", "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        Task("rte", "RTE", PAIR, ENTAILMENT, ("accuracy",)),
        Task("stsb", "STS-B", PAIR, (), ("pearson", "spearmanr"), lowest=0, highest=5),
        Task("wnli", "WNLI", PAIR, ("not_entailment", "entailment"), ("accuracy",)),
    )
}
