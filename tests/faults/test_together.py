"""Several processes on one run at once: one trains, the other waits."""

import os
import signal
import time

from faults.harness import RUN, finish, outcome, start


def test_two_processes_on_one_cell_leave_one_record(expected, tmp_path, tally):
    both = [start(tmp_path, *RUN) for _ in range(2)]
    ended = [finish(process) for process in both]
    assert [one.status for one in ended] == [0, 0], ended
    assert sorted("finished before" in one.out for one in ended) == [False, True]
    assert outcome(tmp_path) == expected
    tally("other faults")


def test_a_waiting_process_resumes_the_run_of_a_killed_one(expected, tmp_path, tally):
    first = start(tmp_path, *RUN)
    while not list(tmp_path.rglob("config.yaml")):  # written under the lock
        assert first.poll() is None
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGSTOP)
    second = start(tmp_path, *RUN, piped=True)
    assert "; waiting" in second.stdout.readline()
    os.kill(first.pid, signal.SIGKILL)
    finish(first)
    assert finish(second).status == 0
    assert outcome(tmp_path) == expected
    tally("other faults")
