"""GLUE's table, its metrics against independent formulas, and its three sources."""

import math
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.command_line import ROOT, compose
from support.files import mirror

from core.errors import UserError
from tasks.generated import generate
from tasks.glue import GLUE, METRICS
from tasks.loading import fingerprint, load_splits
from tasks.metrics import FUNCTIONS, GlueMetric, score

SHARED = ROOT.parent / "shared/glue"
OFFLINE = ("profile=offline", "backbone=tiny", "logger=none")


def load(task: str, *more: str):
    return load_splits(GLUE[task], compose(*OFFLINE, f"task={task}", *more).data)


@pytest.mark.parametrize("task", GLUE)
def test_a_local_mirror_gives_the_generated_examples_back(task, tmp_path):
    mirror(tmp_path, task)
    local = load(task, "data=local", f"data.path={tmp_path}")
    generated = load(task, "data.train_size=30", "data.eval_size=30")
    assert list(local) == ["train", *GLUE[task].validation]
    for name in local:
        assert local[name].texts == generated[name].texts
        assert local[name].labels == pytest.approx(generated[name].labels)


def test_subsets_are_drawn_with_the_seed_of_the_data(tmp_path):
    mirror(tmp_path, "cola")
    draw = [
        load("cola", "data=local", f"data.path={tmp_path}", "data.train_size=10", f"data.seed={seed}")
        for seed in (0, 0, 1)
    ]
    assert len(draw[0]["train"]) == 10
    assert len(draw[0]["validation"]) == 30
    assert fingerprint(draw[0]) == fingerprint(draw[1]) != fingerprint(draw[2])


