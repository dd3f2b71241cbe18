"""Sweeps through a real Slurm: what a user sees, what happens to stopped jobs, and what Slurm refuses."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.command_line import ROOT, TINY, science

from slurm.node import ask, jobs, until

SMALL = ("hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.mem_gb=1")
SMALL += ("hydra.launcher.cpus_per_task=1", "method=lora")
LONG = ("data.train_size=400", "trainer.epochs=20")  # long enough to be met in the middle
PATIENCE = 400  # seconds


def start(environment, output: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "train.py", "-m", *TINY, f"output_dir={output}", *SMALL, *words]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def call(environment, output: Path, *words: str) -> tuple[int, list[str], list[str]]:
    """Exit status and the lines of both streams."""
    return finish(start(environment, output, *words))


def finish(process: subprocess.Popen) -> tuple[int, list[str], list[str]]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out.splitlines(), err.splitlines()


def until_it_trains(output: Path, runs: int = 1) -> None:
    until(lambda: len(list(output.glob("default/*/checkpoint.safetensors"))) == runs, PATIENCE)


def process_of(job: str) -> psutil.Process:
    """The Python process in which a job trains."""
    [process] = [
        process
        for process in psutil.process_iter(["cmdline", "name"])
        if process.info["name"].startswith("python")
        and "submitit.core._submit" in process.info["cmdline"]
        and job == "_".join(process.environ().get(f"SLURM_ARRAY_{part}_ID", "") for part in ("JOB", "TASK"))
    ]
    return process


def test_cells_are_trained_once_and_a_failed_one_is_named(environment, tmp_path):
    words = ("trainer.learning_rate=1e30,1e-3",)
    status, out, err = call(environment, tmp_path, *words)
    assert status == 1
    assert out[0] == "sweep: 2 runs, 2 of them to train"
    assert out[1].startswith("jobs ")
    assert re.fullmatch(r"\[\d/2\] complete: .*trainer.learning_rate=0.001", out[2])
    assert len(out) == 3
    [line] = err
    assert line.startswith("error: failed: ")
    assert "trainer.learning_rate=1e+30: the loss is nan" in line
    assert sorted(record["status"] for record in science(tmp_path).values()) == ["complete", "failed"]

    status, out, err = call(environment, tmp_path, *words)
    assert (status, out) == (1, ["sweep: 2 runs, 0 of them to train"])
    assert "retry=true" in err[0]

    command = [sys.executable, "scripts/status.py", "-m", *TINY, f"output_dir={tmp_path}", *SMALL, *words]
    assert "1 complete, 0 running, 0 queued, 0 interrupted, 1 failed" in ask(environment, *command)


def test_a_job_that_is_queued_again_ends_as_an_undisturbed_one_with_all_its_curves(environment, tmp_path):
    """The signal is the one before the time limit. W&B's service hears it too."""
    words = (*LONG, "logger=offline")
    process = start(environment, tmp_path / "stopped", *words)
    until_it_trains(tmp_path / "stopped")
    [job] = jobs(environment)
    ask(environment, "scancel", "--signal=USR2", job)
    status, _, err = finish(process)
    assert (status, err) == (0, [])
    assert "Restarts=1" in ask(environment, "scontrol", "show", "job", job)
    said = "".join(path.read_text() for path in tmp_path.glob("stopped/default/.submitit/*/*.out"))
    assert "resumes at step" in said
    assert said.count("learning rate") == 2  # both parts have their first line
    assert "W&B stopped" not in said

    assert call(environment, tmp_path / "undisturbed", *words)[0] == 0
    assert science(tmp_path / "stopped") == science(tmp_path / "undisturbed")
    assert len(list(tmp_path.glob("stopped/default/*/wandb/offline-run-*"))) == 2
    assert curves(tmp_path / "stopped") == curves(tmp_path / "undisturbed")


def curves(output: Path) -> dict[int, float]:
    """The training loss by step, in all of W&B's files of a run."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for file in sorted(output.glob("default/*/wandb/offline-run-*/run-*.wandb")):
        for entry in entries(file.read_bytes()):
            record = Record.FromString(entry)
            values = {"".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if "train/loss" in values:
                found[record.history.step.num] = json.loads(values["train/loss"])
    assert found
    return found


def entries(data: bytes) -> Iterator[bytes]:
    """Of a file in the format of LevelDB's log: blocks of 32 KiB, in which an entry may lie in pieces."""
    place, pieces = 7, b""
    while place + 7 <= len(data):
        if (room := 2**15 - place % 2**15) < 7:
            place += room
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        pieces += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield pieces
            pieces = b""


def test_lost_jobs_are_named_and_the_others_are_waited_for(environment, tmp_path):
    """A killed process, a cancelled job and one that is not disturbed. Nothing asks for accounting, which is not there."""
    process = start(environment, tmp_path, *LONG, "seed=0,1,2")
    until_it_trains(tmp_path, runs=3)
    killed, cancelled, _ = jobs(environment)
    os.kill(process_of(killed).pid, signal.SIGKILL)
    ask(environment, "scancel", cancelled)
    status, out, err = finish(process)
    assert status == 1
    assert next(line for line in out if " complete: " in line).endswith("seed=2")
    assert sorted(re.search(r"seed=(\d): job (\S+) is (\w+)", line).groups() for line in err) == [
        ("0", killed, "FAILED"),
        ("1", cancelled, "CANCELLED"),
    ]
    for line in err:
        assert Path(re.search("its log: (.*?);", line)[1]).exists()
        assert line.endswith("the same command resumes it")
    status, out, err = call(environment, tmp_path, *LONG, "seed=0,1,2")
    assert (status, out[0], err) == (0, "sweep: 3 runs, 2 of them to train", [])


