"""A run's folder after a fault: whether the run can go on in it, and what has to go first."""

from pathlib import Path

from training import checkpoint
from training.errors import Damaged
from training.files import read_tensors, set_aside
from training.loop import BEST, PREDICTIONS
from training.record import NAME, parse

READERS = {NAME: parse, BEST: read_tensors, checkpoint.NAME: read_tensors}


def can_go_on(folder: Path) -> bool:
    """Whether the folder holds a checkpoint, and the best state so far, which that counts on; both as they were written."""
    whole = (folder / checkpoint.NAME).exists() and not damage(folder, checkpoint.NAME) and not damage(folder, BEST)
    return whole and has_best(folder)


def has_best(folder: Path) -> bool:
    """Whether the best state and its predictions are there, if the checkpoint has an evaluation behind it."""
    evaluated = checkpoint.read_progress(folder)["history"]
    return not evaluated or all((folder / name).exists() for name in (BEST, PREDICTIONS))


def mend(folder: Path) -> None:
    """Sets aside what is damaged, and a checkpoint that there is no going on from: the run starts anew."""
    for name in READERS:
        if why := damage(folder, name):
            set_aside(folder / name, why)
    if (folder / checkpoint.NAME).exists() and not has_best(folder):
        set_aside(folder / checkpoint.NAME, f"{folder} has lost the best state or its predictions")


def damage(folder: Path, name: str) -> str | None:
    """What is wrong with a file; None with a whole one, or none."""
    try:
        if (folder / name).exists():
            READERS[name](folder / name)
    except Damaged as error:
        return str(error)
    return None
