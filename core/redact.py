"""Keeps secret tokens out of records, messages and logs."""

import os
from collections.abc import Iterator

VARIABLES = ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def secrets() -> Iterator[tuple[str, str]]:
    """The environment's secret values, by variable."""
    return ((name, os.environ[name]) for name in VARIABLES if os.environ.get(name))


def redacted(text: str) -> str:
    """`text` with each secret replaced by its variable's name."""
    for name, secret in secrets():
        text = text.replace(secret, f"<{name}>")
    return text
