"""Sweeps as a user starts them: mistakes, kills, failed runs, and the lock on a run's folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from support.command_line import ENVIRONMENT, ROOT, TINY, call, compose, science, start
from support.files import mirror
from support.warm import WarmProcess

from core.errors import UserError
from experiments.composer import Composer, run_config
from experiments.run_folder import RunFolder
from experiments.sweep import EXPECTED, cells, returns


def test_a_sweep_continues_after_a_mistake_and_reports_it_at_the_end(tmp_path):
    words = ("method=lora", "method.rank=2,0,3", "hydra.launcher.parallel=2")
    status, out, err = call(tmp_path, *words)
    assert status == 2
    assert err.count("method.rank is 0") == 1
    assert "Traceback" not in err
    assert sorted(line[:3] for line in out.splitlines() if "] result: " in line) == ["[1]", "[2]"]
    assert len(list(tmp_path.rglob("result.json"))) == 2
    status, out, err = call(tmp_path, *words)
    assert status == 2
    assert out == "sweep: 3 runs, 0 of them to train, 1 refused\n"


def test_a_sweep_says_which_runs_committed_records_finish(tmp_path):
    words = ("experiment=minilm", "task=cola", "method=head", "seed=0,1", "data.path=/nowhere")
    process = WarmProcess(["-m", *words, f"output_dir={tmp_path}"], ENVIRONMENT, tmp_path)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "sweep: 2 runs, 0 of them to train\n")
    assert "2 runs with a record in paper_tables/records (reuse_records=false trains here)" in err
    assert [path.parent.name for path in tmp_path.rglob("multirun.yaml")] == ["minilm"]  # beside the sweep's own runs


def test_a_setting_that_one_method_lacks_is_named_with_its_cell(tmp_path):
    """The others go on to their own mistakes; status.py names the cell too."""
    words = ("method=lora,full", "task=cola", "seed=0,1", "method.rank=8", "trainer.batch_size=0")
    status, out, err = call(tmp_path, *words)
    assert (status, out) == (2, "sweep: 4 runs, 0 of them to train, 4 refused\n")
    first, second = err.splitlines()
    assert re.search(r": .*method=lora .*: trainer.batch_size is 0; .* \(and in 1 more run\)$", first)
    assert re.search(
        r": .*method=full .*: unknown setting 'method.rank'; there are: name \(and in 1 more run\)$", second
    )
    with pytest.raises(UserError, match=r"method=full task=cola seed=0 method.rank=8: unknown setting 'method.rank'"):
        cells(words[:4])


@pytest.mark.parametrize("words", [("data=local", "data.path=/nowhere"), ("init_from=/nowhere",)])
def test_a_folder_that_is_not_there_is_one_error_before_the_sweep(words, tmp_path):
    status, out, err = call(tmp_path, "method=lora", "task=cola,rte,stsb", "seed=0,1", *words)
    assert (status, out, err.count("\n")) == (2, "sweep: 6 runs, 0 of them to train, 6 refused\n", 1)
    key = words[-1].partition("=")[0]
    assert err.endswith(f": {key}: there is no folder /nowhere (and in 5 more runs)\n")


def test_a_sweep_on_a_folder_without_the_task_is_told_once_before_any_run(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    words = ("method=lora,full", "task=cola", "seed=0,1", "data=local", f"data.path={folder}", "logger=none")
    status, _, err = call(tmp_path, *words)
    assert status == 2
    [line] = [line for line in err.splitlines() if "data.path" in line and "no cola" in line]
    assert line.endswith("(and in 3 more runs)")
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_sweep_takes_settings_that_the_default_method_lacks():
    runs = cells(["method=houlsby,pfeiffer", "method.bottleneck=8", "method.activation='gelu'", "task=cola"])
    assert [(run.method.name, run.method.bottleneck) for run in runs] == [("houlsby", 8), ("pfeiffer", 8)]


def test_a_sweep_hands_its_configuration_to_its_runs(tmp_path):
    """`--config-dir` and `--config-name`; status.py finds the same cells."""
    (tmp_path / "own").mkdir()
    own = "defaults: [config, _self_]\nseed: 7\ntrainer: {weight_decay: 0.25}\n"
    (tmp_path / "own" / "mine.yaml").write_text(own)
    flags = (f"--config-dir={tmp_path / 'own'}", "--config-name=mine")
    words = (*TINY, f"output_dir={tmp_path}", "method=lora", "task=cola,rte")
    [first, second] = cells([*flags, *words])
    assert {(run.seed, run.trainer.weight_decay) for run in (first, second)} == {(7, 0.25)}
    process = WarmProcess([*flags, "-m", *words], ENVIRONMENT, tmp_path)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err.count("error")) == (0, 0), err
    assert {path.parent for path in tmp_path.rglob("result.json")} == {first.folder, second.folder}


def test_a_run_refuses_other_settings_than_its_sweep_expects(tmp_path):
    words = [*TINY, f"output_dir={tmp_path}", "method=lora", "task=cola"]
    process = WarmProcess(words, ENVIRONMENT | {EXPECTED: "0" * 16}, tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "the sweep expects a run with hash 0000000000000000, this process composes " in err


def test_a_command_takes_one_experiment(tmp_path):
    two = "experiment=lora_table5,lora_table6"
    apart = two.replace(",", " experiment=").split()
    for words in (["-m", two], [two], ["-m", "experiment=glob(lora_table*)"], ["-m", *apart]):
        process = WarmProcess(words, ENVIRONMENT, tmp_path)
        _, err = process.communicate(timeout=120)
        given = " ".join(word for word in words if word != "-m")
        sentence = f"error: {given}: a command trains the grid of one experiment; give one command for each\n"
        assert (process.returncode, err) == (2, sentence)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "this trains one run of it: add -m for all, or choose seed, task, method"),
        (
            ("method=head", "task=cola", "trainer.learning_rate=1e-2"),
            "this trains one run of it: add -m for all, or choose seed",
        ),
        (("method=head", "task=cola", "trainer.learning_rate=1e-2", "seed=0"), ""),
    ],
)
def test_one_run_of_a_grid_says_what_chose_it(words, said, tmp_path):
    """The settings that the command leaves open are named; the data is not there, so that nothing trains."""
    command = ["experiment=minilm", *words, "reuse_records=false", "data.path=/nowhere", f"output_dir={tmp_path}"]
    _, err = WarmProcess(command, ENVIRONMENT, tmp_path).communicate(timeout=120)
    warned = [line for line in err.splitlines() if "is a grid" in line]
    assert warned == [f"warning: experiment=minilm is a grid; {said}"] * bool(said)
    assert "/nowhere" in err


def test_a_sweep_whose_reader_is_gone_trains_every_run(tmp_path):
    """As `| head -1` leaves it."""
    process = start(tmp_path, "seed=0,1", "hydra.launcher.parallel=2", piped=True)
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    assert process.communicate(timeout=120)[1] == ""
    assert process.returncode == 0
    assert len(list(tmp_path.rglob("result.json"))) == 2


def kill(process: subprocess.Popen) -> None:
    """Sends SIGKILL to the sweep and to all that it started."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    process.kill()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    process.communicate(timeout=60)


