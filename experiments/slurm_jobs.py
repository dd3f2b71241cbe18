"""The Slurm jobs of a sweep's runs: their numbers, kept for later commands, and what squeue says about them.

Asks squeue, because many clusters have no accounting.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from core.io import write_json

OVER = {  # a preempted job that Slurm queues again is PENDING
    *(
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    ),
    # not in the queue or the accounting; asks for what its partition lacks; the run it starts from did not complete
    *("FORGOTTEN", "UNSATISFIABLE", "ORPHANED"),
}
NEVER = {  # by Slurm's reason: such jobs never start
    ("PENDING", "PartitionConfig"): "UNSATISFIABLE",
    ("PENDING", "DependencyNeverSatisfied"): "ORPHANED",
    ("CANCELLED", "DependencyNeverSatisfied"): "ORPHANED",  # by Slurm itself
}


class NotedJobs:
    """The number of the last job of each run, by the name of the run's folder, in a file of the sweep's folder."""

    def __init__(self, sweep: Path):
        self.file = sweep / ".submitit" / "jobs.json"

    def read(self) -> dict[str, str]:
        with suppress(OSError, ValueError):  # none yet, or damaged: then no job is known
            return dict(json.loads(self.file.read_text(encoding="utf-8")))
        return {}

    def add(self, jobs: Mapping[str, str]) -> None:
        write_json(self.file, self.read() | dict(jobs))

    def queued(self) -> dict[str, str]:
        """The jobs that wait or run; none if squeue does not answer."""
        noted = self.read()
        found = (noted and in_queue()) or {}
        return {name: job for name, job in noted.items() if job in found and state(*found[job]) not in OVER}


def in_queue() -> dict[str, list[str]] | None:
    """State and reason of this user's jobs, also of those that ended minutes ago; None: squeue does not answer."""
    return ask("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r")


def ask(*command: str) -> dict[str, list[str]] | None:
    """State and perhaps reason by job, from a command that prints `JOB|STATE|REASON` or `JOB|STATE`; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    if done.returncode:
        return None
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {job: about for job, *about in rows}


def state(word: str, reason: str = "") -> str:
    """`CANCELLED` for sacct's `CANCELLED by 1000`; UNSATISFIABLE or ORPHANED for a job that can never start."""
    return NEVER.get((word, reason), word.split()[0])
