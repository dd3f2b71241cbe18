"""The settings of a backbone, in a file of their own: the code that loads one takes seconds to import."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.checks import check
from core.errors import UserError

SIZES = dict.fromkeys(  # of an architecture; building a larger one takes hours, or more than int64
    ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings"), 2**24
) | {"num_hidden_layers": 1000}

RANDOM = "random, seed "  # how the source of random weights begins, in a record


@dataclass
class BackboneConfig:
    """The pretrained encoder.

    Attributes:
        name: what records call it; empty: the last part of `source`.
        source: a hub name, a local folder, or `package:NAME`, a Python package that carries the checkpoint in `model/`.
        revision: the hub's commit; null for folders and packages.
        sha256: of `model.safetensors`; null: not checked.
        architecture: keyword arguments of its transformers config, `model_type` among them, for `random_init`.
        random_init: the architecture with random weights, no download.
        tokenizer: a hub name or a local folder, whose tokenizer is used; null: the checkpoint's own, or with `random_init`
            one that is trained on the task's text.
        learning_rates: by method, rates that suit it on this backbone better than its own default.
        head_learning_rates: by method, the same for the head.
        license: of the weights, for the card of an exported run, by the hub's short names.
    """

    name: str = ""
    source: str | None = None
    revision: str | None = None
    sha256: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    random_init: bool = False
    tokenizer: str | None = None
    learning_rates: dict[str, float] = field(default_factory=dict)
    head_learning_rates: dict[str, float] = field(default_factory=dict)
    license: str | None = None

    def __post_init__(self) -> None:
        check(self, "backbone.")
        if not self.source and not self.random_init:
            raise UserError(
                "backbone.source is empty: give a hub name or a folder, as in backbone.source=distilroberta-base"
            )
        if self.random_init and "model_type" not in self.architecture:
            raise UserError(
                f"backbone.random_init needs an architecture; backbone '{self.name or self.source}' has none in its YAML"
            )
        if self.tokenizer == "":
            raise UserError("backbone.tokenizer is empty: give a hub name or a folder, or leave it out")
        for key, most in SIZES.items():
            size = self.architecture.get(key, 1)
            if not isinstance(size, int) or not 1 <= size <= most:
                raise UserError(f"backbone.architecture.{key} is {size}; it must be a whole number from 1 to {most}")
        for key in ("architecture", "learning_rates", "head_learning_rates"):
            try:
                json.dumps(getattr(self, key), allow_nan=False)
            except (TypeError, ValueError) as error:
                raise UserError(f"backbone.{key} cannot be kept in a record: {error}") from error
        self.name = self.name or Path(self.source or "").name


def why_other(there: dict[str, Any], here: dict[str, Any]) -> str:
    """A clause on two provenances that differ, where both are of random weights."""
    if not all((provenance["source"] or "").startswith(RANDOM) for provenance in (there, here)):
        return ""
    return ": random backbones differ by seed and, unless backbone.tokenizer is given, by task"
