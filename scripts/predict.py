"""Predicts with a finished run: `python scripts/predict.py run=runs/default/RUN "A sentence." "Another one."`

For a task of pairs, two sentences make an example. Prints the label and each label's probability (STS-B: the score).

file=EXAMPLES   a .csv, .tsv, .jsonl or .parquet with the task's columns, in place of sentences
into=FILE       writes the predictions there, as .jsonl
submission=DIR  predicts GLUE's test split and writes the files that gluebenchmark.com takes (CoLA.tsv, ...)
data.path=DIR, backbone.source=DIR, backbone.tokenizer=DIR   the folders of the data and of the backbone, if they moved
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.console import counted, log
from core.errors import UserError
from scripts.cli import command, parse

if TYPE_CHECKING:
    import numpy as np

    from experiments.restore import Restored
    from tasks.glue import Task
    from tasks.loading import Split

OPTIONS = {
    "run": None,
    "file": None,
    "into": None,
    "submission": None,
    "data.path": None,
    "backbone.source": None,
    "backbone.tokenizer": None,
}


def logits_of(restored: "Restored", split: "Split") -> "np.ndarray":
    """Logits, (examples, outputs)."""
    from models.batches import encode, is_longer
    from models.packed import forward_path
    from training.accelerator import make_accelerator
    from training.evaluation import predict

    accelerator, run = make_accelerator(restored.run.trainer, restored.run.deterministic), restored.run
    path = forward_path(restored.model.to(accelerator.device), "packed")
    tokenizer, most = restored.tokenizer, run.task.max_length
    encoded = encode(split, tokenizer, most)
    full = [text for text, length in zip(split.texts, encoded.lengths, strict=True) if length == most]
    if cut := sum(is_longer(text, tokenizer, most) for text in full):
        log.warning(f"cut, since they are longer than the run's task.max_length={most}: {cut} of {len(split)} examples")
    return predict(path, encoded, accelerator, run.trainer.eval_batch_size)


def answers(task: "Task", split: "Split", logits: "np.ndarray") -> list[dict[str, Any]]:
    """A prediction for each example: its text, and the score, or the label and all probabilities."""
    from scipy.special import softmax

    texts = [dict(zip(task.columns, text, strict=True)) for text in split.texts]
    if task.is_regression:
        return [text | {"score": float(row[0])} for text, row in zip(texts, logits, strict=True)]
    return [
        text
        | {"label": task.labels[int(row.argmax())], "probabilities": dict(zip(task.labels, row.tolist(), strict=True))}
        for text, row in zip(texts, softmax(logits, axis=1), strict=True)
    ]


def given(task: "Task", sentences: list[str], file: str | None) -> "Split":
    """The examples from the command line or from a file."""
    from tasks.loading import read_examples, unlabelled
    from tasks.rows import is_text

    if file:
        if sentences:
            raise UserError(f"file={file} and sentences are both given: leave one out")
        return read_examples(task, Path(file))
    if "-" in sentences:
        raise UserError("standard input is not read: give sentences, or file=FILE")
    size = len(task.columns)
    if not sentences or len(sentences) % size:
        raise UserError(f"{task.name} takes {' and '.join(task.columns)}; {counted(len(sentences), 'sentence')} given")
    if not all(map(is_text, sentences)):
        raise UserError("a sentence is not valid UTF-8: give it in a file")
    pairs = zip(*(sentences[i::size] for i in range(size)), strict=True)
    return unlabelled(task, "the command line", [dict(zip(task.columns, pair, strict=True)) for pair in pairs])


def show(answer: dict[str, Any]) -> str:
    """A prediction as one line."""
    if "score" in answer:
        return f"{answer['score']:.3f}"
    return f"{answer['label']}\t" + ", ".join(f"{label} {p:.3f}" for label, p in answer["probabilities"].items())


def submit(restored: "Restored", folder: Path) -> list[Path]:
    """Writes GLUE's submission files for the test split."""
    from tasks.loading import load_test
    from tasks.submission import write_submission

    splits = load_test(restored.run.task.row, restored.run.data)
    predictions = {name: (split, logits_of(restored, split)) for name, split in splits.items()}
    return write_submission(restored.run.task.row, predictions, folder)


@command
def main(words: list[str]) -> None:
    options, sentences = parse(words, OPTIONS, required=("run",))
    if options["into"] and Path(options["into"]).is_dir():
        raise UserError(f"into: {options['into']} is a folder; name a file")
    from core.io import write_text  # before the next lines, which take seconds
    from experiments.record import RECORD
    from experiments.restore import restore

    run = Path(options["run"].removesuffix(RECORD))
    restored = restore(run, options["data.path"], options["backbone.source"], options["backbone.tokenizer"])
    task = restored.run.task.row
    if options["submission"] and (options["file"] or sentences):
        raise UserError("submission= predicts GLUE's test split: leave out file= and sentences")
    if options["submission"]:
        print(*submit(restored, Path(options["submission"])), sep="\n")
        return
    split = given(task, sentences, options["file"])
    found = answers(task, split, logits_of(restored, split))
    if options["into"]:
        write_text(Path(options["into"]), "".join(json.dumps(answer) + "\n" for answer in found))
        print(f"written: {options['into']}, {len(found)} predictions")
    else:
        print(*map(show, found), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
