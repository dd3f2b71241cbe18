"""The pretrained encoder and its tokenizer: from the hub, a folder or a Python package, or with random weights."""

import hashlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from core.console import log
from core.errors import UserError, no_folder, refused
from core.hub import checksum, missing, snapshot
from core.seeding import seeded
from methods.base import head_prefixes
from models.batches import Encoded, collate, encode
from models.random_init import Provenance, draw, task_settings
from models.settings import BackboneConfig
from models.tokenizer import VOCABULARIES, load_tokenizer
from tasks.glue import Task
from tasks.loading import Split

transformers.utils.logging.set_verbosity_error()  # its report of a fresh head is checked below, not printed
transformers.utils.logging.disable_progress_bar()

PADDING = 1e-3  # how much padding may change a logit, relative to the largest one
TRIED = 512  # most tokens of a text that a backbone is tried on
UNBOUNDED = 2**20  # tokens, where positions are relative
FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
REQUIRED = ["config.json", "*.safetensors"]
# what a checkpoint's configuration must not decide: the form of the output, and a way to save memory
PLAIN = {"return_dict": True, "output_attentions": False, "output_hidden_states": False, "chunk_size_feed_forward": 0}


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

    def require_length(self, tokens: int, taken: int = 0) -> None:
        """Raises a UserError if the encoder does not take that many tokens.

        Args:
            taken: positions that the method takes from a text.
        """
        if tokens > (most := self.max_length - taken):
            beside = f" beside the method's {taken}" if taken else ""
            raise UserError(f"task.max_length is {tokens}; {self.name} takes at most {most}{beside}")


def max_length(model: PreTrainedModel) -> int:
    """The most tokens that an input may have. RoBERTa's positions start after its padding id: two fewer than rows."""
    rows = getattr(model.config, "max_position_embeddings", None)
    if rows is None or rows < 0:  # T5, BLOOM; XLNet says -1
        return UNBOUNDED
    padding_id = position_padding(model)
    return rows if padding_id is None else rows - padding_id - 1


def position_padding(model: PreTrainedModel) -> int | None:
    """The id that RoBERTa and its variants skip when they count positions; None for other encoders."""
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    return getattr(positions, "padding_idx", None)


def load_backbone(config: BackboneConfig, task: Task, seed: int, texts: Iterable[tuple[str, ...]]) -> Backbone:
    """The encoder with a fresh head, drawn from the seed's own stream.

    Args:
        texts: the training set's; with `random_init` the tokenizer is trained on them, unless one is given.

    Raises:
        UserError: the files are missing, hold no encoder, or differ from the checksum in the settings.
    """
    model, tokenizer, provenance = draw(config, task, seed, texts) if config.random_init else _load(config, task, seed)
    if tokenizer.pad_token_id is None:
        raise UserError(f"backbone {config.name}: its tokenizer has no padding token: give it one, and save it again")
    tokenizer.padding_side = "right"  # as in training; it is exported beside the weights
    if takes_mask(model):  # without it padding would count as text
        tokenizer.model_input_names = list(dict.fromkeys([*tokenizer.model_input_names, "attention_mask"]))
    padding_id = position_padding(model)
    if padding_id is None:  # GPT-2 finds a text's last token by it
        model.config.pad_token_id = tokenizer.pad_token_id
    elif config.tokenizer and padding_id != tokenizer.pad_token_id:  # a checkpoint's own may differ, and works
        raise UserError(
            f"backbone.tokenizer: its padding id is {tokenizer.pad_token_id}, {config.name} counts positions by "
            f"pad_token_id {padding_id}: give a tokenizer of this encoder"
        )
    rows = getattr(model.config.get_text_config(), "vocab_size", None)  # CANINE has none
    if rows and (ids := 1 + max(tokenizer.get_vocab().values())) > rows:
        raise UserError(
            f"backbone {config.name}: its tokenizer gives ids below {ids}, its embedding has {rows} rows: "
            "give backbone.tokenizer=FOLDER with a tokenizer of this encoder"
        )
    backbone = Backbone(config.name, model, tokenizer, provenance)
    with refused(f"backbone {config.name} takes no text"):
        try_out(backbone, task)
    return backbone


def samples(tokenizer: PreTrainedTokenizerBase, task: Task, max_length: int) -> Encoded:
    """Two texts of the task's form to try a model on, the second one longer."""
    texts = [(text,) * len(task.columns) for text in ("a", "a text of a few more words")]
    return encode(Split("a text to try", texts, [0, 0], [0, 1]), tokenizer, min(max_length, TRIED))


