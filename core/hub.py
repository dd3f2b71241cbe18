"""Files of the Hugging Face hub at a pinned revision: from the cache, or else from the network."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from core.errors import UserError

WAY_OUT = (
    "run scripts/download.py where there is a network, or use profile=offline (no download at all), "
    "the encoder of a Python package (backbone=minilm), or local folders (data=local data.path=DIR, "
    "backbone=custom backbone.source=DIR)"
)
SHARD = re.compile(r"(?P<table>.+)-(?P<number>\d+)-of-(?P<total>\d+)(-[0-9a-f]+)?(?P<suffix>\.\w+)")  # some have a hash


def snapshot(repository: str, revision: str | None, kind: str, wanted: list[str], required: list[str]) -> Path:
    """A folder with a repository's files.

    Args:
        kind: `model` or `dataset`.
        wanted: patterns of the files to have.
        required: patterns that must each match a file; if the cache has them all, with every shard, the hub is not asked.

    Raises:
        UserError: the hub is out of reach, or has no such repository, revision or file.
    """
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # of its retries; our sentence at the end is enough

    def fetch(local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                repository,
                repo_type=kind,
                revision=revision,
                allow_patterns=wanted,
                local_files_only=local_files_only,
            )
        )

    try:
        folder = fetch(local_files_only=True)
        there = [file for pattern in required for file in folder.glob(pattern)]
        if not missing(folder, required) and not absent_shards(there):
            return folder
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise UserError(f"'{repository}' is neither a folder nor the name of a {kind} on the hub") from error
    _assert_in_reach(repository)
    try:
        folder = fetch(local_files_only=False)
    except (OSError, httpx2.HTTPError) as error:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        reason = (str(cause) or type(cause).__name__).splitlines()[0]
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in (401, 403, 404):
            raise UserError(
                f"the hub has no {kind} '{repository}' at revision {revision} for you ({status}): check the name"
            ) from error
        raise UserError(
            f"{kind} '{repository}' could not be downloaded ({reason}): "
            f"try again, which continues the download, or {WAY_OUT}"
        ) from error
    if lacking := missing(folder, required):
        raise UserError(f"{kind} '{repository}' at revision {revision} has no file like {lacking[0]}")
    return folder


def checksum(file: Path) -> str:
    """sha256 of a file.

    Raises:
        UserError: the file is in the hub's cache, which names it by its checksum, and its content does not match.
    """
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    blob = file.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and blob.name != found:
        raise UserError(f"{blob} is not what the hub sent out, or was changed since: remove it, and try again")
    return found


def missing(folder: Path, required: list[str]) -> list[str]:
    """The patterns that match no file of the folder."""
    return [pattern for pattern in required if not any(folder.glob(pattern))]


def absent_shards(files: Iterable[Path]) -> list[str]:
    """The shards missing from these files' tables: a name tells how many there are (`train-00000-of-00002.parquet`)."""
    numbers = defaultdict(set)
    for match in filter(None, (SHARD.fullmatch(file.name) for file in files)):
        numbers[match["table"], match["total"], match["suffix"]].add(int(match["number"]))
    absent = []
    for (table, total, suffix), found in numbers.items():
        first = int(int(total) in found)  # tables count their shards from 0, models from 1
        wanted = range(first, first + int(total))
        absent += [f"{table}-{number:05}-of-{total}{suffix}" for number in wanted if number not in found]
    return absent


def _assert_in_reach(repository: str) -> None:
    """Asks the hub once, with a short timeout: the library would ask six times in half a minute before it gives up."""
    import httpx2
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"'{repository}' is not in the cache, and HF_HUB_OFFLINE forbids asking the hub: {WAY_OUT}")
    try:
        answer = httpx2.head(constants.ENDPOINT, timeout=float(os.environ.get("HF_HUB_ETAG_TIMEOUT", 5)))
    except httpx2.HTTPError as error:
        raise UserError(
            f"'{repository}' is not in the cache, and {constants.ENDPOINT} is out of reach: {WAY_OUT}"
        ) from error
    if answer.status_code == 429 or answer.status_code >= 500:
        raise UserError(
            f"{constants.ENDPOINT} is there, but answers {answer.status_code}: try again later, or {WAY_OUT}"
        )
