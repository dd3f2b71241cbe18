"""Generated data: GLUE's format, the same for the same arguments, and not solved by a bag of words."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from tasks.generated import generate

COLUMNS = {
    "cola": ["sentence"],
    "sst2": ["sentence"],
    "mrpc": ["sentence1", "sentence2"],
    "stsb": ["sentence1", "sentence2"],
    "qqp": ["question1", "question2"],
    "mnli": ["premise", "hypothesis"],
    "qnli": ["question", "sentence"],
    "rte": ["sentence1", "sentence2"],
    "wnli": ["sentence1", "sentence2"],
}
SPLITS = {task: ["train", "validation"] for task in COLUMNS} | {
    "mnli": ["train", "validation_matched", "validation_mismatched"]
}
EVERY_SPLIT = [(task, split) for task, splits in SPLITS.items() for split in splits]
CLASSIFICATION = [task for task in COLUMNS if task != "stsb"]


def texts(task, table):
    return list(zip(*(table[column] for column in COLUMNS[task]), strict=True))


def joined(task, table):
    return [" ".join(row) for row in texts(task, table)]


@pytest.mark.parametrize(("task", "split"), EVERY_SPLIT)
def test_generated_tables_have_glues_columns_and_types(task, split):
    table = generate(task, split, 50, seed=3)
    assert list(table) == [*COLUMNS[task], "label", "idx"]
    assert all(len(column) == 50 for column in table.values())
    assert table["idx"] == list(range(50))
    for row in texts(task, table):
        for text in row:
            assert re.fullmatch(r"[A-Z][A-Za-z, ]+[.?]", text)
            assert "  " not in text
    if task == "stsb":
        assert all(type(score) is float and 0.0 <= score <= 5.0 for score in table["label"])
    else:
        assert all(type(label) is int for label in table["label"])
        assert set(table["label"]) == set(range(3 if task == "mnli" else 2))


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_generated_classes_are_balanced(task):
    labels = np.bincount(generate(task, "train", 2000, seed=0)["label"]) / 2000
    expected = {"cola": [0.4, 0.6], "mnli": [1 / 3] * 3}.get(task, [0.5, 0.5])
    assert np.abs(labels - expected).max() < 0.05


def test_generated_scores_are_spread():
    scores = np.array(generate("stsb", "train", 2000, seed=0)["label"])
    shares = np.histogram(scores, bins=5, range=(0, 5))[0] / len(scores)
    assert shares.min() > 0.05
    assert shares.max() < 0.5


@pytest.mark.parametrize(("task", "split"), EVERY_SPLIT)
def test_a_larger_size_extends_a_smaller_one(task, split):
    small, large = generate(task, split, 100, seed=1), generate(task, split, 200, seed=1)
    assert small == {name: column[:100] for name, column in large.items()}


@pytest.mark.parametrize("task", COLUMNS)
def test_another_seed_gives_other_examples(task):
    assert generate(task, "train", 20, seed=0) != generate(task, "train", 20, seed=1)


def digest() -> str:
    tables = [generate(task, split, 100, seed=7) for task, split in EVERY_SPLIT]
    return hashlib.sha256(json.dumps(tables).encode()).hexdigest()


def test_another_process_generates_the_same_examples():
    root = Path(__file__).parents[2]
    code = f"""
import hashlib, json
from tasks.generated import generate
tables = [generate(task, split, 100, seed=7) for task, split in {EVERY_SPLIT!r}]
print(hashlib.sha256(json.dumps(tables).encode()).hexdigest())"""
    other_seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": other_seed, "PYTHONPATH": str(root)},
    )
    assert run.stdout.strip() == digest()


@pytest.mark.parametrize("task", COLUMNS)
def test_splits_are_disjoint_and_hold_no_duplicates(task):
    seen = set()
    for split in SPLITS[task]:
        rows = texts(task, generate(task, split, 2000, seed=0))
        assert len(set(rows)) == 2000
        assert seen.isdisjoint(rows)
        seen.update(rows)


@pytest.mark.parametrize("task", COLUMNS)
def test_a_large_train_split_can_be_generated(task):
    assert len(set(texts(task, generate(task, "train", 20_000, seed=0)))) == 20_000


def test_mismatched_mnli_shares_only_function_words_with_train():
    def words(split):
        text = " ".join(joined("mnli", generate("mnli", split, 3000, seed=0)))
        return set(text.lower().replace(".", "").split())

    function_words = {"the", "a", "an", "was", "did", "not", "by", "nobody", "of", "all", "some", "none", "many"}
    assert words("train") & words("validation_mismatched") <= function_words


@pytest.mark.parametrize(
    ("task", "split"), [("nosuch", "train"), ("cola", "test"), ("mnli", "validation"), ("rte", "validation_matched")]
)
def test_an_unknown_name_is_refused(task, split):
    with pytest.raises(ValueError, match=r"^Unknown (task|split) .*\.$"):
        generate(task, split, 1, seed=0)


def train_and_validation(task):
    return generate(task, "train", 2000, seed=0), generate(task, SPLITS[task][1], 1000, seed=0)


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_a_bag_of_words_scores_low(task):
    train, validation = train_and_validation(task)
    vectorizer = TfidfVectorizer(token_pattern=r"\w+").fit(joined(task, train))
    model = LogisticRegression(max_iter=300).fit(vectorizer.transform(joined(task, train)), train["label"])
    score = model.score(vectorizer.transform(joined(task, validation)), validation["label"])
    near_chance = {"cola": 0.66, "wnli": 0.58, "qnli": 0.65, "mnli": 0.55}
    assert score <= near_chance.get(task, 0.70)


def test_two_bags_of_words_do_not_predict_similarity():
    train, validation = train_and_validation("stsb")
    vectorizers = {column: TfidfVectorizer().fit(train[column]) for column in COLUMNS["stsb"]}

    def features(table):
        return hstack([vectorizer.transform(table[column]) for column, vectorizer in vectorizers.items()])

    predicted = Ridge().fit(features(train), train["label"]).predict(features(validation))
    assert np.corrcoef(predicted, validation["label"])[0, 1] < 0.4
