"""The tokenizer that `backbone.tokenizer` names: real lengths on random weights, or for a checkpoint that has none."""

import hashlib
import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from core.errors import UserError, no_folder, refused
from core.hub import missing, snapshot
from models.settings import BackboneConfig

FILES = ["*.json", "*.txt", "*.model"]
REQUIRED = ["tokenizer*"]
VOCABULARIES = ["tokenizer.json", "vocab.*", "*.model"]


def load_tokenizer(config: BackboneConfig, model: PreTrainedModel) -> tuple[PreTrainedTokenizerBase, str]:
    """The tokenizer and a sha256 of its content.

    Args:
        model: its configuration says what the files mean where the folder has no config.json.

    Raises:
        UserError: the folder is missing or holds no tokenizer.
    """
    folder = find_tokenizer(config)
    own = None if (folder / "config.json").exists() else model.config
    if missing(folder, VOCABULARIES) == VOCABULARIES:
        raise UserError(
            f"backbone.tokenizer: {folder} holds no tokenizer: it has no file like {', '.join(VOCABULARIES)}"
        )
    with refused(f"backbone.tokenizer: {folder} gives no tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, config=own, split_special_tokens=True)  # "</s>" is text
    names = ["tokenizer.json", *filter(None, [tokenizer.vocab_files_names.get("vocab_file")])]
    if missing(folder, names) == names:  # transformers then makes one of special tokens alone
        raise UserError(
            f"backbone.tokenizer: {folder} holds no tokenizer for {config.name}, which needs {' or '.join(names)}"
        )
    return tokenizer, _digest(tokenizer, folder)


def find_tokenizer(config: BackboneConfig) -> Path:
    """The folder with the tokenizer, which is downloaded if it is not there."""
    name = config.tokenizer or ""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")):
        raise UserError(f"backbone.tokenizer: {no_folder(folder)}; name one with a tokenizer, or one of the hub's")
    revision = config.revision if name == config.source else None  # the one that scripts/download.py fetches
    return snapshot(name, revision, "model", FILES, REQUIRED)


def _digest(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    """sha256 of what shapes a text's tokens; not of the files, which may hold the same tokenizer in several forms."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"backbone.tokenizer: {folder} gives a {type(tokenizer).__name__}, which is Python code alone: "
            "give one that has a tokenizer.json, or that transformers converts to one"
        )
    names = ("special_tokens_map", "model_input_names", "truncation_side", "pad_token_type_id")
    settings = json.dumps({name: getattr(tokenizer, name) for name in names}, sort_keys=True, default=str)
    content = json.loads(backend.to_str()) | {
        "truncation": None,
        "padding": None,
    }  # left from its last call before it was saved, for example
    return hashlib.sha256(f"{json.dumps(content)} {settings}".encode()).hexdigest()
