"""The errors that a run can end with, and how a user's mistake becomes one sentence."""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from core.redact import redacted


class UserError(Exception):
    """A mistake in what the user gave: its message is one sentence that names the thing and the way out."""


class Damaged(UserError):
    """A file is not what was written: cut short, or changed."""


class Diverged(Exception):
    """The loss or the logits are no longer finite, or far above where they began."""


class Interrupted(KeyboardInterrupt):
    """Somebody asked the run to stop; its checkpoint is written. It ends a whole sweep, as Ctrl-C does."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown task 'colla'; there are: cola, mnli, ...; did you mean cola?`"""
    known = sorted(known)
    close = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    return f"unknown {kind} '{name}'; there are: {', '.join(known) or 'none'}" + (
        f"; did you mean {close[0]}?" if close else ""
    )


def sentence(error: Exception) -> str:
    """One line for an error of ours, of Hydra's or of OmegaConf's; the last two spread theirs over many."""
    if isinstance(error, MissingConfigException) and "/" in (error.missing_cfg_file or ""):
        kind, _, name = error.missing_cfg_file.partition("/")
        return unknown(kind, name, error.options or [])
    if not isinstance(error, UserError) and isinstance(error.__cause__, UserError):  # Hydra wraps those within it
        return str(error.__cause__)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = getattr(cause, "full_key", None)
    lines = [line.strip() for line in str(cause).splitlines() if not re.match(r"\s*(full_key|\w+_type)\W", line)]
    text = "; ".join(line for line in lines if line)
    if missing := re.match(r"Key '(.+?)' (is )?not in", text):
        return unknown("setting", key or missing[1], [str(name) for name in cause.parent_node or []])
    return f"{key}: {text}" if key and "Could not override" not in text else text


@contextmanager
def composing() -> Iterator[None]:
    """Around what reads words and YAML: where Hydra has no error of its own, another library's leaves as a UserError."""
    try:
        yield
    except RecursionError as error:
        raise UserError("the settings include themselves, or are nested too deeply") from error
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"the settings cannot be read: {sentence(error)}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether the machine or its GPU has no memory left; on a CPU torch has no class of its own for that."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", str(error)) is not None
    )


def complain(text: str) -> None:
    """To the error stream, by the first process only; under `accelerate launch` all of them meet the same mistake."""
    if os.environ.get("RANK", "0") == "0":
        print(redacted(text), file=sys.stderr, flush=True)


USER_ERRORS = (UserError, HydraException, OmegaConfBaseException)
