"""`hydra/launcher=slurm` and `local`: submitit's launchers, for the pending runs of a sweep.

Submitit passes a job on as a pickle, in `.submitit/` of the sweep's folder; the runs' own folders are as always.
"""

import io
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import fields
from pathlib import Path

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from core.console import counted, log
from core.errors import Interrupted, UserError
from experiments.run_folder import RunFolder
from experiments.sweep import ROOT, exit_statuses, pending, returns, run_config
from hydra_plugins.slurm_queue import LESS, Queue, array, refusal
from training.tracking import upload_line

SHARED_DISK = 15  # seconds until another machine's file is certainly seen here


class Jobs(submitit_launcher.BaseSubmititLauncher):
    """Replaces submitit's `launch`: finished runs get no job, every job is waited for, and runs without an end are named."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        runs = [list(words) for words in job_overrides]
        waiting = pending(self.config, runs, is_here=self._EXECUTOR != "slurm")
        print(f"sweep: {counted(len(runs), 'run')}, {len(waiting)} of them to train", flush=True)
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([path] if path else [])])  # jobs import from here
        if waiting:
            jobs = self.submit(waiting, initial_job_idx)
            print(
                f"jobs {jobs[0].job_id} to {jobs[-1].job_id}; what they print: {jobs[0].paths.folder.parent}",
                flush=True,
            )
            self.watch(dict(zip(jobs, waiting, strict=True)))
        if line := upload_line(Path(self.config.hydra.sweep.dir)):
            print(line, flush=True)
        return returns(self.config, runs)

    def submit(self, runs: list[list[str]], first: int) -> list[submitit.Job]:
        """Hands the runs over, numbered from `first`."""
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        shared, params = {field.name for field in fields(BaseQueueConf)}, dict(self.params)
        folder, timeouts = params.pop("submitit_folder"), params.pop("max_num_timeout", None)
        limit = {} if timeouts is None else {f"{self._EXECUTOR}_max_num_timeout": timeouts}
        executor = submitit.AutoExecutor(folder, cluster=self._EXECUTOR, **limit)
        executor.update_parameters(
            **{name if name in shared else f"{self._EXECUTOR}_{name}": value for name, value in params.items()}
        )
        return executor.map_array(
            self,
            runs,
            ["hydra.sweep.dir"] * len(runs),
            range(first, first + len(runs)),
            [f"job_id_for_{number}" for number in range(first, first + len(runs))],
            [Singleton.get_state()] * len(runs),
        )

    def watch(self, runs: dict[submitit.Job, list[str]]) -> None:
        """Waits for every job. One that is over without a result may have left it on a disk that is slow to show it."""
        left, over = dict(runs), dict[submitit.Job, float]()
        while left:
            for job in [job for job in left if job.done()]:
                seen = over.setdefault(job, time.monotonic())
                if job.paths.result_pickle.exists() or time.monotonic() > seen + SHARED_DISK:
                    self.report(job, left.pop(job), f"[{len(runs) - len(left)}/{len(runs)}]")
            time.sleep(max(1, len(left) / 20))  # seconds: each look at a job is one at the disk

    def report(self, job: submitit.Job, words: list[str], number: str) -> None:
        """Prints in one line how a run ended."""
        name = " ".join(words)
        run = run_config(self.hydra_context.config_loader.load_sweep_config(self.config, words))
        word, record = RunFolder.of(run).status()
        if word == "complete":
            print(f"{number} complete: {name}", flush=True)
            return
        exit_statuses.append(1)
        if job.paths.result_pickle.exists():
            reason = record["reason"] if record else "it left no record"
        else:
            reason = f"job {job.job_id} is {self.lost(job)}"
        hint = "" if word == "failed" else f"; its log: {job.paths.stderr}; the same command resumes it"
        log.error(f"{word}: {name}: {reason}{hint}")

    def lost(self, job: submitit.Job) -> str:
        """The state of a job that left no result."""
        return job.state


class SlurmLauncher(Jobs, submitit_launcher.SlurmLauncher):
    """A Slurm job for each run."""

    def submit(self, runs: list[list[str]], first: int) -> list[submitit.Job]:
        if not shutil.which("sbatch"):
            raise UserError(
                "hydra/launcher=slurm needs sbatch on the PATH, and there is none: run it on a node of a cluster, "
                "or train here with hydra/launcher=processes"
            )
        submitit.SlurmJob.watcher = Queue(delay_s=60)
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                return super().submit(runs, first)
        except RuntimeError as error:
            raise UserError(refusal(str(error))) from error

    def watch(self, runs: dict[submitit.Job, list[str]]) -> None:
        try:
            super().watch(runs)
        except KeyboardInterrupt:
            number = array(next(iter(runs)).job_id)
            raise Interrupted(f"the watch, while the jobs stay in the queue (scancel {number} ends them)") from None

    def lost(self, job: submitit.Job) -> str:
        if job.state == "UNSATISFIABLE":  # and so is every job of the array
            subprocess.run(["scancel", "--state=PENDING", array(job.job_id)])
            raise UserError(
                f"Slurm can never start the jobs: no node of their partition has what each asks for ({LESS})"
            )
        return job.state


class LocalLauncher(Jobs, submitit_launcher.LocalLauncher):
    """A process of submitit's for each run, all at once."""
