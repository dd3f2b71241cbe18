"""`train.py` in a process forked from one that has imported its libraries: a run starts seconds sooner.

Only for runs in the usual environment: what a library reads from the environment while it is imported is fixed.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["support.preloaded"])


class WarmProcess:
    """What tests use of a `subprocess.Popen` of `python train.py WORDS`, in a process group of its own."""

    def __init__(self, words: list[str], environment: dict[str, str], cwd: Path):
        self.files = [tempfile.NamedTemporaryFile("w+", prefix="warm-") for _ in ("out", "err")]  # noqa: SIM115
        paths = [file.name for file in self.files]
        self.process = CONTEXT.Process(target=_train, args=(words, environment, cwd, paths))
        before = os.environ.copy()
        os.environ |= {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), "OMP_NUM_THREADS": "1"}
        try:
            self.process.start()  # the first one starts the server, in this environment
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("train.py", timeout)
        return tuple(Path(file.name).read_text() for file in self.files)


def _train(words: list[str], environment: dict[str, str], cwd: Path, paths: list[str]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate(paths, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = [str(ROOT / "train.py"), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")
