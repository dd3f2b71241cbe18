"""The errors that a run can end with."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException


class UserError(Exception):
    """A mistake in what the user gave: its message is one sentence that names the thing and the way out."""


class Damaged(UserError):
    """A file is not what was written: it was cut short or changed."""


class Diverged(Exception):
    """The loss or the logits are no longer finite, or far above where they began."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and its checkpoint is written. Like Ctrl-C, it ends a whole sweep."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown task 'colla'; there are: cola, mnli, ...; did you mean cola?`"""
    known = sorted(known)
    close = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    return f"unknown {kind} '{name}'; there are: {', '.join(known) or 'none'}" + (
        f"; did you mean {close[0]}?" if close else ""
    )


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turns the errors that other libraries raise on a user's settings and files into a UserError of one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tokenizers has no other
        first_sentence = " ".join(str(error).split()).partition(". ")[0]
        raise UserError(f"{what}: {first_sentence or type(error).__name__}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether the machine or its GPU ran out of memory; on a CPU torch has no error class for that."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", str(error)) is not None
    )


USER_ERRORS = (UserError, HydraException, OmegaConfBaseException)
