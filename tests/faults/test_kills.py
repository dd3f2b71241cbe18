"""Killed, terminated or interrupted at random moments, a run resumes and ends like an undisturbed one."""

import os
import random
import signal
import time

import pytest
from support.long import short

from experiments.record import read_record
from faults.harness import RUN, Hang, call, finish, outcome, require_sentence, require_whole, run_folder, start

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STARTING, TRAINING = 6.0, 4.0  # seconds, about


@pytest.mark.parametrize("seed", short([0], of=range(10)))
def test_a_killed_run_resumes_and_ends_like_an_undisturbed_one(seed, expected, tmp_path, tally):
    """Five kills per run."""
    moments = random.Random(seed)
    for kill in range(5):
        is_early = moments.random() < 0.25
        process = start(tmp_path, *RUN, fresh=is_early)
        number = SIGNALS[kill % len(SIGNALS)] if kill < 4 else moments.choice(SIGNALS)
        if is_early:
            time.sleep(moments.uniform(0, STARTING))
        else:
            until_it_trains(process, tmp_path)
            time.sleep(moments.uniform(0, TRAINING))
        if process.poll() is None:
            os.kill(process.pid, number)
        ended = finish(process)
        assert ended.status in (0, 130, -number), ended
        is_lost = ended.err.startswith(
            "Exception ignored in"
        )  # Python loses a Ctrl-C that comes while it frees an object
        traceback = ended.err.splitlines()[2:3] if "Traceback" in ended.err and not is_lost else ["import"]
        assert "import" in traceback[0], ended.err  # Python's own, of a Ctrl-C before main
        if ended.status == 130 and "resumes there" in ended.err:
            require_sentence(ended)
            assert (run_folder(tmp_path) / "checkpoint.safetensors").exists()
            assert read_record(run_folder(tmp_path))["status"] == "interrupted"
        require_whole(tmp_path, killed=ended.status < 0)
        tally("kills survived")
    ended = call(tmp_path, *RUN)
    assert ended.status == 0, ended.err
    assert outcome(tmp_path) == expected
    require_whole(tmp_path)


def until_it_trains(process, output) -> None:
    deadline = time.monotonic() + 60
    while not list(output.glob("*/*/.lock")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Hang("training did not begin")
        time.sleep(0.02)
