"""The pretrained encoder and its tokenizer: from the hub, a folder or a Python package, or with random weights."""

import hashlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from core.errors import UserError, refused
from core.hub import checksum, missing, snapshot
from core.seeding import seeded
from methods.base import head_prefixes
from models.batches import collate, encode
from models.random_init import Provenance, draw
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
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: Provenance

    @property
    def max_length(self) -> int:
        """The most tokens that an input may have."""
        return max_length(self.model)

    def require_length(self, tokens: int) -> None:
        """Raises a UserError if the encoder takes no input of so many tokens."""
        if tokens > self.max_length:
            raise UserError(f"task.max_length is {tokens}; {self.name} takes at most {self.max_length}")


def max_length(model: PreTrainedModel) -> int:
    """The most tokens that an input may have. RoBERTa's positions start after its padding id: two fewer than rows."""
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    offset = 0 if positions is None or positions.padding_idx is None else positions.padding_idx + 1
    return model.config.max_position_embeddings - offset


def load_backbone(config: BackboneConfig, task: Task, seed: int, texts: Iterable[tuple[str, ...]]) -> Backbone:
    """The encoder with a fresh head, drawn from the seed's own stream.

    Args:
        texts: the training set's; with `random_init` the tokenizer is trained on them.

    Raises:
        UserError: the files are missing, hold no encoder, or differ from the checksum in the settings.
    """
    model, tokenizer, provenance = (
        draw(config, task.outputs, seed, texts) if config.random_init else _load(config, task, seed)
    )
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(
            f"backbone {config.name}: its tokenizer knows {len(tokenizer)} tokens, its embedding {model.config.vocab_size}"
        )
    backbone = Backbone(config.name, model, tokenizer, provenance)
    with refused(f"backbone {config.name} takes no text"):
        try_out(backbone, task)
    return backbone


@torch.no_grad()
def try_out(backbone: Backbone, task: Task) -> None:
    """Runs two examples through tokenizer and model.

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
    """The folder with the checkpoint, which is downloaded if it is not there."""
    source = config.source or ""
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
    """The folder with an installed package's checkpoint, found without importing the package."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"the backbone needs the package {package}: pip install -r requirements-demo.txt") from error
    configs = [file for file in distribution.files or [] if file.match("model/config.json")]
    return Path(str(distribution.locate_file(configs[0]))).parent


def _load(config: BackboneConfig, task: Task, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Provenance]:
    """Model and tokenizer from a checkpoint's folder, once its checksum is right."""
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
    return model, tokenizer, {"source": config.source, "revision": revision, "sha256": sha256}


def _checksum(folder: Path) -> str:
    """sha256 of `model.safetensors`; of the files' digests where the weights are in several files."""
    digests = [checksum(file) for file in sorted(folder.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _pretrained(folder: Path, task: Task, seed: int) -> PreTrainedModel:
    """Loads the encoder, draws the head, and checks that nothing else was drawn."""
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
