"""`hydra/launcher=slurm` and `local`: submitit's launchers, for the pending runs of a sweep.

Submitit passes a job on as a pickle, in `.submitit/` of the sweep's folder; the runs' own folders are as always.
"""

import io
import json
import os
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import submitit
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from core.console import counted, log
from core.errors import Interrupted, UserError
from core.io import write_json
from experiments.run_folder import RunFolder
from experiments.sweep import ROOT, Composer, exit_statuses, pending, returns, run_config, start_words
from hydra_plugins.slurm_queue import LESS, OVER, Queue, array, refusal
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
            Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
            jobs = self.submit(waiting)
            first, *_, last = [*jobs, *jobs]
            print(f"jobs {first.job_id} to {last.job_id}; what they print: {first.paths.folder.parent}", flush=True)
            self.watch(jobs)
        if line := upload_line(Path(self.config.hydra.sweep.dir)):
            print(line, flush=True)
        return returns(self.config, runs)

    def submit(self, runs: list[list[str]]) -> dict[submitit.Job, list[str]]:
        """The jobs that train the runs."""
        return self.hand_over(runs)

    def executor(self, **more: Any) -> submitit.AutoExecutor:
        """Submitit's, with the launcher's settings and `more`."""
        shared, params = {field.name for field in fields(BaseQueueConf)}, dict(self.params) | more
        folder, timeouts = params.pop("submitit_folder"), params.pop("max_num_timeout", None)
        limit = {} if timeouts is None else {f"{self._EXECUTOR}_max_num_timeout": timeouts}
        executor = submitit.AutoExecutor(folder, cluster=self._EXECUTOR, **limit)
        executor.update_parameters(
            **{name if name in shared else f"{self._EXECUTOR}_{name}": value for name, value in params.items()}
        )
        return executor

    def hand_over(self, runs: list[list[str]], after: submitit.Job | None = None) -> dict[submitit.Job, list[str]]:
        """Submits an array with a job for each run; on Slurm, one that waits for the end of the job `after`."""
        more = dict(self.params.get("additional_parameters") or {})
        depends = {"additional_parameters": more | {"dependency": f"afterok:{after.job_id}"}} if after else {}
        numbers = range(len(runs))
        jobs = self.executor(**depends).map_array(
            self,
            runs,
            ["hydra.sweep.dir"] * len(runs),
            numbers,
            [f"job_id_for_{number}" for number in numbers],
            [Singleton.get_state()] * len(runs),
        )
        return dict(zip(jobs, runs, strict=True))

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

    def submit(self, runs: list[list[str]]) -> dict[submitit.Job, list[str]]:
        """Submits the runs, but for those that an earlier command left in the queue.

        A run that starts from another waits in the queue, without a node, until that one's job has ended well.
        """
        if not shutil.which("sbatch"):
            raise UserError(
                "hydra/launcher=slurm needs sbatch on the PATH, and there is none: run it on a node of a cluster, "
                "or train here with hydra/launcher=processes"
            )
        submitit.SlurmJob.watcher = Queue(delay_s=60)
        composer, queued = Composer(GlobalHydra.instance().config_loader(), self.config), self.queued()
        old, first, later = (
            dict[submitit.Job, list[str]](),
            dict[str, list[str]](),
            defaultdict[str, list[list[str]]](list),
        )
        for words in runs:
            run = composer.run(words)
            start = start_words(run, words)
            there = RunFolder.of(composer.run(start)) if start else None
            if (name := RunFolder.of(run).path.name) in queued:
                old[queued[name]] = words
            elif start and there and there.status()[0] != "complete":
                later[there.path.name].append(words)
                if there.path.name not in queued:
                    first.setdefault(there.path.name, start)
            else:
                first[name] = words
        for number, what in ((len(old), "in the queue already"), (sum(map(len, later.values())), "after their start")):
            if number:
                print(f"{counted(number, 'run')} {what}", flush=True)
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                new = self.hand_over(list(first.values())) if first else {}
                jobs = queued | dict(zip(first, new, strict=True))
                for name, dependents in later.items():
                    new |= self.hand_over(dependents, after=jobs[name])
        except RuntimeError as error:
            raise UserError(refusal(str(error))) from error
        self.note({RunFolder.of(composer.run(words)).path.name: job.job_id for job, words in new.items()})
        return old | new

    def note(self, jobs: dict[str, str]) -> None:
        """Keeps the number of each run's last job, by the run's folder, for the next command."""
        write_json(self.notes, self.noted() | jobs)

    @property
    def notes(self) -> Path:
        return Path(self.config.hydra.sweep.dir) / ".submitit" / "jobs.json"

    def noted(self) -> dict[str, str]:
        with suppress(OSError, ValueError):  # none yet, or damaged: then no job is known
            return dict(json.loads(self.notes.read_text(encoding="utf-8")))
        return {}

    def queued(self) -> dict[str, submitit.Job]:
        """The jobs of earlier commands that are not over, by the folder of their run."""
        place, noted = self.executor().folder, self.noted()
        jobs: dict[str, submitit.Job] = {
            name: submitit.SlurmJob(folder=place, job_id=number) for name, number in noted.items()
        }
        if not jobs:
            return {}
        watcher = submitit.SlurmJob.watcher
        watcher.update()
        states = {name: watcher.get_state(job.job_id, mode="cache") for name, job in jobs.items()}
        return {name: job for name, job in jobs.items() if states[name] not in (*OVER, "UNKNOWN")}

    def watch(self, runs: dict[submitit.Job, list[str]]) -> None:
        try:
            super().watch(runs)
        except KeyboardInterrupt:
            numbers = " ".join(dict.fromkeys(array(job.job_id) for job in runs))
            raise Interrupted(f"the watch, while the jobs stay in the queue (scancel {numbers} ends them)") from None

    def lost(self, job: submitit.Job) -> str:
        if job.state == "ORPHANED":
            subprocess.run(["scancel", job.job_id])
            return "cancelled, for the run that it starts from did not end well"
        if job.state == "UNSATISFIABLE":  # and so is every job of the array
            subprocess.run(["scancel", "--state=PENDING", array(job.job_id)])
            raise UserError(
                f"Slurm can never start the jobs: no node of their partition has what each asks for ({LESS})"
            )
        return job.state


class LocalLauncher(Jobs, submitit_launcher.LocalLauncher):
    """A process of submitit's for each run, all at once."""
