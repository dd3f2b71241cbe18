"""The pretrained encoder and its tokenizer: from the hub, a folder, a Python package, or with random weights."""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from core.errors import UserError
from core.hub import checksum, missing, snapshot
from core.seeding import seeded
from methods.base import head_prefixes
from models.batches import collate, encode
from models.settings import BackboneConfig
from tasks.glue import Task
from tasks.loading import Split

transformers.utils.logging.set_verbosity_error()  # its report of a fresh head is checked below, not printed
transformers.utils.logging.disable_progress_bar()

FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
REQUIRED = ["config.json", "*.safetensors", "tokenizer*"]


@dataclass(frozen=True)
class Backbone:
    """A classifier on an encoder, its tokenizer, and where its weights come from; `name` as in the settings."""

    name: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerFast
    provenance: dict[str, str | None]

    @property
    def max_length(self) -> int:
        """Of an input, in tokens."""
        return max_length(self.model)

    def require_length(self, tokens: int) -> None:
        """Raises a UserError if the encoder takes no input of so many tokens."""
        if tokens > self.max_length:
            raise UserError(f"task.max_length is {tokens}; {self.name} takes at most {self.max_length}")


def max_length(model: nn.Module) -> int:
    """Of an input, in tokens. RoBERTa's positions start behind its padding id, so it has two fewer than rows."""
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    offset = 0 if positions is None or positions.padding_idx is None else positions.padding_idx + 1
    return model.config.max_position_embeddings - offset


def load_backbone(config: BackboneConfig, task: Task, seed: int, texts: Iterable[tuple[str, ...]]) -> Backbone:
    """The encoder with a fresh head, drawn from the seed's own stream.

    Args:
        texts: the training set's; a backbone at random trains its tokenizer on them.

    Raises:
        UserError: the files are not there, not a classifier's encoder, or not those that the checksum names.
    """
    if config.random_init:
        require_memory(config, task.outputs)
        with seeded(seed, "backbone"):
            model = build(config, task.outputs)
        with refused("backbone.architecture suits no tokenizer"):
            tokenizer = train_tokenizer(texts, model.config.vocab_size, model.config.pad_token_id)
        drawn = json.dumps(config.architecture, sort_keys=True) + tokenizer.backend_tokenizer.to_str()
        sha256 = hashlib.sha256(drawn.encode()).hexdigest()  # with the seed, all that such a backbone comes from
        provenance = {"source": f"random, seed {seed}", "revision": None, "sha256": sha256}
    else:
        folder = find(config)
        sha256 = _checksum(folder)
        if config.sha256 and sha256 != config.sha256:
            raise UserError(
                f"the weights in {folder} have sha256 {sha256}, not {config.sha256}: it is damaged or another model"
            )
        model = _pretrained(folder, task, seed)
        with refused(f"backbone.source: {folder} gives no tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder)
        revision = folder.name if folder.parent.name == "snapshots" else None
        provenance = {"source": config.source, "revision": revision, "sha256": sha256}
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(
            f"backbone {config.name}: its tokenizer knows {len(tokenizer)} tokens, its embedding {model.config.vocab_size}"
        )
    backbone = Backbone(config.name, model, tokenizer, provenance)
    with refused(f"backbone {config.name} takes no text"):
        try_out(backbone, task)
    return backbone


def build(config: BackboneConfig, outputs: int) -> nn.Module:
    """A classifier of the architecture, its weights drawn from torch's generator.

    Raises:
        UserError: there is no architecture, or transformers refuses it.
    """
    if "model_type" not in config.architecture:
        raise UserError(f"backbone '{config.name}' has no architecture in its YAML")
    with refused("backbone.architecture builds no classifier"):
        architecture = AutoConfig.for_model(**config.architecture, num_labels=outputs)
        return AutoModelForSequenceClassification.from_config(architecture, dtype=torch.float32)


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turns the many errors that other libraries raise on a user's settings and files into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tokenizers has no other
        first_sentence = " ".join(str(error).split()).partition(". ")[0]
        raise UserError(f"{what}: {first_sentence or type(error).__name__}") from error


def require_memory(config: BackboneConfig, outputs: int) -> None:
    """Raises a UserError for an architecture whose weights alone are more than the machine's memory."""
    with torch.device("meta"):
        needed = sum(4 * parameter.numel() for parameter in build(config, outputs).parameters())
    if needed > (there := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise UserError(f"backbone.architecture takes {needed / 1e9:.3g} GB; this machine has {there / 1e9:.3g}")


@torch.no_grad()
def try_out(backbone: Backbone, task: Task) -> None:
    """Two examples through tokenizer and model.

    Raises:
        UserError: the logits are not one row of finite numbers an example.
    """
    model, was_training = backbone.model, backbone.model.training
    texts = [(text,) * len(task.columns) for text in ("a", "a longer text")]
    batch = collate(encode(Split("", texts, [0, 0], [0, 1]), backbone.tokenizer, backbone.max_length), [0, 1])
    logits = model.eval()(**batch.inputs).logits
    model.train(was_training)
    if logits.shape != (2, task.outputs):
        raise UserError(f"the backbone's logits have shape {tuple(logits.shape)}, not {(2, task.outputs)}")
    if not logits.isfinite().all():
        raise UserError("the backbone's logits are not finite: its weights are damaged")


def find(config: BackboneConfig) -> Path:
    """The folder with the checkpoint, downloaded if need be."""
    source = config.source
    if source.startswith("package:"):
        return _package_folder(source.removeprefix("package:"))
    folder = Path(source).expanduser()
    if folder.is_dir():
        if lacking := missing(folder, REQUIRED):
            raise UserError(f"backbone.source: {folder} has no file like {lacking[0]}")
        return folder
    if source.startswith((".", "/", "~")):
        raise UserError(f"backbone.source: there is no folder {folder}")
    return snapshot(source, config.revision, "model", FILES, REQUIRED)


def _package_folder(package: str) -> Path:
    """Where an installed package keeps its checkpoint, found without importing it."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"the backbone needs the package {package}: pip install -r requirements-demo.txt") from error
    configs = [file for file in distribution.files or [] if file.match("model/config.json")]
    return Path(distribution.locate_file(configs[0])).parent


def _checksum(folder: Path) -> str:
    """sha256 of `model.safetensors`, or, where the weights lie in several files, of theirs."""
    digests = [checksum(file) for file in sorted(folder.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _pretrained(folder: Path, task: Task, seed: int) -> nn.Module:
    """Loads the encoder, draws the head, and makes sure that nothing but the head was drawn."""
    with refused(f"backbone.source: {folder} does not load"), seeded(seed, "head"):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=task.outputs,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # a checkpoint with another task's head: its head is drawn again
        )
    drawn = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    if lost := [key for key in drawn if not key.startswith(head_prefixes(model))]:
        raise UserError(f"backbone.source: {folder} lacks {len(lost)} of the encoder's weights, {lost[0]} among them")
    return model


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
    )
