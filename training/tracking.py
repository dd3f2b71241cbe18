"""What a run sends to a tracker, the settings of curves, and the upload of W&B's offline curves."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core.checks import check, one_of


@dataclass
class LoggerConfig:
    """Settings of the curves: W&B online (offline without a key), W&B offline, a CSV file, or none."""

    name: Annotated[str, one_of("wandb", "offline", "csv", "none")] = "wandb"
    project: str = "peft-glue"
    entity: str | None = None

    def __post_init__(self) -> None:
        check(self, "logger.")


class Tracker:
    """Ignores the curves: for `logger=none`, and for every process except the first."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Logs values at an optimizer step."""

    def finish(self, record: dict[str, Any]) -> None:
        """Ends the curves with the record's summary."""


def offline_parts(folder: Path) -> list[Path]:
    """What W&B wrote offline in a run's folder and has not uploaded: a folder for each process that trained the run."""
    return [part for part in sorted(folder.glob("wandb/offline-run-*")) if not list(part.glob("*.synced"))]


def sync_command(folder: Path, runs: str = ".") -> str:
    """The command that uploads what W&B wrote offline.

    Args:
        runs: a pattern for the runs' folders below `folder`.
    """
    return f"wandb sync {shlex.quote(str(folder))}/{'' if runs == '.' else runs + '/'}wandb/offline-run-*"


def upload_line(folder: Path) -> str | None:
    """The command that uploads a sweep's offline curves, if there are any."""
    has_parts = any(offline_parts(run) for run in folder.glob("*"))
    return f"W&B's offline curves; to upload: {sync_command(folder, '*')}" if has_parts else None
