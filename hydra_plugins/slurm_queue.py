"""What Slurm says about the jobs that a command watches, and about requests that it refuses."""

import re
import time
from collections import Counter

from submitit.slurm.slurm import SlurmInfoWatcher

from core.console import log, say
from experiments.slurm_jobs import OVER, ask, in_queue, state

LESS = "hydra.launcher.mem_gb=N and hydra.launcher.cpus_per_task=N ask for less"
WAYS_OUT = {  # from sbatch's words; the first match counts
    "gres|generic resource": "hydra.launcher.gpus_per_node=null asks for no GPU",
    "memory|cpu|node configuration|partition configuration": LESS,
    "account": "set hydra.launcher.account=NAME",
    "partition": "set hydra.launcher.partition=NAME to one that sinfo lists",
    "feature": "set hydra.launcher.constraint=NAME to a feature that `sinfo --format=%f` lists",
    "time limit": "hydra.launcher.timeout_min=N asks for less",
}


class Queue(SlurmInfoWatcher):
    """Submitit's watcher over jobs, by squeue. Asks sacct only for jobs that squeue no longer lists.

    Submitit's own asks sacct alone: without accounting it warns at each look and never sees that a job was cancelled.
    """

    is_answered = True
    looks, said = 0, ""  # at the queue; what was printed last

    def update(self) -> None:
        self._last_status_check = time.time()
        found = in_queue()
        if self.is_answered and found is None:
            log.warning("squeue does not answer; the jobs continue; still watching")
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
            say(f"in the queue: {text}")
            self.said = text
        self.looks += 1

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        return self.get_state(job_id, mode) in OVER


def array(job: str) -> str:
    """The number before the index. If members are cancelled one by one, squeue lists the array by this number alone."""
    return job.partition("_")[0]


def shown(word: str, reason: str = "None") -> str:
    """`running`, or `pending (Resources)`."""
    return word.lower() + (f" ({reason})" if word == "PENDING" and reason != "None" else "")


def ended(jobs: set[str]) -> dict[str, str]:
    """Final states of jobs that left the queue, from the accounting if there is one."""
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
