"""`hydra/launcher=slurm` and `local`: submitit's launchers, for the runs of a sweep that are not settled yet.

Submitit hands a job over as a pickle, in `.submitit/` of the sweep's folder; what a run leaves is as everywhere.
"""

import os
from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher import submitit_launcher

from core.console import log
from core.errors import UserError
from experiments.run_folder import RunFolder
from experiments.sweep import ROOT, exit_statuses, is_pending, run_config


class Jobs:
    """What submitit's launchers lack: runs that need no job get none, and those that fail are named at the end."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = [list(job) for job in job_overrides]
        pending = [job for job in jobs if is_pending(self.config, job)]
        print(f"sweep: {len(jobs)} runs, {len(pending)} of them to train", flush=True)
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([path] if path else [])])  # jobs import from here
        lost: RuntimeError | None = None
        try:
            if pending:
                super().launch(pending, initial_job_idx)
        except RuntimeError as error:  # there is no Slurm, it refused, or a job was lost
            lost = error
        for job in pending:
            run = run_config(self.hydra_context.config_loader.load_sweep_config(self.config, job))
            word, record = RunFolder.of(run).status()
            if word != "complete" and (record or not lost):  # where jobs were lost, the error speaks for those
                log.error(f"{word}: {' '.join(job)}: {record['reason'] if record else 'it left no record'}")
                exit_statuses.append(1)
        if lost:
            raise UserError(" ".join(str(lost).split())) from lost
        return [JobReturn(overrides=job, status=JobStatus.COMPLETED) for job in jobs]


class SlurmLauncher(Jobs, submitit_launcher.SlurmLauncher):
    """A Slurm job for each run."""


class LocalLauncher(Jobs, submitit_launcher.LocalLauncher):
    """A process of submitit's for each run, all at once."""
