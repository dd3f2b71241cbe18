"""Bad input, tried within this process: what a command line does with it, and what it may do."""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, Phase, settings

import train
from faults.harness import Ended, Hang, require_sentence

SMALL = (
    *("profile=offline", "backbone=tiny", "logger=none"),
    *("trainer.max_steps=2", "data.train_size=16", "data.eval_size=8"),
)
PATIENCE = 60  # seconds for one input
MEMORY = 8 * 2**30  # bytes that one input may take, whatever the machine has


def tries(short: int, long: int, is_long: bool) -> settings:
    """How many examples; the same ones each time in the short form."""
    return settings(
        max_examples=long if is_long else short,
        derandomize=not is_long,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if is_long else ())),
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Limits the time and memory of one input.

    Raises:
        Hang: it did not end in time.
    """
    rung = []

    def ring(*_) -> None:
        rung.append(True)
        raise Hang(f"no end after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, ring)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    if rung:  # somebody caught it
        raise Hang(f"no end after {PATIENCE} s")


def invoke(main: Callable[[], int], *words: str) -> Ended:
    """A script's `main` with these words: its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch, guarded():
        patch.setattr(sys, "argv", ["script.py", *words])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main()
            except SystemExit as exit_:
                status = exit_.code or 0
    GlobalHydra.instance().clear()
    return Ended(status, out.getvalue(), err.getvalue())


def require_line(text: str) -> None:
    assert text.strip(), text
    assert len(text.splitlines()) == 1, text


def require_refusal(ended: Ended) -> None:
    """One sentence, and a status that says so."""
    require_sentence(ended)
    assert ended.status != 130


def train_in(folder: Path, *words: str, flags: tuple[str, ...] = (), output: bool = True) -> Ended:
    """`train.py` on the smallest run in an empty folder; requires a valid run, or a refusal that leaves nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with contextlib.chdir(folder):
        ended = invoke(train.cli, *flags, *SMALL, *(["output_dir=runs"] if output else []), *words)
        try:
            require_run_or_refusal(ended)
        except Exception as error:
            error.add_note(f"words: {words!r}")
            raise
    return ended


def require_run_or_refusal(ended: Ended) -> None:
    assert "Traceback" not in ended.err, ended.err
    left = [Path(path, name) for path, _, names in os.walk(".") for name in names]
    assert not [path for path in left if path.name.endswith(".unfinished")], left
    if ended.status == 0 and "result: " not in ended.out:  # --help and the like
        assert not left
        assert not ended.err
        return
    if ended.status == 2:
        require_refusal(ended)
        assert not left, left
        return
    record = json.loads(Path(ended.out.splitlines()[-1].removeprefix("result: ")).read_text())
    assert record["status"] == ("failed" if ended.status else "complete"), record["status"]
    if ended.status:
        require_refusal(ended)
    else:
        assert not ended.err, ended.err
