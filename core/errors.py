"""The errors that a run can end with."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException


class UserError(Exception):
    """A mistake in the user's input: its message is one sentence that names the thing and the way out."""


class Damaged(UserError):
    """A file is not what was written: it was cut short or changed."""


class Diverged(Exception):
    """The loss or the logits are no longer finite, or far above their start."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and its checkpoint is written. Like Ctrl-C, it ends a whole sweep."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown task 'colla'; there are: cola, mnli, ...; did you mean cola?`"""
    known = sorted(known)
    close = difflib.get_close_matches(name.rpartition(".")[2], known, n=1, cutoff=0.65)
    return f"unknown {kind} '{name}'; there are: {', '.join(known) or 'none'}" + (
        f"; did you mean {close[0]}?" if close else ""
    )


def reason(error: OSError) -> str:
    """Why the operating system refused."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file is there, and a folder is needed"
    return error.strerror or str(error)


def no_folder(path: Path) -> str:
    """`there is no folder runs/x`, or that a file is there."""
    return f"{path} is a file, and a folder is needed" if path.is_file() else f"there is no folder {path}"


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


def out_of_memory(error: Exception) -> str | None:
    """The sentence for an error of a machine or a GPU that ran out of memory; None for another error."""
    on_cpu = isinstance(error, RuntimeError) and re.search("out of memory|can't allocate memory", str(error))  # torch's
    if not isinstance(error, MemoryError) and not on_cpu:
        return None
    first_line = str(error).partition("\n")[0]
    return (
        f"out of memory ({first_line}): the same command resumes at the last evaluation once there is more; "
        "trainer.micro_batch_size=N and trainer.eval_batch_size=N take less"
    )


USER_ERRORS = (UserError, HydraException, OmegaConfBaseException)