BAD = {
    "no column sentence2; its columns": lambda table: {k: v for k, v in table.items() if k != "sentence2"},
    "no column label": lambda table: {k: v for k, v in table.items() if k != "label"},
    "row 2: the label is 7": lambda table: table | {"label": [0, 1, 7, *table["label"][3:]]},
    "row 0: the label is -1": lambda table: table | {"label": [-1, *table["label"][1:]]},
    "the label is 0.5": lambda table: table | {"label": [0.5] * 30},
    "row 1: sentence1 is not a text": lambda table: table | {"sentence1": ["a", None, *table["sentence1"][2:]]},
    "has no rows": lambda table: {k: v[:0] for k, v in table.items()},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_data_is_named(message, tmp_path):
    (tmp_path / "mrpc").mkdir()
    table = BAD[message](generate("mrpc", "train", 30, seed=0))
    for split in ("train", "validation"):
        pq.write_table(pa.table(table), tmp_path / f"mrpc/{split}-0.parquet")
    with pytest.raises(UserError, match=message):
        load("mrpc", "data=local", f"data.path={tmp_path}")


def test_a_bad_row_among_those_that_are_drawn_is_named_as_in_its_file(tmp_path):
    mirror(tmp_path, "cola", label=[0] * 29 + [-1])
    bad = datasets.Dataset.from_dict({"row": range(30)}).shuffle(seed=0)["row"].index(29)
    words = ("data=local", f"data.path={tmp_path}", "data.seed=0")
    assert len(load("cola", *words, f"data.train_size={bad}", "data.eval_size=2")["train"]) == bad
    with pytest.raises(UserError, match="cola/train, row 29: the label is -1; it must be one of 0 to 1"):
        load("cola", *words, f"data.train_size={bad + 1}", "data.eval_size=2")


def test_labels_in_another_order_are_refused(tmp_path):
    mirror(tmp_path, "rte")
    file = tmp_path / "rte/train-00000-of-00001.parquet"
    dataset = datasets.Dataset(pq.read_table(file))
    swapped = datasets.ClassLabel(names=["not_entailment", "entailment"])
    dataset.cast_column("label", swapped).to_parquet(file)
    with pytest.raises(UserError, match="names its labels not_entailment, entailment; GLUE has entailment, not"):
        load("rte", "data=local", f"data.path={tmp_path}")


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    mirror(tmp_path, "rte")
    (tmp_path / "rte/validation-00000-of-00001.parquet").write_text("no parquet")
    with pytest.raises(UserError, match=r"validation-00000-of-00001.parquet cannot be read as parquet"):
        load("rte", "data=local", f"data.path={tmp_path}")
    with pytest.raises(UserError, match=r"has no cola in any of the layouts: .*; the tasks there are: rte"):
        load("cola", "data=local", f"data.path={tmp_path}")


def test_nan_scores_are_refused(tmp_path):
    table = generate("stsb", "train", 30, seed=0)
    (tmp_path / "stsb").mkdir()
    for split in ("train", "validation"):
        pq.write_table(
            pa.table(table | {"label": [math.nan, *table["label"][1:]]}), tmp_path / f"stsb/{split}-0.parquet"
        )
    with pytest.raises(UserError, match="row 0: the label is nan; it must be a finite number from 0 to 5"):
        load("stsb", "data=local", f"data.path={tmp_path}")


@pytest.mark.parametrize("task", GLUE)
def test_held_out_examples_are_not_trained_on(task):
    whole, held = load(task, "data.train_size=50"), load(task, "data.train_size=50", "data.holdout=0.2")
    assert [len(held[name]) for name in ("train", "held_out")] == [40, 10]
    assert sorted(held["train"].idx + held["held_out"].idx) == whole["train"].idx
    texts = dict(zip(whole["train"].idx, whole["train"].texts, strict=True))
    assert [texts[i] for i in held["held_out"].idx] == held["held_out"].texts
    assert held["validation" if task != "mnli" else "validation_matched"] == whole[GLUE[task].validation[0]]
    assert load(task, "data.train_size=50", "data.holdout=0.2", "data.seed=1")["held_out"].idx != held["held_out"].idx


def test_holding_out_every_example_is_refused():
    with pytest.raises(UserError, match=r"data.holdout is 0.5; of 2 examples that leaves none"):
        load("cola", "data.train_size=2", "data.holdout=0.5")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no mirror of GLUE beside this checkout")
@pytest.mark.parametrize(
    ("task", "train", "validation"),
    [("cola", 8551, 1043), ("mrpc", 3668, 408), ("rte", 2490, 277), ("stsb", 5749, 1500)],
)
def test_real_glue_tables_load_completely(task, train, validation):
    splits = load(task, "data=local", f"data.path={SHARED}")
    assert [len(split) for split in splits.values()] == [train, validation]


def test_glues_metrics_have_their_closed_forms():
    predictions, references = np.array([1, 1, 0, 0, 1, 0, 1, 1]), np.array([1, 0, 0, 1, 1, 0, 1, 0])
    tp, fp, fn, tn = 3, 2, 1, 2
    for name, task in GLUE.items():
        if task.labels and len(task.validation) == 1:
            scores = score(task, {"validation": (predictions, references)})
            assert tuple(scores) == task.metrics
            assert scores["accuracy"] == pytest.approx((tp + tn) / 8), name
            if "f1" in scores:
                assert scores["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
            if "matthews_correlation" in scores:
                expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
                assert scores["matthews_correlation"] == pytest.approx(expected)


def test_stsbs_correlations_have_their_closed_forms():
    predictions, references = np.array([0.1, 2.5, 2.4, 5.5, 3.0]), np.array([0.0, 2.0, 3.0, 5.0, 4.0])
    scores = score(GLUE["stsb"], {"validation": (predictions, references)})
    assert scores["pearson"] == pytest.approx(np.corrcoef(predictions, references)[0, 1])
    ranks = [np.argsort(np.argsort(x)) for x in (predictions, references)]
    assert scores["spearmanr"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_mnli_is_scored_on_each_split_and_on_both():
    matched, mismatched = (np.array([0, 1, 2, 0]), np.array([0, 1, 2, 1])), (np.array([0, 0]), np.array([0, 1]))
    scores = score(GLUE["mnli"], {"validation_matched": matched, "validation_mismatched": mismatched})
    assert scores == pytest.approx({"accuracy": 4 / 6, "accuracy_matched": 3 / 4, "accuracy_mismatched": 1 / 2})


def test_one_example_has_no_correlation():
    one = np.array([1.0])
    assert score(GLUE["stsb"], {"validation": (one, one)}) == {"pearson": 0.0, "spearmanr": 0.0}


def test_a_constant_prediction_scores_zero_without_a_warning():
    constant, references = np.zeros(4), np.array([0.0, 1.0, 2.0, 3.0])
    assert score(GLUE["stsb"], {"validation": (constant, references)}) == {"pearson": 0.0, "spearmanr": 0.0}
    labels = np.array([0, 1, 1, 1])
    assert score(GLUE["cola"], {"validation": (np.ones(4, int), labels)})["matthews_correlation"] == 0.0
    assert score(GLUE["mrpc"], {"validation": (np.zeros(4, int), labels)})["f1"] == 0.0


def test_the_metric_is_an_evaluate_metric():
    import evaluate

    metric = GlueMetric(config_name="mrpc")
    assert isinstance(metric, evaluate.Metric)
    metric.add_batch(predictions=[1, 0], references=[1, 1])
    metric.add_batch(predictions=[1, 1], references=[1, 0])
    assert metric.compute()["accuracy"] == 0.5


def test_every_metric_has_a_label_and_a_function_and_no_other_is_taken():
    assert FUNCTIONS.keys() == METRICS.keys()
    with pytest.raises(ValueError, match="no metric acuracy"):
        replace(GLUE["rte"], metrics=("acuracy",))
