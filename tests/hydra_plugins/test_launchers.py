"""Sweeps through submitit: on this machine, and what Slurm is asked for."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import hydra
import psutil
import pytest
import submitit.core.utils
from omegaconf import OmegaConf
from support.command_line import ENVIRONMENT, ROOT, TINY, compose, science
from support.warm import WarmProcess

from core.errors import UserError
from experiments.run_folder import RunFolder
from experiments.slurm_jobs import NotedJobs
from experiments.sweep import require_sweep, start_words
from hydra_plugins.job_launchers import Cell, SlurmLauncher
from hydra_plugins.slurm_queue import Queue, refusal


def start(output: Path, *words: str) -> WarmProcess:
    return WarmProcess(["-m", *TINY, f"output_dir={output}", "method=lora", *words], ENVIRONMENT, ROOT)


def logs(output: Path) -> str:
    """What the jobs printed."""
    return "".join(path.read_text() for path in sorted(output.glob("default/.submitit/*/*_log.*")))


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_submitit_gives_the_default_launchers_records_and_a_failed_job_fails_alone(tmp_path):
    words = ("trainer.learning_rate=-1,1e30,1e-3",)
    sweeps = [start(tmp_path / name, f"hydra/launcher={name}", *words) for name in ("processes", "local")]
    said = [process.communicate(timeout=300)[1] for process in sweeps]
    assert [process.returncode for process in sweeps] == [2, 2]
    assert "trainer.learning_rate is -1.0; it must be above 0" in said[1] + logs(tmp_path / "local")
    assert "Traceback" not in "".join(said)
    records = science(tmp_path / "local")
    assert sorted(record["status"] for record in records.values()) == ["complete", "failed"]
    assert records == science(tmp_path / "processes")
    pickles = (tmp_path / "local").glob("default/.submitit/*/*_result.pkl")
    ends = sorted(submitit.core.utils.pickle_load(path)[0] for path in pickles)
    assert ends == ["error", "success"]  # the failed run's job fails, so Slurm starts no job that depends on it


@pytest.mark.parametrize("terminal", [True, False])
def test_a_local_sweep_that_is_stopped_stops_its_jobs_at_a_checkpoint(terminal, tmp_path):
    """Ctrl-C reaches every process of a terminal; a scheduler or `kill` asks the sweep alone."""
    process = start(tmp_path, "hydra/launcher=local", "seed=0,1", "data.train_size=200", "trainer.epochs=1000")
    wait_for(lambda: len(list(tmp_path.rglob("checkpoint.safetensors"))) == 2)
    jobs = jobs_of(process)
    assert len(jobs) == 4  # submitit's controller and the run, twice
    (os.killpg if terminal else os.kill)(process.pid, signal.SIGINT if terminal else signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith(
        "interrupted: the sweep, with 2 runs to train when it began; the same command"
    )
    assert "Traceback" not in said
    assert [record["status"] for record in science(tmp_path).values()] == ["interrupted"] * 2
    assert psutil.wait_procs(jobs, timeout=20)[1] == []


def jobs_of(sweep: WarmProcess) -> list[psutil.Process]:
    """Submitit's processes for the runs of a sweep."""
    return psutil.Process(sweep.pid).children(recursive=True)


def test_a_second_ctrl_c_ends_a_local_sweeps_jobs_that_do_not_train_yet(tmp_path):
    run = compose(*TINY, f"output_dir={tmp_path}", "method=lora", "seed=0")
    with RunFolder.of(run).lock():  # the job waits, and submitit ignores SIGTERM
        process = start(tmp_path, "hydra/launcher=local", "seed=0")
        wait_for(lambda: "; waiting" in logs(tmp_path))
        wait_for(lambda: "jobs " in Path(process.files[0].name).read_text())  # while it hands over, it ignores Ctrl-C
        jobs = jobs_of(process)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=300)
        assert process.returncode == 130
        assert psutil.wait_procs(jobs, timeout=20)[1] == []


def test_a_preempted_job_resumes_from_its_checkpoint(tmp_path):
    """Slurm warns a job before its time limit: the same signal, and what submitit does on it."""
    process = start(tmp_path, "hydra/launcher=local", "data.train_size=200", "trainer.epochs=6")
    wait_for(lambda: list(tmp_path.rglob("checkpoint.safetensors")))
    [controller] = [path.name for path in (tmp_path / "default/.submitit").iterdir() if path.name.isdigit()]
    os.kill(int(subprocess.check_output(["pgrep", "-P", controller])), signal.SIGUSR2)
    process.communicate(timeout=300)
    assert process.returncode == 0
    [record] = science(tmp_path).values()
    assert record["status"] == "complete"
    assert "resumes at step" in logs(tmp_path)