def test_a_killed_sweep_resumes_and_ends_like_an_undisturbed_one(tmp_path):
    words = ("method=full,lora", "data.train_size=200", "trainer.epochs=8", "trainer.eval_every=20")
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    process = start(tmp_path / "parts", *words)
    deadline = time.monotonic() + 120
    second = "lora-*/checkpoint.safetensors"
    while not list((tmp_path / "parts/default").glob(second)) and time.monotonic() < deadline:
        time.sleep(0.02)
    kill(process)
    first = next((tmp_path / "parts/default").glob("full-*/result.json"))
    before = first.stat().st_mtime_ns
    assert not list((tmp_path / "parts/default").glob("lora-*/result.json"))
    status, out, err = call(tmp_path / "parts", *words)
    assert status == 0, err
    assert "2 runs, 1 of them to train" in out
    assert "resumes at step" in out
    assert first.stat().st_mtime_ns == before
    assert call(tmp_path / "whole", *words)[0] == 0
    assert len(science(tmp_path / "whole")) == 2
    assert science(tmp_path / "parts") == science(tmp_path / "whole")


def test_a_sweep_that_receives_a_signal_writes_its_checkpoint(tmp_path):
    process = start(tmp_path, "method=full,lora", "data.train_size=400", "trainer.epochs=200")
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("checkpoint.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: the sweep" in err
    [record] = tmp_path.rglob("result.json")
    assert json.loads(record.read_text())["status"] == "interrupted"


def test_zero_parallel_runs_are_refused(tmp_path):
    status, out, err = call(tmp_path, "hydra.launcher.parallel=0")
    assert (status, out, err) == (2, "", "error: hydra.launcher.parallel is 0; it must be at least 1\n")


def test_a_failed_run_is_named_and_retrained_with_retry(tmp_path):
    words = ("method=full", "trainer.learning_rate=1e-3,1e30")
    status, out, err = call(tmp_path, *words)
    assert status == 1
    assert "lower" in err
    status, out, err = call(tmp_path, *words)
    assert (status, out) == (1, "sweep: 2 runs, 0 of them to train\n")
    assert "failed before: " in err
    assert "retry=true" in err
    status, out, err = call(tmp_path, *words, "retry=true")
    assert status == 1
    assert "sweep: 2 runs, 1 of them to train" in out


def test_a_finished_run_does_not_count_for_other_data(tmp_path):

    for name in ("a", "b"):
        mirror(tmp_path / name, "cola" if name == "a" else "rte")
    words = ("method=lora", "data=local", "data.train_size=null", "data.eval_size=null", "trainer.epochs=1")
    assert call(tmp_path, *words, f"data.path={tmp_path / 'a'}")[0] == 0
    status, out, err = call(tmp_path, *words, f"data.path={tmp_path / 'b'}")
    assert status == 2
    assert "0 of them to train" in out  # the folder is looked at before the run begins
    assert "has no cola" in err


def test_a_searching_sweeper_gets_each_runs_score_on_held_out_data():
    """By committed records, and for a run that nobody trained."""
    words = ["experiment=minilm", "task=cola", "data.path=x", "method=head", "trainer.learning_rate=1e-2"]
    jobs = [[*words, f"seed={seed}"] for seed in (0, 1, 77)]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for sweeper in ("cells", "basic"):
            config = loader.load_configuration("config", [f"hydra/sweeper={sweeper}"], RunMode.MULTIRUN)
            scores = [job.return_value for job in returns(config, jobs)]
            if sweeper == "cells":  # a grid, which reads no records again
                assert scores == [None, None, None]
    records = [RunFolder.of(compose(*job)).committed_record() for job in jobs]
    assert scores == [record and record["selected"]["held_out"]["matthews_correlation"] for record in records]
    assert [score is None for score in scores] == [False, False, True]


def test_only_one_process_at_a_time_trains_in_a_folder(tmp_path):
    folder = RunFolder(tmp_path / "run", "")
    assert not folder.is_locked()
    with folder.lock():
        assert folder.is_locked()
        code = "from pathlib import Path\nfrom experiments.run_folder import RunFolder\n"
        code += f"with RunFolder(Path({str(folder.path)!r}), '').lock(): print('in')"
        other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert "; waiting" in other.stdout.readline()
    assert other.communicate(timeout=60)[0] == "in\n"
    assert not folder.is_locked()


def test_a_slurm_job_does_not_wait_long_for_another_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr("experiments.run_folder.LEASE", 0.1)
    folder = RunFolder(tmp_path / "run", "")
    with (
        folder.lock(),
        pytest.raises(
            UserError,
            match=r"is being trained by another process; a Slurm job waits 0.1 seconds at most",
        ),
        folder.lock(),
    ):
        pass
    assert "; waiting 0.1 seconds at most" in capsys.readouterr().out
    assert not folder.is_locked()


JOBS = [
    ["method=lora", "seed=1", "method.rank=2", "trainer.learning_rate=1e-3"],
    ["seed=1", "method.rank=4", "method=lora", "trainer.learning_rate=1e-3"],
    ["method=dora", "seed=1", "+backbone.architecture.hidden_dropout_prob=0.3", "trainer.epochs=0.5"],
    ["method=dora", "seed=2", "+backbone.architecture.hidden_dropout_prob=0.2", "backbone=tiny"],
    ["method=vera", "task=rte", "method.projection_seed=7", "data.path=null", "tags=[a,b]", "note='x, y'"],
    ["method=vera", "task=rte", "seed=3", "hydra.job.name=x"],
]


def test_a_search_path_of_ones_own_is_read(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/ours.yaml").write_text("# @package _global_\nseed: 7\n")
    words = [f"hydra.searchpath=[{tmp_path}]", "experiment=ours", "method=lora,dora", "task=cola,rte"]
    assert [(run.seed, run.experiment) for run in cells(words)] == [(7, "ours")] * 4


def test_jobs_are_composed_as_hydra_composes_them_and_shared_files_once(monkeypatch):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", ["experiment=minilm", "data.path=x"], RunMode.MULTIRUN)
        expected = [run_config(loader.load_sweep_config(master, job)) for job in JOBS]
        composed, load = [], loader.load_sweep_config
        monkeypatch.setattr(loader, "load_sweep_config", lambda *words: composed.append(words[1]) or load(*words))
        read, load_config = Counter[str](), ConfigRepository.load_config
        monkeypatch.setattr(
            ConfigRepository, "load_config", lambda here, name: read.update([name]) or load_config(here, name)
        )
        composer = Composer(loader, master)
        assert [composer.run(job) for job in JOBS] == expected
        assert [composer.run([*JOBS[0], f"seed={seed}"]).seed for seed in range(5)] == list(range(5))
    assert set(read.values()) == {1}
    assert composed == [
        ["method=lora"],
        ["method=dora", "+backbone.architecture.hidden_dropout_prob=0.3"],
        ["method=dora", "+backbone.architecture.hidden_dropout_prob=0.2", "backbone=tiny"],
        ["method=vera", "task=rte"],
        ["method=vera", "task=rte", "hydra.job.name=x"],
    ]
