"""Curves to Weights & Biases: online with a key, offline without one, and never a question.

W&B cannot stop a run or change its result. A separate thread talks to it; a run waits for that thread for seconds only, at
its start and at its end, and prints one line if something goes wrong.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import psutil

from core.console import say
from tasks.settings import HELD_OUT
from training.tracking import LoggerConfig, Tracker, sync_command

START, FINISH, KILLED = 10, 15, 5  # seconds: to reach W&B, to send the last curves, to end a killed service
QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}  # no login line, no telemetry that may hang as well
SETTINGS = {"silent": True, "console": "off", "disable_git": True}


class WandbTracker(Tracker):
    """One W&B run, in the group of its experiment."""

    def __init__(self, settings: LoggerConfig, folder: Path, record: dict[str, Any]):
        self.calls: SimpleQueue = SimpleQueue()
        self.started = Event()
        self.upload = ""  # how, once there is something to upload
        self.has_given_up = False
        place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
        options = about(record, folder.name) | {"dir": folder, "id": f"{record['config_hash'][:8]}-{place}"}
        self.thread = Thread(target=self._work, args=(settings, options), daemon=True)
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

    def _work(self, logger: LoggerConfig, options: dict[str, Any]) -> None:
        """Starts a W&B run and makes the queued calls in order, until the last one or until one fails."""
        with ended_service():
            try:
                self._start(logger, options)
                self.started.set()
                while call := self.calls.get():
                    call()
            except Exception as error:  # whatever W&B raises, the run continues
                self._give_up(_reason(error))
            finally:
                self.started.set()

    def _hear(self, warning: str) -> None:
        """Reads W&B's warnings: nothing else says that W&B stopped uploading."""
        if "Fatal error" in warning:
            self._give_up("its server refuses the curves")

    def _give_up(self, reason: str) -> None:
        """Warns once that the curves end here."""
        if not self.has_given_up:
            say(f"W&B stopped ({reason}): no more curves; the record holds every evaluation{self.upload}")
        self.has_given_up = True

    def _start(self, logger: LoggerConfig, options: dict[str, Any]) -> None:
        wandb = quiet_wandb()
        logging.raiseExceptions = False  # W&B logs to the same folder: on a full disk, a traceback a line
        allowed = logger.name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online"
        online = allowed and has_key()
        options["dir"].mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            **SETTINGS,
            x_service_wait=START,
            init_timeout=START,
            finish_timeout=FINISH,
            finish_timeout_raises=True,
        )
        options |= {"project": logger.project, "entity": logger.entity, "settings": settings}
        try:
            self.run = begin("online" if online else "offline", options)
        except wandb.errors.Error as error:
            say(f"W&B cannot be reached ({_reason(error)}); logging offline")
            options["id"] += "-offline"  # the failed start holds on to the id
            self.run, online = begin("offline", options), False
        wandb.termsetup(settings, SimpleNamespace(info=_ignore, warning=self._hear, error=_ignore))
        sync = f"wandb sync {Path(self.run.dir).parent}" if online else sync_command(options["dir"])
        self.upload = f"; to upload: {sync}"
        if not online:
            say(f"W&B logs offline{self.upload}")

    def _finish(self, record: dict[str, Any]) -> None:
        self.run.summary.update(summary(record))
        self.run.finish(exit_code=0 if record["status"] == "complete" else 1)


def begin(mode: Literal["online", "offline"], options: dict[str, Any]) -> Any:
    """A W&B run that a further process continues: offline parts with one id become one run when they are uploaded."""
    import wandb

    run = wandb.init(mode=mode, resume="allow", **options)
    run.define_metric("eval/*", summary="max")  # of every metric here, more is better
    run.define_metric("train/loss", summary="min")
    return run


def about(record: dict[str, Any], name: str) -> dict[str, Any]:
    """How W&B names, groups and tags a run, and its settings, which W&B shows as `method.rank`.

    Args:
        record: the run's, at its beginning or at its end.
        name: of the run's folder.
    """
    config = record["config"]
    return {
        "name": name,
        "group": record["experiment"],
        "job_type": record["method"],
        "tags": [*config.get("tags", ()), record["task"], record["backbone"], f"seed{record['seed']}"],
        "notes": config.get("note"),
        "config": config
        | {
            "config_hash": record["config_hash"],
            "git_commit": (record["provenance"]["git"] or {}).get("commit"),
            "data_fingerprint": record["provenance"]["data_fingerprint"],
        },
    }


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """What W&B's tables show of a run that has ended: scores, and costs with their units."""
    parameters, speed, memory, metric = (record[key] for key in ("parameters", "speed", "memory", "metric"))
    values = {"status": record["status"], "seconds": record["seconds"], "config_hash": record["config_hash"]}
    values |= {"git_commit": (record["provenance"]["git"] or {}).get("commit")}
    values |= {f"parameters/{key}": parameters[key] for key in ("trained", "trained_without_head")}
    values |= {f"speed/{key}": speed[key] for key in ("samples_per_second", "step_ms_median")}
    values |= {f"memory/{key}_bytes": memory[key] for key in ("weights", "gradients", "optimizer", "activations")}
    values |= {"memory/peak_bytes": memory["peak_bytes"]}
    for which in ("best", "selected", "last"):
        if entry := record[which]:
            values |= {f"{which}/epoch": entry["epoch"], f"{which}/{metric}": entry[metric]}
            values |= {f"{which}/held_out_{metric}": entry[HELD_OUT][metric]} if HELD_OUT in entry else {}
    return values


def quiet_wandb() -> ModuleType:
    """The library, imported when it is first used, so that it prints nothing."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import wandb

    return wandb


def has_key() -> bool:
    """Whether W&B can log in without asking, by a key in the environment or in netrc."""
    import requests

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY")) or requests.utils.get_netrc_auth(host) is not None


@contextmanager
def ended_service() -> Iterator[None]:
    """Ends W&B's service after use, and removes its exit hook, which would wait for it without limit."""
    try:
        yield
    finally:
        with suppress(Exception, SystemExit):
            quiet_wandb().teardown()


def _kill_service() -> None:
    for child in psutil.Process().children():
        if child.name() == "wandb-core":
            child.kill()


def _reason(error: Exception) -> str:
    """The first two lines of an error: in later lines pydantic quotes values, among them the key."""
    return "; ".join(str(error).splitlines()[:2]) or type(error).__name__


def _ignore(text: str) -> None:
    """W&B's own messages."""
