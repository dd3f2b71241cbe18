"""GLUE's metrics as an `evaluate.Metric` that needs no network.

`evaluate.load("glue", task)` downloads a script; this is the same metric with the same names, over scikit-learn and SciPy.
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sk

from tasks.glue import GLUE, Task


def _correlation(function: Callable) -> Callable[[Sequence[float], Sequence[float]], float]:
    """A correlation that is 0 where it is undefined: for constant predictions, and for a single example."""

    def correlation(references: Sequence[float], predictions: Sequence[float]) -> float:
        if len(references) < 2:
            return 0.0
        with warnings.catch_warnings(action="ignore", category=stats.ConstantInputWarning):
            value = function(references, predictions).statistic
        return 0.0 if np.isnan(value) else value

    return correlation


FUNCTIONS = {  # a function for each of METRICS
    "accuracy": sk.accuracy_score,
    "f1": lambda references, predictions: sk.f1_score(references, predictions, zero_division=0),
    "matthews_correlation": sk.matthews_corrcoef,
    "pearson": _correlation(stats.pearsonr),
    "spearmanr": _correlation(stats.spearmanr),
}


class GlueMetric(evaluate.Metric):
    """`GlueMetric(config_name="mrpc").compute(predictions=..., references=...)` gives `accuracy` and `f1`.

    Args:
        task: a task outside GLUE.
    """

    def __init__(self, config_name: str, task: Task | None = None):
        self.task = task or GLUE[config_name]
        super().__init__(config_name=config_name, keep_in_memory=True, cache_dir=tempfile.gettempdir())

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float64" if self.task.is_regression else "int64")
        return evaluate.MetricInfo(
            description="The metrics of one GLUE task.",
            citation="Wang et al. 2018, arXiv 1804.07461",
            inputs_description="predictions and references: class ids, or scores for stsb",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        names = [name for name in self.task.metrics if name in FUNCTIONS]
        return {name: float(FUNCTIONS[name](references, predictions)) for name in names}


def score(task: Task, outputs: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """All metrics of a task.

    Args:
        outputs: predictions and references of each validation split. Several splits (MNLI) are scored together, and each
            also alone, with a suffix (`accuracy_matched`).
    """
    metric = GlueMetric(task.name, task)
    together = [np.concatenate(arrays) for arrays in zip(*outputs.values(), strict=True)]
    scores = metric.compute(predictions=together[0], references=together[1])
    if len(outputs) > 1:
        for split, (predictions, references) in outputs.items():
            part = metric.compute(predictions=predictions, references=references)
            suffix = split.removeprefix("validation")
            scores |= {name + suffix: value for name, value in part.items()}
    return {name: scores[name] for name in task.metrics if name in scores}
