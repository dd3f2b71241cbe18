"""Out of memory, NaN gradients, a clock set back, all within a run: it resumes, fails with a reason, or is unaffected."""

import os
from pathlib import Path

import pytest
from support.long import short

from experiments.record import read_record
from faults.harness import RUN, call, outcome, require_sentence, run_folder


def broken(fault: str, step: int) -> dict:
    return {"within": (Path(__file__).with_name("broken.py"), f"{fault}={step}")}


@pytest.mark.parametrize("step", short([17], of=[3, 5, 17, 72]))
def test_an_out_of_memory_run_says_so_and_resumes_with_more_memory(step, expected, tmp_path, tally):
    ended = call(tmp_path, *RUN, **broken("allocation", step))
    require_sentence(ended)
    assert "out of memory" in ended.err
    assert "trainer.micro_batch_size" in ended.err
    assert read_record(run_folder(tmp_path))["status"] == "interrupted"
    ended = call(tmp_path, *RUN)
    assert ended.status == 0, ended.err
    assert outcome(tmp_path) == expected
    tally("other faults")


@pytest.mark.parametrize("step", short([17], of=[1, 5, 17, 72]))
def test_nonfinite_gradients_fail_the_run_and_a_retry_equals_a_fresh_run(step, expected, tmp_path, tally):
    ended = call(tmp_path, *RUN, **broken("gradients", step))
    require_sentence(ended)
    assert ended.status == 1
    assert "lower" in ended.err
    folder = run_folder(tmp_path)
    assert read_record(folder)["status"] == "failed"
    assert not (folder / "checkpoint.safetensors").exists()
    ended = call(tmp_path, *RUN)
    require_sentence(ended)
    assert "retry=true" in ended.err
    assert call(tmp_path, *RUN, "retry=true").status == 0
    assert outcome(tmp_path) == expected
    tally("other faults")


def test_a_clock_set_back_changes_nothing(expected, tmp_path, tally):
    """During a run, and between its parts, when its files have times in the future."""
    ended = call(tmp_path, *RUN, **broken("clock", 9))
    assert ended.status == 0, ended.err
    assert outcome(tmp_path) == expected
    assert read_record(run_folder(tmp_path))["seconds"] > 0
    for path in tmp_path.rglob("*"):
        os.utime(path, (2**32, 2**32))
    assert "finished before" in call(tmp_path, *RUN).out
    ended = call(tmp_path / "parts", *RUN, **broken("allocation", 9))
    for path in tmp_path.rglob("*"):
        os.utime(path, (2**32, 2**32))
    ended = call(tmp_path / "parts", *RUN)
    assert "resumes at step 5" in ended.out
    assert outcome(tmp_path / "parts") == expected
    tally("other faults", 2)
