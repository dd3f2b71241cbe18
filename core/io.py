"""Atomic writes, and reads that notice a changed file."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.console import log
from core.errors import Damaged, UserError, reason

CHECKSUM = "sha256"  # the key of a record's or a header's checksum over all else
os.umask(UMASK := os.umask(0))  # there is no other way to ask for it


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write` on a temporary file beside `path`, flushes it to the disk, and renames it to `path`.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(unfinished)
        follow_umask(unfinished)
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
        _settle(path.parent)
    except (OSError, SafetensorError) as error:
        _discard(unfinished)
        raise UserError(f"{path} cannot be written: {_reason(error)}") from error
    except BaseException:  # Ctrl-C, too, leaves no temporary file
        _discard(unfinished)
        raise


def follow_umask(file: Path) -> None:
    """Gives a file the permissions of a new one: safetensors leaves files that only their owner can read."""
    file.chmod(0o666 & ~UMASK)


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    is_above = isinstance(error, FileExistsError | NotADirectoryError)  # where a folder of the path should be
    return f"{error.filename}: {reason(error)}" if is_above else reason(error)


def _discard(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


def _settle(folder: Path) -> None:
    """Flushes a folder's entries to the disk, so that a power failure does not undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Indented JSON. A NaN is an error: other readers would refuse it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """`value`, which must be JSON, with a checksum of itself."""
    rest = json.loads(json.dumps({key: part for key, part in value.items() if key != CHECKSUM}))
    return value | {CHECKSUM: hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Writes a safetensors file with `header` and a checksum of everything in it.

    The header is JSON under one key: safetensors does not keep the order of several, and equal runs leave equal files.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header | {CHECKSUM: tensor_digest(tensors, header)}, sort_keys=True)
    write_atomically(path, lambda file: save_file(tensors, file, {"json": text}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file that `write_tensors` wrote.

    Raises:
        Damaged: it is not as it was written.
    """
    tensors, header = read_foreign_tensors(path)
    if CHECKSUM not in header:
        raise Damaged(f"{path} is damaged: it has no checksum")
    return tensors, header


def read_own_tensors(path: Path, config_hash: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `read_tensors` reads, from a file of the run with these settings.

    Raises:
        Damaged: it is not as it was written, or another run's.
    """
    tensors, header = read_tensors(path)
    if header.get("settings") != config_hash:
        raise Damaged(f"{path} is damaged: it is another run's")
    return tensors, header


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file that `write_tensors` wrote; the rest is not read.

    Raises:
        Damaged: it cannot be read.
    """
    with _open(path) as file:
        return json.loads(file.metadata()["json"])


def read_foreign_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file that others may have written; empty if it is not ours.

    Raises:
        Damaged: it cannot be read.
    """
    with _open(path) as file:
        header = json.loads((file.metadata() or {}).get("json", "{}"))
    return header if isinstance(header, dict) else {}


def read_foreign_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file that others may have written, and the header, empty if it is not ours.

    Raises:
        Damaged: it cannot be read, or it has our checksum and does not match it.
    """
    header, tensors = read_foreign_header(path), read_group(path, "")
    if CHECKSUM in header and header[CHECKSUM] != tensor_digest(tensors, header):
        raise Damaged(f"{path} is damaged: its checksum is of another content")
    return tensors, header


def read_group(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`. Does not read the rest or check the checksum.

    Raises:
        Damaged: they cannot be read.
    """
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118


@contextmanager
def _open(path: Path) -> Iterator[safe_open]:
    """Opens a safetensors file, and raises Damaged for what safetensors cannot read."""
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error


def require_file(path: Path) -> None:
    """Raises Damaged for a folder, and for a pipe, which would block a reader."""
    if not path.is_file():
        raise Damaged(f"{path} is damaged: it is not a file")


def tensor_digest(tensors: dict[str, Tensor], header: dict[str, Any] | None = None) -> str:
    """sha256 over names, types, shapes and bytes of the tensors, and over the rest of the header."""
    rest = {key: part for key, part in (header or {}).items() if key != CHECKSUM}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def quarantine(path: Path, why: str) -> None:
    """Renames a damaged file, so that nothing reads it again, and prints that it did."""
    try:
        os.replace(path, path.with_name(f"{path.name}.damaged"))
    except OSError as error:
        raise UserError(f"{why}; it cannot be quarantined ({error.strerror}): remove it") from error
    log.warning(f"{why}: it is now {path.name}.damaged")


def require_writable(folder: Path) -> None:
    """Raises a UserError, before any work, if `folder` cannot be made and written to."""
    nearest = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"output_dir: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"output_dir: {nearest} cannot be written to; choose another with output_dir=DIR")
