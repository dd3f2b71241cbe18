"""Writing so that a reader never meets half a file."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.errors import UserError

LOCK = ".lock"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a file beside `path`, makes sure that it is on the disk, and puts it in place.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        _discard(unfinished)
        raise UserError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    except BaseException:  # Ctrl-C, too, leaves no rest behind
        _discard(unfinished)
        raise


def _discard(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Indented, and strict: a NaN is an error, not a word that other readers refuse."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """A safetensors file; nothing is ever pickled."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda file: save_file(contiguous, file, header))


def metadata(value: Any) -> dict[str, str]:
    """JSON for a safetensors header: under one key, as the format keeps several in no order, and equal runs equal files."""
    return {"json": json.dumps(value, sort_keys=True)}


def read_metadata(path: Path) -> Any:
    """What `metadata` put into a file's header.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["json"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it to start anew") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it to start anew") from error


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within, the folder is this process's alone; another that wants it waits. A killed process lets go of it.

    Raises:
        UserError: the folder cannot be made.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        print(f"another process trains {folder}: waiting for it", flush=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder now."""
    lock = FileLock(folder / LOCK)
    if not (folder / LOCK).exists():
        return False
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def empty(folder: Path) -> None:
    """Removes all that is in the folder but its lock, which this process holds."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def require_writable(folder: Path) -> None:
    """Raises a UserError, before any work, if nothing can be written where `folder` will be."""
    nearest = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"output_dir: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"output_dir: {nearest} cannot be written to; choose another with output_dir=DIR")
