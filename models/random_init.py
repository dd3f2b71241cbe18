"""An architecture with random weights, and a tokenizer, by default trained on the task's text: no download, to measure."""

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from core.errors import UserError, refused
from core.seeding import seeded
from models.settings import RANDOM, BackboneConfig
from models.tokenizer import load_tokenizer
from tasks.glue import Task

Provenance = dict[str, str | None]  # source, revision and sha256, as in a record; `tokenizer`, if one is given


def task_settings(task: Task) -> dict[str, Any]:
    """What a classifier's configuration takes from the task, whatever the checkpoint was trained for."""
    names = dict(enumerate(task.labels or ("score",)))
    problem = "regression" if task.is_regression else "single_label_classification"
    return {"id2label": names, "label2id": {name: i for i, name in names.items()}, "problem_type": problem}


def draw(
    config: BackboneConfig, task: Task, seed: int, texts: Iterable[tuple[str, ...]]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Provenance]:
    """Model and tokenizer; the weights are from the seed's own stream.

    The sha256 is of the seed, the architecture and the tokenizer's content, and so of the texts that one is trained on.
    """
    require_memory(config, task)
    with seeded(seed, "backbone"):
        model = build(config, task)
    tokenizer: PreTrainedTokenizerBase
    given: Provenance = {}
    if config.tokenizer:
        tokenizer, content = load_tokenizer(config, model)
        given = {"tokenizer": content}
    else:
        with refused("backbone.architecture suits no tokenizer"):
            trained = train_tokenizer(texts, model.config.vocab_size, model.config.pad_token_id)
        tokenizer, content = trained, trained.backend_tokenizer.to_str()
    drawn = f"{seed} {json.dumps(config.architecture, sort_keys=True)} {content}"
    sha256 = hashlib.sha256(drawn.encode()).hexdigest()
    return model, tokenizer, {"source": f"{RANDOM}{seed}", "revision": None, "sha256": sha256} | given


def build(config: BackboneConfig, task: Task) -> PreTrainedModel:
    """A classifier of the architecture, its weights drawn from torch's generator.

    Raises:
        UserError: there is no architecture, or transformers refuses it.
    """
    if "model_type" not in config.architecture:
        raise UserError(f"backbone '{config.name}' has no architecture in its YAML")
    with refused("backbone.architecture builds no classifier"):
        architecture = AutoConfig.for_model(**config.architecture | task_settings(task))
        return AutoModelForSequenceClassification.from_config(architecture, dtype=torch.float32)


def require_memory(config: BackboneConfig, task: Task) -> None:
    """Raises a UserError for an architecture whose weights alone are more than the machine's memory."""
    with torch.device("meta"):
        needed = sum(4 * parameter.numel() for parameter in build(config, task).parameters())
    if needed > (there := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise UserError(f"backbone.architecture takes {needed / 1e9:.3g} GB; this machine has {there / 1e9:.3g}")


def train_tokenizer(texts: Iterable[tuple[str, ...]], vocabulary: int, pad_id: int) -> PreTrainedTokenizerFast:
    """RoBERTa's kind of tokenizer, byte-level BPE, fitted to `texts`: lengths near a real one's, with no download."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<unk>", "<mask>"]
    special.insert(pad_id, "<pad>")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((part for text in texts for part in text), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", special.index("</s>")), ("<s>", special.index("<s>"))
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
    )
