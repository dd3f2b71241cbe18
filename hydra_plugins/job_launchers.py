"""`hydra/launcher=slurm` and `local`: submitit's launchers, for the pending runs of a sweep.

Submitit passes a job on as a pickle, in `.submitit/` of the sweep's folder; the runs' own folders are as always.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import submitit
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from core.console import counted, log, say
from core.errors import Interrupted, UserError
from core.signals import as_ctrl_c
from experiments.composer import Composer
from experiments.config import RunConfig
from experiments.run_folder import RunFolder
from experiments.slurm_jobs import NotedJobs
from experiments.sweep import EXPECTED, ROOT, exit_statuses, pending, returns, start_words
from hydra_plugins.slurm_queue import LESS, Queue, array, refusal
from training.tracking import upload_line

SHARED_DISK = 15  # seconds until another machine's file is visible here
OUT_OF_TIME = "timed-out too many times"  # submitit's words in the log of a job that is not queued again


class Cell(NamedTuple):
    """A run of a sweep: its overrides, its settings, and the run that it starts from, unless that is complete."""

    words: list[str]
    run: RunConfig
    start: "Cell | None" = None

    @property
    def name(self) -> str:
        return self.run.folder.name


class Jobs(submitit_launcher.BaseSubmititLauncher):
    """Replaces submitit's `launch`: submits unfinished runs, waits for every job, and names the runs that did not finish."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        runs = [list(words) for words in job_overrides]
        waiting = pending(self.config, runs, is_here=self._EXECUTOR != "slurm")
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([path] if path else [])])  # jobs import from here
        if waiting:
            Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
            jobs = self.submit(self.cells(waiting))
            first, *_, last = [*jobs, *jobs]
            say(f"jobs {first.job_id} to {last.job_id}; output: {first.paths.folder.parent}")
            with as_ctrl_c():
                self.watch(jobs)
        if waiting and self.config.logger.name != "none" and (line := upload_line(Path(self.config.hydra.sweep.dir))):
            say(line)
        return returns(self.config, runs)

    def cells(self, jobs: list[list[str]]) -> list[Cell]:
        composer, found = Composer(GlobalHydra.instance().config_loader(), self.config), list[Cell]()
        for words in jobs:
            run = composer.run(words)
            there = start_words(run, words)
            start = Cell(there, composer.run(there)) if there else None
            is_ready = start is None or RunFolder.of(start.run).status()[0] == "complete"
            found.append(Cell(words, run, None if is_ready else start))
        return found

    def submit(self, cells: list[Cell]) -> dict[submitit.Job, Cell]:
        """The jobs that train the runs."""
        return self.hand_over(cells)

    def __call__(self, words: list[str], expected: str, *rest: Any) -> JobReturn:  # type: ignore[override]  # in the job
        os.environ[EXPECTED] = expected
        done = super().__call__(words, *rest)
        if done.return_value:
            sys.tracebacklimit = 0  # the log has the run's own sentence
            raise UserError("this job failed; jobs that depend on it will not start")
        return done

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

    def hand_over(self, cells: Sequence[Cell], after: submitit.Job | None = None) -> dict[submitit.Job, Cell]:
        """Submits an array with a job for each run; on Slurm, it starts after the job `after`."""
        more = dict(self.params.get("additional_parameters") or {})
        if after:  # if it fails, Slurm cancels these
            more |= {"dependency": f"afterok:{after.job_id}", "kill_on_invalid_dep": "yes"}
        numbers = range(len(cells))
        jobs = self.executor(**({"additional_parameters": more} if more else {})).map_array(
            self,
            [cell.words for cell in cells],
            [cell.run.hash for cell in cells],
            ["hydra.sweep.dir"] * len(cells),
            numbers,
            [f"job_id_for_{number}" for number in numbers],
            [Singleton.get_state()] * len(cells),
        )
        return dict(zip(jobs, cells, strict=True))

    def watch(self, jobs: dict[submitit.Job, Cell]) -> None:
        """Waits for every job. On a shared disk the result of a finished job may appear late."""
        left, over = dict(jobs), dict[submitit.Job, float]()
        while left:
            for job in [job for job in left if job.done()]:
                seen = over.setdefault(job, time.monotonic())
                if job.paths.result_pickle.exists() or time.monotonic() > seen + SHARED_DISK:
                    self.report(job, left.pop(job), f"[{len(jobs) - len(left)}/{len(jobs)}]")
            if left:
                time.sleep(max(1, len(left) / 20))  # seconds: each check of a job reads the disk

    def report(self, job: submitit.Job, cell: Cell, number: str) -> None:
        """Prints in one line how a run ended."""
        name = " ".join(cell.words)
        word, record = RunFolder.of(cell.run).status()
        if word == "complete":
            say(f"{number} complete: {name}")
            return
        exit_statuses.append(1)
        has_result = job.paths.result_pickle.exists()
        if has_result and (what := held(cell)):
            log.warning(
                f"{word}: {name}: another process is training {what}; job {job.job_id} stopped: "
                "run the same command again later"
            )
            return
        if OUT_OF_TIME in (job.stderr() or ""):
            limit = f"{self.params['timeout_min']} minutes"
            reason = f"job {job.job_id} reached its time limit, {limit}, too often to be queued again"
        elif has_result:
            reason = record["reason"] if record else "it left no record"
        else:
            reason = f"job {job.job_id} is {self.lost(job)}"
        hint = "" if word == "failed" else f"; its log: {job.paths.stderr}; the same command resumes it"
        log.error(f"{word}: {name}: {reason}{hint}")

    def lost(self, job: submitit.Job) -> str:
        """The state of a job that left no result."""
        return job.state


