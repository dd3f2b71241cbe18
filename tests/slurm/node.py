"""A real Slurm of one node: its daemons, files and ports are its own, and it ends with the tests."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
# A job that is queued again waits for its old credential to expire: 5 seconds are the least that Slurm takes, 120 the usual.
CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000
PartitionName=all Nodes={host} Default=YES
"""


def obstacle() -> str | None:
    """Why no Slurm can be started here; None if one can."""
    if os.geteuid():
        return "Slurm's daemons need root"
    missing = [name for name in COMMANDS if not shutil.which(name)]
    return f"there is no {missing[0]}: `make test-slurm` installs it" if missing else None


@contextmanager
def node(folder: Path) -> Iterator[dict[str, str]]:
    """Inside the context a node waits for jobs; yields the environment in which Slurm's commands find it."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key, conf = folder / "munge.key", folder / "slurm.conf"
    key.touch(0o400)
    key.write_bytes(os.urandom(128))
    controller, daemon = free_ports()
    host = socket.gethostname().partition(".")[0]
    conf.write_text(CONF.format(folder=folder, host=host, controller=controller, daemon=daemon))
    names = {"key-file": key} | {
        f"{name}-file": folder / f"munge{end}" for name, end in (("pid", "d.pid"), ("log", "d.log"), ("seed", ".seed"))
    }
    environment = os.environ | {"SLURM_CONF": str(conf)}
    daemons = (
        ["munged", "--force", f"--socket={folder}/munge.socket", *(f"--{k}={v}" for k, v in names.items())],
        ["slurmctld", "-f", str(conf)],
        ["slurmd", "-f", str(conf)],
    )
    try:
        for command in daemons:
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
        until(lambda: ask(environment, "sinfo", "--noheader", "--format=%T") == "idle", 60)
        yield environment
    finally:
        for file in (folder / name for name in ("slurmd.pid", "slurmctld.pid", "munged.pid")):
            if file.exists():
                os.kill(int(file.read_text()), signal.SIGTERM)


def ask(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout.strip()


def jobs(environment: dict[str, str]) -> list[str]:
    """Those that wait or run."""
    return sorted(ask(environment, "squeue", "--noheader", "--array", "--format=%i").split())


def until(is_true, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for bound in (one, other):
            bound.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
