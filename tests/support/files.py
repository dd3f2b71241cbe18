"""What a user has on disk: an encoder, a mirror of the data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch

from models.random_init import train_tokenizer
from support.tiny import tiny_model
from tasks.generated import generate
from tasks.glue import GLUE

TEXTS = [("the cat sat on the mat",), ("a dog ran to the house",)]


def save_encoder(folder, architecture: str = "roberta", seed: int = 4, width: int = 32) -> torch.nn.Module:
    """A pretrained encoder as the hub serves one: no classification head, its own tokenizer."""
    model = tiny_model(architecture, seed=seed, width=width)
    model.base_model.save_pretrained(folder)
    tokenizer = train_tokenizer(TEXTS, vocabulary=300, pad_id=model.config.pad_token_id)
    tokenizer.save_pretrained(folder)
    return model


def mirror(folder, task: str, **columns) -> None:
    """A local mirror of one task, in the hub's layout, from our own grammar."""
    (folder / task).mkdir(parents=True)
    row = GLUE[task]
    for split in ("train", *row.validation):
        table = generate(task, split, 30, seed=0) | columns
        label = datasets.Value("float32") if row.is_regression else datasets.ClassLabel(names=list(row.labels))
        features = {name: datasets.Value("string") for name in row.columns} | {
            "label": label,
            "idx": datasets.Value("int32"),
        }
        dataset = datasets.Dataset.from_dict(table, features=datasets.Features(features))
        dataset.to_parquet(folder / task / f"{split}-00000-of-00001.parquet")


def edit_json(file: Path, change: Callable[[Any], None]) -> None:
    """Changes a JSON file's content in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
