"""Tokens that no record, message or log of ours may show."""

import os
from collections.abc import Iterator

VARIABLES = ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def secrets() -> Iterator[tuple[str, str]]:
    """The environment's, by variable."""
    return ((name, os.environ[name]) for name in VARIABLES if os.environ.get(name))


def redacted(text: str) -> str:
    """`text` with the name of the variable wherever a secret stood."""
    for name, secret in secrets():
        text = text.replace(secret, f"<{name}>")
    return text
