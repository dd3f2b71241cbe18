"""Curves: to Weights & Biases, to a CSV file, or nowhere."""

from pathlib import Path
from typing import Any

from core.io import write_text
from training.tracking import LoggerConfig, Tracker


class CsvTracker(Tracker):
    """`curves.csv` in the run's folder: a line `step,name,value` for each number. A resumed run continues the file."""

    def __init__(self, folder: Path):
        self.file, self.is_open = folder / "curves.csv", False

    def log(self, values: dict[str, Any], step: int) -> None:
        if not self.is_open:
            self._drop_from(step)
        lines = [f"{step},{name},{shown(value)}\n" for name, value in values.items() if value is not None]
        with self.file.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def _drop_from(self, step: int) -> None:
        """Starts the file, or removes what an earlier process wrote after the checkpoint that this one resumes from."""
        there = self.file.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if self.file.exists() else []
        kept = [line for line in there if line.endswith("\n") and int(line.partition(",")[0]) < step]
        write_text(self.file, "".join(["step,name,value\n", *kept]))
        self.is_open = True


def make_tracker(settings: LoggerConfig, folder: Path, record: dict[str, Any]) -> Tracker:
    """The tracker that the settings name.

    Args:
        folder: the run's; it holds W&B's files and names W&B's run.
        record: what is known about the run when it begins.
    """
    if settings.name == "none":
        return Tracker()
    if settings.name == "csv":
        return CsvTracker(folder)
    from training.wandb_tracker import WandbTracker  # loads what only W&B needs

    return WandbTracker(settings, folder, record)


def shown(value: float) -> str:
    """A whole number in full, such as bytes; another one to six digits."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
