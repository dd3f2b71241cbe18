"""Killed, terminated, interrupted at random moments: the same command ends with what an undisturbed run has."""

import os
import random
import signal
import time

import pytest

from faults.harness import Hang, call, finish, outcome, start

WORDS = ("trainer.epochs=12", "trainer.eval_every=9", "method=dora")  # many evaluations: many moments amid writing
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STARTING, TRAINING = 6.0, 4.0  # seconds, about


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    output = tmp_path_factory.mktemp("undisturbed")
    ended = call(output, *WORDS)
    assert ended.status == 0, ended.err
    return outcome(output)


@pytest.mark.parametrize("life", range(10))
def test_a_run_ends_as_if_nobody_had_stopped_it(life, is_long, undisturbed, tmp_path, tally):
    """Five kills a life."""
    if life and not is_long:
        pytest.skip("one life of five kills; ten of them by `make faults`")
    moments = random.Random(life)
    for kill in range(5):
        process = start(tmp_path, *WORDS)
        number = SIGNALS[kill % len(SIGNALS)] if kill < 4 else moments.choice(SIGNALS)
        if moments.random() < 0.25:
            time.sleep(moments.uniform(0, STARTING))
        else:
            until_it_trains(process, tmp_path)
            time.sleep(moments.uniform(0, TRAINING))
        if process.poll() is None:
            os.kill(process.pid, number)
        ended = finish(process)
        assert ended.status in (0, 130, -number), ended
        assert "Traceback" not in ended.err or "import" in ended.err.splitlines()[2], (
            ended.err
        )  # Python's own, before main
        tally("kills survived")
    ended = call(tmp_path, *WORDS)
    assert ended.status == 0, ended.err
    assert outcome(tmp_path) == undisturbed


def until_it_trains(process, output) -> None:
    deadline = time.monotonic() + 60
    while not list(output.glob("*/*/.lock")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Hang("training did not begin")
        time.sleep(0.02)
