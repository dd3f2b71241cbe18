"""`train.py`, or a script, in a process forked from one that has imported its libraries: it starts seconds sooner.

Only for the usual environment: what a library reads from the environment while it is imported is fixed.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import weakref
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "train.py"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["support.preloaded"])
WARM = (str(TRAIN), "submitit.local._local", "submitit.core._submit")
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)


class WarmProcess:
    """What tests use of a `subprocess.Popen` of `python train.py WORDS`, in a process group of its own.

    The runs of a sweep, and submitit's jobs, are forked from it in turn.
    """

    def __init__(
        self,
        words: list[str],
        environment: dict[str, str],
        cwd: Path,
        script: Path = TRAIN,
        piped: bool = False,
    ):
        """
        Args:
            piped: what it prints comes through a pipe, `stdout`, rather than at its end.
        """
        self.files = [tempfile.NamedTemporaryFile("w+", prefix="warm-") for _ in ("out", "err")]  # noqa: SIM115
        weakref.finalize(self, _close, self.files)  # a process that nobody waits for leaves them open
        paths = [file.name for file in self.files]
        read, write = CONTEXT.Pipe(duplex=False) if piped else (None, None)
        self.process = CONTEXT.Process(target=_start, args=([script, *words], environment, cwd, paths, write))
        before = os.environ.copy()
        os.environ |= {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))), "OMP_NUM_THREADS": "1"}
        try:
            self.process.start()  # the first one starts the server, in this environment
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.pid = self.process.pid
        self.stdout = read and open(os.dup(read.fileno()))  # noqa: SIM115
        if write:
            write.close()

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
        out, err = (Path(file.name).read_text() for file in self.files)
        if self.stdout:
            with self.stdout:
                out = self.stdout.read()
        return out, err


class Forked:
    """What launchers use of a `subprocess.Popen` of Python, forked from the sweep's own process."""

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        stdout: Any = None,
        stderr: Any = None,
        start_new_session: bool = False,
        **_: Any,
    ):
        read, write = os.pipe() if stdout == subprocess.PIPE else (None, stdout and stdout.fileno())
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            try:
                if write:
                    os.dup2(write, 1), os.dup2(write if stderr == subprocess.STDOUT else stderr.fileno(), 2)
                for number in SIGNALS:
                    if signal.getsignal(number) != signal.SIG_IGN:
                        signal.signal(number, signal.SIG_DFL)  # as a new program has them
                GlobalHydra.instance().clear()
                status = _exit_status(command[1:], env, start_new_session)
            finally:
                os._exit(status)
        self.stdout = read and open(read, "rb")  # noqa: SIM115
        if read:
            os.close(write)

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.returncode is None and (found := os.waitpid(self.pid, options))[0]:
            self.returncode = os.waitstatus_to_exitcode(found[1])
        return self.returncode

    def wait(self) -> int | None:
        return self.poll(options=0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Popen(subprocess.Popen):
    """Forks `train.py` and submitit's processes; any other program is started as always."""

    def __new__(cls, command: Any, **options: Any) -> Any:
        is_warm = command[0] == sys.executable and any(word in command for word in WARM)
        return Forked(list(command), **options) if is_warm else super().__new__(cls)


def _close(files: list[Any]) -> None:
    for file in files:
        file.close()


def _start(command: list[str], environment: dict[str, str], cwd: Path, paths: list[str], pipe: Any) -> None:
    os.chdir(cwd)
    for number, path in enumerate(paths, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    if pipe:
        os.dup2(pipe.fileno(), 1)
        pipe.close()
    subprocess.Popen = Popen
    # as in a terminal; tests that nohup began would pass on that they ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(_exit_status(command, environment))


def _exit_status(command: list[str], environment: dict[str, str], new_session: bool = True) -> int:
    """Runs `FILE WORDS` or `-m MODULE WORDS` as a program."""
    if new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    words = list(map(str, command))
    try:
        if words[0] in ("-m", "-u"):  # -u: unbuffered
            time.sleep(0.3)  # as Python takes to start: by then submitit has made the folder of a job
            sys.argv = words[words.index("-m") + 1 :]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path[0] = str(Path(sys.argv[0]).parent)
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0
