"""Curves: to Weights & Biases (online with a key, offline without one, and never a question), or to a CSV file.

W&B cannot stop a run or change its result. A separate thread talks to it; a run waits for that thread for seconds only, at
its start and at its end, and prints one line if something goes wrong.
"""

import hashlib
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from types import SimpleNamespace
from typing import Annotated, Any

import psutil

from core.checks import check, one_of
from core.console import say
from core.io import write_text

START, FINISH, KILLED = 10, 15, 5  # seconds: to reach W&B, to send the last curves, to end a killed service
QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}  # no login line, no telemetry that may hang as well


@dataclass
class LoggerConfig:
    """Settings of the curves: W&B online (offline without a key), W&B offline, a CSV file, or none."""

    name: Annotated[str, one_of("wandb", "offline", "csv", "none")] = "wandb"
    project: str = "peft-glue"
    entity: str | None = None

    def __post_init__(self) -> None:
        check(self, "logger.")


class Tracker:
    """Ignores the curves: for `logger=none`, and for every process but the first."""

    def log(self, values: dict[str, Any], step: int) -> None:
        """Logs values at an optimizer step."""

    def finish(self, record: dict[str, Any]) -> None:
        """Ends the curves with the record's summary."""


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


class WandbTracker(Tracker):
    """One W&B run, in the group of its experiment."""

    def __init__(self, settings: LoggerConfig, folder: Path, group: str, config: dict[str, Any], config_hash: str):
        self.calls: SimpleQueue = SimpleQueue()
        self.started = Event()
        self.upload = ""  # how, once there is something to upload
        self.has_given_up = False
        method, task, backbone = (config[part]["name"] for part in ("method", "task", "backbone"))
        about = {"group": group, "job_type": method, "name": folder.name, "dir": folder, "notes": config.get("note")}
        about |= {"config": config | {"config_hash": config_hash}}
        about |= {"tags": [*config.get("tags", ()), task, backbone, f"seed{config['seed']}"]}
        place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
        self.thread = Thread(target=self._work, args=(settings, f"{config_hash[:8]}-{place}", about), daemon=True)
        self.thread.start()
        self.started.wait(3 * START)  # for its service, for the server, and for the start offline

    def log(self, values: dict[str, Any], step: int) -> None:
        self.calls.put(lambda: self.run.log({k: v for k, v in values.items() if v is not None}, step=step))

    def finish(self, record: dict[str, Any]) -> None:
        self.calls.put(lambda: self._finish(record))
        self.calls.put(None)
        self.thread.join(FINISH + KILLED)
        if self.thread.is_alive():
            self._give_up("it does not answer")
            _kill_service()  # every call that waits for it fails
            self.thread.join(KILLED)

    def _work(self, logger: LoggerConfig, run_id: str, about: dict[str, Any]) -> None:
        """Starts a W&B run and makes the queued calls in order, until the last one or until one fails."""
        try:
            self._start(logger, run_id, about)
            self.started.set()
            while call := self.calls.get():
                call()
        except Exception as error:  # whatever W&B raises, the run continues
            self._give_up(_reason(error))
        finally:
            self.started.set()
            with suppress(Exception, SystemExit):
                _teardown()

    def _hear(self, warning: str) -> None:
        """Reads W&B's warnings: nothing else says that W&B stopped uploading."""
        if "Fatal error" in warning:
            self._give_up("its server refuses the curves")

    def _give_up(self, reason: str) -> None:
        """Warns once that the curves end here."""
        if not self.has_given_up:
            say(f"W&B stopped ({reason}): no more curves; the record holds every evaluation{self.upload}")
        self.has_given_up = True

    def _start(self, logger: LoggerConfig, run_id: str, about: dict[str, Any]) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        import wandb

        logging.raiseExceptions = False  # W&B logs to the same folder: on a full disk, a traceback a line
        allowed = logger.name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online"
        online = allowed and _has_key()
        about["dir"].mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            x_service_wait=START,
            init_timeout=START,
            finish_timeout=FINISH,
            finish_timeout_raises=True,
        )
        options = about | {
            "project": logger.project,
            "entity": logger.entity,
            "id": run_id,
            "resume": "allow" if online else None,
            "settings": settings,
        }
        try:
            self.run = wandb.init(mode="online" if online else "offline", **options)
        except wandb.errors.Error as error:
            say(f"W&B cannot be reached ({_reason(error)}); logging offline")
            options |= {"id": options["id"] + "-offline", "resume": None}  # the failed start holds on to the id
            self.run = wandb.init(mode="offline", **options)
            online = False
        wandb.termsetup(settings, SimpleNamespace(info=_ignore, warning=self._hear, error=_ignore))
        self.upload = f"; to upload: wandb sync {Path(self.run.dir).parent}"
        if not online:
            say(f"W&B logs offline{self.upload}")

    def _finish(self, record: dict[str, Any]) -> None:
        for key in ("status", "metric", "best", "last", "parameters", "speed", "memory"):
            self.run.summary[key] = record[key]
        self.run.finish(exit_code=0 if record["status"] == "complete" else 1)


def make_tracker(settings: LoggerConfig, folder: Path, group: str, config: dict[str, Any], config_hash: str) -> Tracker:
    """The tracker that the settings name.

    Args:
        folder: the run's; it holds W&B's files and names W&B's run.
        group: W&B runs with the same group belong together.
        config, config_hash: the run's settings and their hash, which is W&B's id.
    """
    if settings.name == "none":
        return Tracker()
    return CsvTracker(folder) if settings.name == "csv" else WandbTracker(settings, folder, group, config, config_hash)


def shown(value: float) -> str:
    """A whole number in full, such as bytes; another one to six digits."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def _has_key() -> bool:
    """Whether W&B can log in without asking, by a key in the environment or in netrc."""
    import requests

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY")) or requests.utils.get_netrc_auth(host) is not None


def _teardown() -> None:
    """Ends W&B's service, and removes its exit hook, which would wait for it without limit."""
    import wandb

    wandb.teardown()


def _kill_service() -> None:
    for child in psutil.Process().children():
        if child.name() == "wandb-core":
            child.kill()


def _reason(error: Exception) -> str:
    """The first two lines of an error: in later lines pydantic quotes values, among them the key."""
    return "; ".join(str(error).splitlines()[:2]) or type(error).__name__


def _ignore(text: str) -> None:
    """W&B's own messages."""