def held(cell: Cell) -> str | None:
    """What another process is training: the run, or the run that it starts from."""
    if RunFolder.of(cell.run).is_locked():
        return "it"
    return "the run that it starts from" if cell.start and RunFolder.of(cell.start.run).is_locked() else None


class SlurmLauncher(Jobs, submitit_launcher.SlurmLauncher):
    """A Slurm job for each run."""

    def submit(self, cells: list[Cell]) -> dict[submitit.Job, Cell]:
        """Submits the runs, except those that an earlier command left in the queue.

        A run that starts from another one waits in the queue, without a node, until that run's job has succeeded.
        """
        if not shutil.which("sbatch"):
            raise UserError(
                "hydra/launcher=slurm needs sbatch on the PATH, and there is none: run it on a node of a cluster, "
                "or train here with hydra/launcher=processes"
            )
        submitit.SlurmJob.watcher = Queue(delay_s=60)
        queued = self.queued()
        jobs = {queued[cell.name]: cell for cell in cells if cell.name in queued}
        new = [cell for cell in cells if cell.name not in queued]
        starts = {cell.start.name: cell.start for cell in new if cell.start and cell.start.name not in queued}
        later = defaultdict[str, list[Cell]](list)
        for cell in new:
            if cell.start:
                later[cell.start.name].append(cell)
        if jobs:
            say(f"{counted(len(jobs), 'run')} in the queue already")
        if later:
            say(f"{counted(sum(map(len, later.values())), 'run')} waiting for another run")
        if first := starts | {cell.name: cell for cell in new if not cell.start}:
            jobs |= self.hand_over(list(first.values()))
        numbers = queued | {cell.name: job for job, cell in jobs.items()}
        for name, dependents in later.items():
            jobs |= self.hand_over(dependents, after=numbers[name])
        return jobs

    def hand_over(self, cells: Sequence[Cell], after: submitit.Job | None = None) -> dict[submitit.Job, Cell]:
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                jobs = super().hand_over(cells, after)
        except RuntimeError as error:
            raise UserError(refusal(str(error))) from error
        self.noted.add({cell.name: job.job_id for job, cell in jobs.items()})  # also if Slurm refuses the next array
        return jobs

    @property
    def noted(self) -> NotedJobs:
        return NotedJobs(Path(self.config.hydra.sweep.dir))

    def queued(self) -> dict[str, submitit.Job]:
        """The jobs of earlier commands that are not over, by the folder of their run."""
        place = self.executor().folder
        return {name: submitit.SlurmJob(folder=place, job_id=job) for name, job in self.noted.queued().items()}

    def watch(self, jobs: dict[submitit.Job, Cell]) -> None:
        try:
            super().watch(jobs)
        except KeyboardInterrupt:
            numbers = " ".join(dict.fromkeys(array(job.job_id) for job in jobs))
            raise Interrupted(f"watching stopped, the jobs stay in the queue (scancel {numbers} ends them)") from None

    def lost(self, job: submitit.Job) -> str:
        if job.state == "ORPHANED":
            subprocess.run(["scancel", job.job_id])
            return "cancelled because the run it starts from did not complete"
        if job.state == "UNSATISFIABLE":  # like every job of the array
            subprocess.run(["scancel", "--state=PENDING", array(job.job_id)])
            raise UserError(
                f"Slurm can never start the jobs: no node of their partition has what each asks for ({LESS})"
            )
        return job.state


class LocalLauncher(Jobs, submitit_launcher.LocalLauncher):
    """A process of submitit's for each run, all at once."""

    def hand_over(self, cells: Sequence[Cell], after: submitit.Job | None = None) -> dict[submitit.Job, Cell]:
        # jobs inherit it: otherwise submitit would kill them within a second after Ctrl-C
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return super().hand_over(cells, after)
        finally:
            signal.signal(signal.SIGINT, before)

    def watch(self, jobs: dict[submitit.Job, Cell]) -> None:
        try:
            super().watch(jobs)
        except KeyboardInterrupt:
            self.stop(jobs)
            raise Interrupted(f"the sweep, with {counted(len(jobs), 'run')} to train when it began") from None

    def stop(self, jobs: Iterable[submitit.Job]) -> None:
        """Asks the jobs to write their checkpoints; another Ctrl-C kills them."""
        try:
            while left := [job for job in jobs if not job.done()]:
                for job in left:  # repeatedly: a job that does not train yet ignores it
                    os.kill(int(job.job_id), signal.SIGTERM)
                time.sleep(1)
        except KeyboardInterrupt:
            for job in [job for job in jobs if not job.done()]:
                with suppress(psutil.Error):  # it has just ended
                    for process in psutil.Process(int(job.job_id)).children():
                        process.kill()
