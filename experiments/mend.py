"""A run's folder after a fault: whether the run can go on in it, and what has to go first."""

import hashlib
from pathlib import Path

from core.errors import Damaged
from core.io import read_header, read_own_tensors, read_tensors, set_aside
from experiments.record import NAME, read_own_record
from training import checkpoint
from training.trainer import BEST, PREDICTIONS


def can_go_on(folder: Path, config_hash: str) -> bool:
    """Whether the folder holds a checkpoint, and the best state so far, which that counts on; both as they were written."""
    there = (folder / checkpoint.NAME).exists()
    return there and not any(damages(folder, config_hash).values()) and has_best(folder)


def is_best_whole(folder: Path, config_hash: str) -> bool:
    """Whether the best state is there, as the run with these settings wrote it."""
    return (folder / BEST).exists() and damages(folder, config_hash)[BEST] is None


def has_best(folder: Path) -> bool:
    """Whether best state and predictions are there and belong together, if the checkpoint has an evaluation behind it.

    Those of a later evaluation than the checkpoint's last will be written again.
    """
    progress = checkpoint.read_progress(folder)
    if not progress["history"]:
        return True
    if not ((folder / BEST).exists() and (folder / PREDICTIONS).is_file()):
        return False
    header = read_header(folder / BEST)
    digest = hashlib.sha256((folder / PREDICTIONS).read_bytes()).hexdigest()
    return header["step"] > progress["step"] or header["predictions"] == digest


def mend(folder: Path, config_hash: str) -> None:
    """Sets aside what is damaged, and a checkpoint that there is no going on from: the run starts anew."""
    for name, why in damages(folder, config_hash).items():
        if why:
            set_aside(folder / name, why)
    if (folder / checkpoint.NAME).exists() and not has_best(folder):
        set_aside(
            folder / checkpoint.NAME, f"in {folder} best state and predictions are gone, or do not belong together"
        )


def damages(folder: Path, config_hash: str) -> dict[str, str | None]:
    """What is wrong with each file; None for a whole one, or none."""
    readers = {
        NAME: lambda _: read_own_record(folder, config_hash),
        BEST: lambda file: read_own_tensors(file, config_hash),
        checkpoint.NAME: read_tensors,
    }
    found = dict.fromkeys(readers)
    for name, read in readers.items():
        try:
            if (folder / name).exists():
                read(folder / name)
        except Damaged as error:
            found[name] = str(error)
    return found
