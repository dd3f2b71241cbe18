"""What Slurm says of its jobs and requests. The queue itself is asked, for many clusters keep no accounting."""

import os
import re
import subprocess
import time
from collections import Counter

from submitit.slurm.slurm import SlurmInfoWatcher

from core.console import log

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
    # in neither queue nor accounting; waits for what its partition does not have; for a run that did not end well
    *("FORGOTTEN", "UNSATISFIABLE", "ORPHANED"),
}
LESS = "hydra.launcher.mem_gb=N and hydra.launcher.cpus_per_task=N ask for less"
WAYS_OUT = {  # from words of sbatch's; the first that matches counts
    "gres|generic resource": "hydra.launcher.gpus_per_node=null asks for no GPU",
    "memory|cpu|node configuration|partition configuration": LESS,
    "account": "set hydra.launcher.account=NAME",
    "partition": "set hydra.launcher.partition=NAME to one that sinfo lists",
    "feature": "set hydra.launcher.constraint=NAME to a feature that `sinfo --format=%f` lists",
    "time limit": "hydra.launcher.timeout_min=N asks for less",
}


class Queue(SlurmInfoWatcher):
    """Submitit's watcher over jobs, by squeue. Only if squeue has forgotten a job, minutes after its end, sacct is asked.

    Submitit's own asks sacct alone: without accounting it warns at each look and never sees that a job was cancelled.
    """

    is_answered = True
    looks, said = 0, ""  # at the queue; what was printed last

    def update(self) -> None:
        self._last_status_check = time.time()
        found = ask("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r")
        if self.is_answered and found is None:
            log.warning("squeue does not answer; the jobs go on, and so does the watch over them")
        self.is_answered = found is not None
        if found is None:
            return
        waiting = self._registered - self._finished
        seen = {job: about for job in waiting if (about := found.get(job) or found.get(array(job)))}
        states = {job: state(*about) for job, about in seen.items()}
        if gone := waiting - states.keys():
            states |= ended(gone)
        self._info_dict |= {job: {"State": word} for job, word in states.items()}
        self._finished |= {job for job in waiting if self.is_done(job, mode="cache")}
        self.say(Counter(shown(*about) for job, about in seen.items() if job not in self._finished))

    def say(self, jobs: Counter[str]) -> None:
        """While jobs wait, prints how many, for what, and how many run: from the second look on, after a minute."""
        text = ", ".join(f"{number} {what}" for what, number in sorted(jobs.items()))
        if self.looks and "pending" in text and text != self.said:
            print(f"in the queue: {text}", flush=True)
            self.said = text
        self.looks += 1

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        return self.get_state(job_id, mode) in OVER


def array(job: str) -> str:
    """The number before the index: also that of an array whose members were cancelled one by one, for squeue."""
    return job.partition("_")[0]


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


def shown(word: str, reason: str = "None") -> str:
    """`running`, or `pending (Resources)`."""
    return word.lower() + (f" ({reason})" if word == "PENDING" and reason != "None" else "")


def state(word: str, reason: str = "") -> str:
    """`CANCELLED` for sacct's `CANCELLED by 1000`; UNSATISFIABLE or ORPHANED for a job that waits but can never start."""
    never = {"PartitionConfig": "UNSATISFIABLE", "DependencyNeverSatisfied": "ORPHANED"}
    return never.get(reason, word) if word == "PENDING" else word.split()[0]


def ended(jobs: set[str]) -> dict[str, str]:
    """How jobs ended that are no longer in the queue, by the accounting, if there is one."""
    numbers = ",".join(sorted(set(map(array, jobs))))
    known = (
        ask("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={numbers}") or {}
    )
    states = {job: state(*about) for job, about in known.items()}
    return {job: states[job] if states.get(job) in OVER else "FORGOTTEN" for job in jobs}


def refusal(said: str) -> str:
    """One sentence, with the way out, for what sbatch printed."""
    lines = [re.sub(r"sbatch: error: |Batch job submission failed: ", "", line).strip() for line in said.splitlines()]
    reason = "; ".join(dict.fromkeys(filter(None, lines)))
    ways_out = [way for words, way in WAYS_OUT.items() if re.search(words, reason, re.IGNORECASE)]
    return f"Slurm refuses the jobs: {reason}" + (f" ({ways_out[0]})" if ways_out else "")
