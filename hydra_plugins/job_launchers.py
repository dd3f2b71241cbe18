"""`hydra/launcher=slurm` and `local`: submitit's launchers, for the pending runs of a sweep.

Submitit passes a job on as a pickle, in `.submitit/` of the sweep's folder; the runs' own folders are as always.
"""

import os
from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher import submitit_launcher

from core.console import log
from core.errors import UserError
from experiments.run_folder import RunFolder
from experiments.sweep import ROOT, exit_statuses, pending, run_config


class Jobs(submitit_launcher.BaseSubmititLauncher):
    """Adds to submitit's launchers: finished runs get no job, and failed runs are named at the end."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = [list(job) for job in job_overrides]
        waiting = pending(self.config, jobs)
        print(f"sweep: {len(jobs)} runs, {len(waiting)} of them to train", flush=True)
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([path] if path else [])])  # jobs import from here
        lost: RuntimeError | None = None
        try:
            if waiting:
                super().launch(waiting, initial_job_idx)
        except RuntimeError as error:  # no Slurm, a refusal of Slurm's, or a lost job
            lost = error
        for job in waiting:
            run = run_config(self.hydra_context.config_loader.load_sweep_config(self.config, job))
            word, record = RunFolder.of(run).status()
            if word != "complete" and (record or not lost):  # the error itself names the lost jobs
                log.error(f"{word}: {' '.join(job)}: {record['reason'] if record else 'it left no record'}")
                exit_statuses.append(1)
        if lost:
            raise UserError(" ".join(str(lost).split())) from lost
        return [JobReturn(overrides=job, status=JobStatus.COMPLETED) for job in jobs]


class SlurmLauncher(Jobs, submitit_launcher.SlurmLauncher):
    """A Slurm job for each run."""


class LocalLauncher(Jobs, submitit_launcher.LocalLauncher):
    """A process of submitit's for each run, all at once."""