@torch.no_grad()
def try_out(backbone: Backbone, task: Task) -> None:
    """Runs two texts through tokenizer and model, together and alone.

    Raises:
        UserError: the logits are not one row of finite numbers per text, or they depend on the padding beside it.
    """
    model, data = backbone.model.eval(), samples(backbone.tokenizer, task, backbone.max_length)
    types = [number for row in data.inputs.get("token_type_ids", []) for number in row]
    known = getattr(model.config, "type_vocab_size", None)
    if known and types and max(types) >= known:
        raise UserError(
            f"the tokenizer uses token types 0 to {max(types)}, the encoder knows {known}: "
            "take token_type_ids out of model_input_names in tokenizer_config.json"
        )
    together, depends = beside_padding(model, data, PADDING)
    if together.shape != (2, task.outputs):
        raise UserError(f"the backbone's logits have shape {tuple(together.shape)}, not {(2, task.outputs)}")
    if not together.isfinite().all():
        raise UserError("the backbone's logits are not finite: its weights are damaged")
    if not depends:
        return
    if takes_mask(model):
        raise UserError(
            "a text's logits depend on the padding beside it: either the encoder ignores its attention mask, as ConvBERT and "
            "Nyströmformer do, or the tokenizer is another encoder's"
        )
    log.warning(f"backbone {backbone.name} takes no attention mask: a text's logits depend on the padding beside it")


@torch.no_grad()
def beside_padding(model: PreTrainedModel, data: Encoded, part: float) -> tuple[Tensor, bool]:
    """The logits of two texts in one batch, (2, outputs), and whether each text alone gets others.

    Args:
        part: what may change, as a part of the largest logit.
    """
    device = next(model.parameters()).device
    together, *alone = (model(**collate(data, rows).to(device).inputs).logits.float() for rows in ([0, 1], [0], [1]))
    if any(row.shape != together[:1].shape for row in alone):
        return together, True
    return together, not torch.allclose(together, torch.cat(alone), rtol=part, atol=part * float(together.abs().max()))


def takes_mask(model: PreTrainedModel) -> bool:
    """Whether the encoder can tell padding from text. FNet cannot."""
    return "attention_mask" in signature(model.forward).parameters


def find(config: BackboneConfig) -> Path:
    """The folder with the checkpoint, which is downloaded if it is not there."""
    source = config.source or ""
    required = REQUIRED if config.tokenizer else [*REQUIRED, "tokenizer*"]  # which all of the hub's have
    if source.startswith("package:"):
        return _package_folder(source.removeprefix("package:"))
    folder = Path(source).expanduser()
    if folder.is_dir():
        if lacking := missing(folder, REQUIRED):
            raise UserError(f"backbone.source: {folder} has no file like {lacking[0]}")
        files = ["tokenizer*", *VOCABULARIES]  # ByT5 has no vocabulary, RoBERTa's own form nothing else
        if not config.tokenizer and missing(folder, files) == files:
            raise UserError(
                f"backbone.source: {folder} has no tokenizer, no file like {', '.join(files)}: give backbone.tokenizer=FOLDER"
            )
        return folder
    if source.startswith((".", "/", "~")):
        raise UserError(f"backbone.source: {no_folder(folder)}")
    return snapshot(source, config.revision, "model", FILES, required)


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
    revision = folder.name if folder.parent.name == "snapshots" else None
    provenance = {"source": config.source, "revision": revision, "sha256": sha256}
    if config.tokenizer:
        tokenizer, content = load_tokenizer(config, model)
        return model, tokenizer, provenance | {"tokenizer": content}
    with refused(f"backbone.source: {folder} gives no tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)  # "</s>" in a text is text
    return model, tokenizer, provenance


def _checksum(folder: Path) -> str:
    """sha256 of `model.safetensors`; of the files' digests where the weights are in several files."""
    digests = [checksum(file) for file in sorted(folder.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _pretrained(folder: Path, task: Task, seed: int) -> PreTrainedModel:
    """Loads the encoder, draws the head, and checks that nothing else was drawn."""
    with refused(f"backbone.source: {folder} does not load"):
        config = AutoConfig.from_pretrained(folder, **task_settings(task))
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"backbone.source: the weights in {folder} are quantized: give full ones; method=qlora quantizes them itself"
        )
    for key, value in PLAIN.items():
        setattr(config, key, value)
    with refused(f"backbone.source: {folder} does not load"), seeded(seed, "head"):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # a checkpoint with another task's head: its head is drawn again
        )
    head = head_prefixes(model)
    for key, there, expected in report["mismatched_keys"]:
        if not key.startswith(head):
            raise UserError(
                f"backbone.source: {key} in {folder} has shape {tuple(there)}, by config.json it has {tuple(expected)}"
            )
    if lost := sorted(key for key in report["missing_keys"] if not key.startswith(head)):
        raise UserError(f"backbone.source: {folder} lacks {len(lost)} of the encoder's weights, {lost[0]} among them")
    own_head = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    if not own_head <= {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}:
        draw_head(model, seed)
    return model


def draw_head(model: PreTrainedModel, seed: int) -> None:
    """Redraws a head that came with the checkpoint: the same bits as on a checkpoint without a head.

    BERT's pooler stays: it belongs to the pretrained encoder.
    """
    encoder = f"{model.base_model_prefix}."
    modules = [module for name, module in model.named_modules() if not f"{name}.".startswith(encoder)]
    parameters = [parameter for name, parameter in model.named_parameters() if not name.startswith(encoder)]
    for part in (*modules, *parameters):  # the whole model among them: ModernBERT draws its classifier there
        vars(part).pop("_is_hf_initialized", None)  # transformers' mark of what needs no drawing
    with seeded(seed, "head"):
        model.initialize_weights()