@pytest.mark.parametrize(
    ("asked", "way_out"),
    [
        ("gpus_per_node=1", "hydra.launcher.gpus_per_node=null"),
        ("mem_gb=1000", "hydra.launcher.mem_gb=N"),
        ("cpus_per_task=1000", "hydra.launcher.cpus_per_task=N"),
        ("partition=nowhere", "hydra.launcher.partition=NAME"),
    ],
)
def test_a_request_that_no_node_satisfies_is_one_sentence_with_the_way_out(asked, way_out, environment, tmp_path):
    status, _, err = call(environment, tmp_path, "seed=0,1", f"hydra.launcher.{asked}")
    assert status == 2
    [line] = err
    assert line.startswith("error: Slurm ")
    assert way_out in line
    assert not jobs(environment)


def test_ctrl_c_leaves_the_jobs_in_the_queue(environment, tmp_path):
    process = start(environment, tmp_path, *LONG)
    until_it_trains(tmp_path)
    process.send_signal(signal.SIGINT)
    status, _, [line] = finish(process)
    [job] = jobs(environment)
    assert status == 130
    assert f"the jobs stay in the queue (scancel {job} ends them)" in line


def test_a_second_command_waits_for_the_jobs_of_the_first(environment, tmp_path):
    first = start(environment, tmp_path, *LONG, "seed=0,1")
    until_it_trains(tmp_path, runs=2)
    first.kill()
    finish(first)
    before = jobs(environment)
    status, out, err = call(environment, tmp_path, *LONG, "seed=0,1,2")
    assert (status, err) == (0, [])
    assert out[:2] == ["sweep: 3 runs, 3 of them to train", "2 runs in the queue already"]
    assert len(science(tmp_path)) == 3
    numbers = json.loads((tmp_path / "default/.submitit/jobs.json").read_text()).values()
    assert len(set(numbers)) == 3
    assert set(numbers) > set(before)


def test_runs_wait_in_the_queue_for_the_run_that_they_start_from(environment, tmp_path):
    process = start(environment, tmp_path, "start=mnli", "task=rte,mrpc", *LONG)
    until_it_trains(tmp_path)
    asked = ask(environment, "squeue", "--noheader", "--array", "--format=%T|%r").splitlines()
    assert sorted(asked) == ["PENDING|Dependency", "PENDING|Dependency", "RUNNING|None"]
    status, out, err = finish(process)
    assert (status, err) == (0, [])
    assert out[:2] == ["sweep: 2 runs, 2 of them to train", "2 runs waiting for another run"]
    assert sorted(name.split("-")[1] for name in science(tmp_path)) == ["mnli", "mrpc", "rte"]


def test_runs_whose_start_is_lost_are_cancelled_and_named(environment, tmp_path):
    process = start(environment, tmp_path, "start=mnli", "task=rte", *LONG)
    until_it_trains(tmp_path)
    ask(environment, "scancel", "--state=RUNNING", "--user=root")
    status, _, err = finish(process)
    assert status == 1
    assert sorted(re.search(r"task=(\w+)", line)[1] for line in err) == ["mnli", "rte"]
    assert "cancelled because the run it starts from did not complete" in "".join(err)
    assert not jobs(environment)


def test_runs_whose_start_diverges_are_cancelled_and_named(environment, tmp_path):
    status, _, err = call(environment, tmp_path, "start=mnli", "task=rte", "trainer.learning_rate=1e30")
    assert status == 1
    assert sorted(err)[0].startswith("error: failed: ")
    assert "cancelled because the run it starts from did not complete" in sorted(err)[1]
    assert [record["status"] for record in science(tmp_path).values()] == ["failed"]


def test_a_job_at_its_time_limit_is_queued_again_and_reported_after_the_last_retry(environment, tmp_path):
    """Takes four minutes: Slurm's shortest limits are minutes, and it looks at them twice a minute."""
    limits = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=30", "hydra.launcher.max_num_timeout=1")
    words = (*limits, "data.train_size=400", "trainer.epochs=20000")
    status, _, [line] = call(environment, tmp_path, *words)
    assert status == 1
    assert re.search(r"^error: interrupted: .* reached its time limit, 2 minutes, too often to be queued again; ", line)
    assert line.endswith("the same command resumes it")
    said = Path(re.search("its log: (.*?);", line)[1]).with_suffix(".out").read_text()
    assert said.count("resumes at step") == 1


def test_a_job_ends_and_reports_that_another_process_trains_its_run(environment, tmp_path):
    """Takes two minutes: a job waits that long for a lock."""
    words = (*TINY, f"output_dir={tmp_path}", "method=lora", "data.train_size=400", "trainer.epochs=20000")
    other = subprocess.Popen([sys.executable, "train.py", *words], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        until_it_trains(tmp_path)
        status, _, [line] = call(environment, tmp_path, *words[-2:])
    finally:
        other.kill()
        other.wait()
    assert status == 1
    assert line.startswith("warning: running: ")
    assert "another process is training it; job " in line
    assert not jobs(environment)
