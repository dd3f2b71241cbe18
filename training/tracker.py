"""Curves to Weights & Biases: online with a key, offline without one, never a question and never a wait."""

import hashlib
import os
from pathlib import Path
from typing import Any

from training.config import RunConfig, to_dict

START_TIMEOUT = 10  # seconds


class Tracker:
    """Takes the curves and keeps none: `logger=none`, and every process but the first."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Notes values at an optimizer step."""

    def finish(self, record: dict[str, Any]) -> None:
        """Ends the curves with the record's summary."""


class WandbTracker(Tracker):
    """One W&B run, of the group that the experiment names."""

    def __init__(self, run: RunConfig, folder: Path):
        import wandb

        allowed = run.logger.name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online"
        online = allowed and _has_key()
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "project": run.logger.project,
            "entity": run.logger.entity,
            "group": run.experiment,
            "name": folder.name,
            "id": f"{run.hash[:8]}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}",
            "resume": "allow" if online else None,
            "dir": folder,
            "config": to_dict(run),
            "settings": wandb.Settings(silent=True, console="off", init_timeout=START_TIMEOUT, disable_git=True),
        }
        try:
            self.run = wandb.init(mode="online" if online else "offline", **options)
        except wandb.errors.Error as error:
            print(f"W&B cannot be reached ({str(error).splitlines()[0]}); logging offline")
            options |= {"id": options["id"] + "-offline", "resume": None}  # the failed start holds on to the id
            self.run = wandb.init(mode="offline", **options)
            online = False
        if not online:
            print(f"W&B logs offline; to upload: wandb sync {Path(self.run.dir).parent}")

    def log(self, values: dict[str, Any], step: int) -> None:
        self.run.log({key: value for key, value in values.items() if value is not None}, step=step)

    def finish(self, record: dict[str, Any]) -> None:
        for key in ("status", "metric", "best", "last", "parameters", "speed", "memory"):
            self.run.summary[key] = record[key]
        self.run.finish(exit_code=0 if record["status"] == "complete" else 1)


def make_tracker(run: RunConfig, folder: Path, is_main: bool) -> Tracker:
    """The tracker that the settings name; only the first process logs."""
    return Tracker() if run.logger.name == "none" or not is_main else WandbTracker(run, folder)


def _has_key() -> bool:
    """Whether W&B could log in without asking: a key in the environment or in netrc."""
    import requests

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY")) or requests.utils.get_netrc_auth(host) is not None