def test_slurm_is_asked_for_one_gpu_a_job(tmp_path, monkeypatch):
    """A fake Slurm writes down each request and refuses it."""
    for name, script in (("srun", ""), ("sbatch", f"cp $1 {tmp_path}/asked; echo no such partition >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    words = ("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "experiment=subspace", "seed=range(9)")
    assert "no such partition" in start(tmp_path, *words).communicate(timeout=300)[1]
    asked = (tmp_path / "asked").read_text().splitlines()
    for flag in (
        "gpus-per-node=1",
        "ntasks-per-node=1",
        "nodes=1",
        "cpus-per-task=4",
        "mem=32GB",
        "time=1440",
        "signal=USR2@600",
        "array=0-17%16",
        "partition=gpu",
        "job-name=subspace",
        f"output={tmp_path}/subspace/.submitit/%A_%a/%A_%a_0_log.out",
    ):
        assert f"#SBATCH --{flag}" in asked
    assert "export SLURM_OPEN_MODE=append" in asked
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in asked


def test_missing_slurm_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "PATH", str(tmp_path))  # this machine may have sbatch
    process = start(tmp_path, "hydra/launcher=slurm", "seed=0,1")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert "hydra/launcher=slurm needs sbatch on the PATH" in said
    assert said.count("\n") == 1


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Queue:
    """A watcher whose squeue and sacct print the files `squeue` and `sacct`, and fail without them."""
    for name in ("squeue", "sacct"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        script = tmp_path / "bin" / name
        script.write_text(f"#!/bin/sh\nexec /bin/cat {tmp_path / name}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return Queue()


def states(queue: Queue, *jobs: str) -> list[tuple[str, bool]]:
    return [(queue.get_state(job, "force"), queue.is_done(job)) for job in jobs]


def test_squeue_tells_the_state_of_jobs_and_sacct_that_of_forgotten_ones(queue, tmp_path):
    rows = ("7_0|CONFIGURING|None", "7_1|CANCELLED|None", "7_2|PENDING|PartitionConfig", "8|CANCELLED|Dependency")
    rows += ("6_0|PENDING|Dependency", "6_1|PENDING|DependencyNeverSatisfied")
    (tmp_path / "squeue").write_text("\n".join(rows))
    assert states(queue, "7_0", "7_1", "7_2", "8_0", "6_0", "6_1") == [
        ("CONFIGURING", False),
        ("CANCELLED", True),
        ("UNSATISFIABLE", True),
        ("CANCELLED", True),
        ("PENDING", False),
        ("ORPHANED", True),
    ]
    (tmp_path / "sacct").write_text("9_0|CANCELLED by 1000\n9_1|RUNNING\n")
    assert states(queue, "9_0", "9_1") == [("CANCELLED", True), ("FORGOTTEN", True)]


def test_what_jobs_wait_for_is_printed_when_it_changes(queue, tmp_path, capsys):
    for job in ("7_0", "7_1", "7_2"):
        queue.register_job(job)
    looks = [
        ("7_0|PENDING|Resources", "7_1|PENDING|Resources", "7_2|RUNNING|None"),
        ("7_0|PENDING|Resources", "7_1|PENDING|Resources", "7_2|RUNNING|None"),
        ("7_0|PENDING|Resources", "7_1|RUNNING|None", "7_2|RUNNING|None"),
        ("7_0|PENDING|Resources", "7_1|RUNNING|None", "7_2|RUNNING|None"),
        ("7_0|PENDING|Priority", "7_1|RUNNING|None", "7_2|COMPLETED|None"),
    ]
    for rows in looks:
        (tmp_path / "squeue").write_text("\n".join(rows))
        queue.update()
    assert capsys.readouterr().out.splitlines() == [
        "in the queue: 2 pending (Resources), 1 running",
        "in the queue: 1 pending (Resources), 2 running",
        "in the queue: 1 pending (Priority), 1 running",
    ]


def test_without_accounting_a_forgotten_job_is_over(queue, tmp_path):
    (tmp_path / "squeue").touch()
    (tmp_path / "bin/sacct").unlink()
    assert states(queue, "7") == [("FORGOTTEN", True)]


def test_a_queue_that_does_not_answer_is_reported_once_and_keeps_its_states(queue, tmp_path, capsys):
    (tmp_path / "squeue").write_text("7|RUNNING|None")
    assert states(queue, "7") == [("RUNNING", False)]
    (tmp_path / "squeue").unlink()
    for _ in range(2):
        time.sleep(0.002)
        assert states(queue, "7") == [("RUNNING", False)]
    assert capsys.readouterr().err.count("squeue does not answer") == 1


@pytest.mark.parametrize(
    ("said", "way_out"),
    [
        ("Invalid generic resource (gres) specification", "hydra.launcher.gpus_per_node=null"),
        ("Memory specification can not be satisfied", "hydra.launcher.mem_gb=N"),
        ("CPU count per node can not be satisfied", "hydra.launcher.cpus_per_task=N"),
        ("Requested node configuration is not available", "hydra.launcher.cpus_per_task=N"),
        ("Invalid account or account/partition combination specified", "hydra.launcher.account=NAME"),
        ("invalid partition specified: gpu", "hydra.launcher.partition=NAME"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "hydra.launcher.timeout_min=N"),
    ],
)
def test_a_refusal_names_the_setting(said, way_out):
    sentence = refusal(f"sbatch: error: {said}\nsbatch: error: Batch job submission failed: {said}\n")
    assert sentence.startswith(f"Slurm refuses the jobs: {said} (")
    assert way_out in sentence


@pytest.fixture
def launcher(queue, tmp_path, monkeypatch) -> SlurmLauncher:
    """Of a Slurm that takes the first array, as job 7, and refuses the next. It keeps what it is asked."""
    script = f"cp $1 {tmp_path}/asked; [ -e {tmp_path}/one ] && {{ echo no more >&2; exit 1; }}; touch {tmp_path}/one"
    for name, does in (("srun", ""), ("sbatch", f"{script}; echo Submitted batch job 7")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    launcher = SlurmLauncher(submitit_folder=f"{tmp_path}/.submitit/%j", timeout_min=60)
    launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    return launcher


def planned(output: Path, *words: str) -> Cell:
    words = [f"output_dir={output}", *words]
    run, start = compose(*words), start_words(compose(*words), words)
    return Cell(words, run, Cell(start, compose(*start)) if start else None)


def test_jobs_of_an_array_are_noted_even_if_slurm_refuses_the_next_one(launcher, tmp_path):
    runs = [planned(tmp_path, "start=mnli", "task=rte"), planned(tmp_path, "task=cola")]
    with pytest.raises(UserError, match="Slurm refuses the jobs: no more"):
        launcher.submit(runs)
    assert NotedJobs(tmp_path).read() == {runs[0].start.name: "7_0", runs[1].name: "7_1"}
    asked = (tmp_path / "asked").read_text().splitlines()
    assert "#SBATCH --dependency=afterok:7_0" in asked
    assert "#SBATCH --kill-on-invalid-dep=yes" in asked


def test_jobs_in_the_queue_are_taken_up_and_those_that_cannot_start_are_not(launcher, tmp_path):
    runs = [planned(tmp_path, f"seed={seed}") for seed in range(4)]
    NotedJobs(tmp_path).add({cell.name: f"5_{number}" for number, cell in enumerate(runs)})
    (tmp_path / "squeue").write_text("5_0|RUNNING|None\n5_1|PENDING|PartitionConfig\n5_2|COMPLETED|None\n")
    jobs = {job.job_id: cell for job, cell in launcher.submit(runs).items()}
    assert jobs == {"5_0": runs[0], "7_0": runs[1], "7_1": runs[2], "7_2": runs[3]}


@pytest.mark.parametrize(
    ("held", "log", "told"),
    [
        ("run", "", "warning: running: {}: another process is training it; job 7 stopped"),
        ("start", "", "warning: missing: {}: another process is training the run that it starts from; job 7 stopped"),
        (None, "Job not requeued because: timed-out too many times.", "its time limit, 60 minutes, too often to be"),
        (None, "", "error: missing: {}: it left no record; its log: "),
    ],
)
def test_how_a_job_ended_is_printed_in_one_line(held, log, told, launcher, tmp_path, capsys):
    cell = planned(tmp_path / "runs", "start=mnli", "task=rte")
    [job] = launcher.hand_over([cell])
    job.paths.folder.mkdir(exist_ok=True)
    job.paths.stderr.write_text(log)
    job.paths.result_pickle.touch()
    runs = {"run": cell.run, "start": cell.start.run}
    with RunFolder.of(runs[held]).lock() if held else nullcontext():
        launcher.report(job, cell, "[1/1]")
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told.format(" ".join(cell.words)) in err
    assert "the same command" in err


def test_launchers_that_would_not_name_a_failed_run_are_refused():
    for own in ("processes", "local", "slurm"):
        require_sweep([f"hydra/launcher={own}", "method=lora"])
    for other in ("basic", "submitit_local", "submitit_slurm"):
        with pytest.raises(UserError, match=f"hydra/launcher={other} does not skip finished runs"):
            require_sweep([f"hydra/launcher={other}"])


def test_a_clusters_settings_are_a_launcher_of_its_own(tmp_path):
    """As the docs write it."""
    written = re.search(r"```yaml\n(defaults: \[slurm\].*?)```", (ROOT / "docs/clusters.md").read_text(), flags=re.S)
    (tmp_path / "hydra/launcher").mkdir(parents=True)
    (tmp_path / "hydra/launcher/ours.yaml").write_text(written[1])
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [f"hydra.searchpath=[{tmp_path}]", "hydra/launcher=ours"]
        launcher = hydra.compose("config", words, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith(".SlurmLauncher")
    assert (launcher.partition, launcher.account, launcher.cpus_per_task) == ("gpu", "project", 4)
