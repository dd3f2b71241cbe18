"""`hydra/launcher=processes`, the default for `-m`: each run of a sweep in its own process.

Hydra's own launcher trains all runs in one process, where a crash ends the sweep, and memory and caches of one run disturb
the measurements of the next. Hydra finds this file because its folder is called hydra_plugins.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from core.console import counted, log, say
from core.errors import Interrupted, UserError
from core.signals import as_ctrl_c
from experiments.composer import run_config
from experiments.sweep import EXPECTED, ROOT, exit_statuses, flags, pending, returns
from training.tracking import upload_line

FRACTION = "per_process_memory_fraction"  # of torch's allocator


@dataclass
class ProcessLauncherConfig:
    """`hydra/launcher=processes`.

    Attributes:
        parallel: runs at a time. Parallel runs disturb each other's speed. With several GPUs, each run gets one; runs that
            share a GPU may take equal parts of its memory.
    """

    _target_: str = "hydra_plugins.process_launcher.ProcessLauncher"
    parallel: int = 1


class ProcessLauncher(Launcher):
    """Trains each pending run of a sweep by `python train.py ...`."""

    def __init__(self, parallel: int = 1):
        if parallel < 1:
            raise UserError(f"hydra.launcher.parallel is {parallel}; it must be at least 1")
        self.parallel = parallel
        self.running: dict[subprocess.Popen, tuple[int, list[str]]] = {}  # with their slots and overrides

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if self.parallel > 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:  # they would share one port
            raise UserError("several processes train each run, so one run at a time: leave out hydra.launcher.parallel")
        jobs = [list(job) for job in job_overrides]
        waiting = pending(self.config, jobs)
        with as_ctrl_c():
            try:
                self.train_all(waiting)
            except KeyboardInterrupt:
                self.stop()
                raise Interrupted(f"the sweep, with {counted(len(waiting), 'run')} to train when it began") from None
        if waiting and self.config.logger.name != "none" and (line := upload_line(Path(self.config.hydra.sweep.dir))):
            say(line)
        return returns(self.config, jobs)

    def train_all(self, jobs: list[list[str]]) -> None:
        """Trains the runs in order, at most `parallel` at a time."""
        waiting = list(enumerate(jobs, 1))
        while waiting or self.running:
            while waiting and len(self.running) < self.parallel:
                number, job = waiting.pop(0)
                say(f"[{number}/{len(jobs)}] {' '.join(job)}")
                self.start(job, number)
            time.sleep(0.1)
            for process in [process for process in self.running if process.poll() is not None]:
                _, job = self.running.pop(process)
                if process.returncode not in (0, 1, 2):
                    log.error(f"ended with status {process.returncode}, perhaps killed: {' '.join(job)}")
                if process.returncode:
                    exit_statuses.append(process.returncode if process.returncode in (1, 2) else 1)

    def start(self, job: list[str], number: int) -> None:
        slot = min(set(range(self.parallel)) - {slot for slot, _ in self.running.values()})
        expected = run_config(GlobalHydra.instance().config_loader().load_sweep_config(self.config, job)).hash
        # in a separate session a run receives Ctrl-C once, from here, and not from the terminal too
        process = subprocess.Popen(
            self.command(job),
            env=os.environ | self.share(slot) | {EXPECTED: expected},
            start_new_session=True,
            stdout=subprocess.PIPE if self.parallel > 1 else None,
            stderr=subprocess.STDOUT if self.parallel > 1 else None,
        )
        self.running[process] = slot, job
        if process.stdout:
            threading.Thread(target=relay, args=(process.stdout, f"[{number}] "), daemon=True).start()

    def command(self, job: list[str]) -> list[str]:
        """The command that trains a run; a command that trains it elsewhere must pass on the variable EXPECTED."""
        hydra_overrides = [word for word in self.config.hydra.overrides.hydra if not word.startswith("hydra.mode")]
        chosen = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags(sys.argv[1:])[0].items()]
        return [sys.executable, str(ROOT / "train.py"), *chosen, *hydra_overrides, *job]

    def share(self, slot: int) -> dict[str, str]:
        """Environment variables that give a run its share of the machine."""
        if self.parallel == 1:
            return {}
        threads = str(max(1, (os.cpu_count() or 1) // self.parallel))
        share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
        gpus = torch.cuda.device_count()
        if gpus > 1:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
            share["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % gpus]
        if gpus and (runs := -(-self.parallel // gpus)) > 1:  # on each GPU
            given = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
            if FRACTION not in given:
                share["PYTORCH_ALLOC_CONF"] = ",".join(filter(None, [given, f"{FRACTION}:{1 / runs:.3f}"]))
        return share

    def stop(self) -> None:
        """Asks the runs to write their checkpoints; another Ctrl-C kills them."""
        for process in self.running:
            process.terminate()
        try:
            for process in self.running:
                process.wait()
        except KeyboardInterrupt:
            for process in self.running:
                process.kill()


def relay(stream: BinaryIO, prefix: str) -> None:
    """Prints what a run prints, each line under the run's number."""
    for line in stream:
        say(prefix + line.decode(errors="replace").rstrip("\n"))


ConfigStore.instance().store(group="hydra/launcher", name="processes", node=ProcessLauncherConfig)
