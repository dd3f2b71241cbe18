"""Every flag of Hydra's with every launcher: it reaches every run, or prints and trains nothing, or is refused in a sentence.

All in this process: what a launcher would start is called in its place, with a `train` that only notes its run.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import cloudpickle
import pytest
import submitit
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from support.command_line import ENVIRONMENT, ROOT, TINY
from support.warm import WarmProcess

import train
from core.errors import UserError
from experiments.config import RunConfig
from experiments.sweep import EXPECTED, cells, exit_statuses

LAUNCHERS = ["processes", *sorted(file.stem for file in (ROOT / "conf/hydra/launcher").iterdir())]
RUN = (*(word for word in TINY if "batch" not in word), "output_dir=runs")
OWN = "seed: 7\ntrainer: {weight_decay: 0.25}\n"
RUN_FLAGS = {  # with words that they make possible
    "-m --config-dir=own": ("experiment=ours",),
    "--multirun -cd own --config-name=mine": (),
    "-m --config-path=WHOLE -cn other": (),
}
SHOWN = {  # by a flag that trains nothing
    "--cfg job": "weight_decay: 0.1",
    "--cfg job --resolve": "weight_decay: 0.1",
    "-c job --package trainer": "weight_decay: 0.1",
    "--cfg hydra": "sweeper:",
    "--cfg all": "sweeper:",
    "--shell-completion install=bash": "complete -o",
    "--help": "python train.py --cfg job",
    "--hydra-help": "--config-name",
    "--version": "Hydra 1.3",
}
REFUSED = {
    "--experimental-rerun=x.pickle": "--experimental-rerun reads a pickle",
    "--resolve": "--resolve fills in what --cfg shows: write --cfg job --resolve",
    "--package trainer": "--package shows a part of --cfg",
    "--run -m": "--run and --multirun: give one of them at a time",
    "-m --cfg job": "--cfg shows the settings of one run",
    "-m --info all": "--multirun and --info: give one of them at a time",
    "-m --shell-completion": "--multirun and --shell-completion: give one of them at a time",
    "-m --package trainer": "--package shows a part of --cfg",
    "-m hydra.mode=RUN": "-m is a sweep: leave out one of them",
    "-m hydra.job.chdir=true": "settings name folders from where the command is given; leave it out",
    "--hydra-help seed=1": "--hydra-help takes no settings",
    "-cn nothere": "there is no nothere.yaml in conf/, --config-path or --config-dir",
    "-cd nothing": "Additional config directory",
    "-cp nothing": "Primary config module 'nothing' not found",
    "-m --resolve": "--resolve fills in what --cfg shows: write --cfg job --resolve",
}


trained: list[tuple[RunConfig, str | None]] = []  # each with the hash that its sweep expects


def note(run: RunConfig, start: RunConfig | None = None) -> None:
    """In place of `train.train`; jobs of submitit's find it by its name."""
    trained.append((run, os.environ.get(EXPECTED)))


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """Gives `train.py` these words, in a folder with what the flags name.

    The call returns the exit status of the command or its jobs, both streams, and the runs that they would train.
    """
    jobs: list[Callable[[], int]] = []
    trained.clear()
    Plugins.instance()  # imports the launchers once more, the first time

    class Job:
        """A process, or a job of submitit's, that is over as soon as it is asked."""

        job_id, paths = "7", SimpleNamespace(folder=tmp_path)
        returncode, stdout = 0, None

        def poll(self) -> int:
            return 0

    def train_py(words: list[str], environment: dict[str, str]) -> int:
        with pytest.MonkeyPatch.context() as patch:
            GlobalHydra.instance().clear()
            patch.setattr(sys, "argv", ["train.py", *words])
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                return train.cli()
            except SystemExit as end:  # after --help and the like
                return int(end.code or 0)

    def unpickled(job: bytes) -> int:
        with pytest.MonkeyPatch.context() as patch:
            GlobalHydra.instance().clear()
            exit_statuses.clear()
            patch.setenv(EXPECTED, "")  # what the job sets is taken back
            patch.delenv(EXPECTED)
            patch.setattr(sys, "tracebacklimit", None, raising=False)
            patch.setattr(submitit, "JobEnvironment", Job)
            function, words = cloudpickle.loads(job)
            try:
                function(*words)
            except UserError:  # after the run's own sentence
                return 2
        return 0

    def popen(words: list[str], env: dict[str, str], **_) -> Job:
        jobs.append(lambda: train_py(words[2:], env))
        return Job()

    def map_array(_, function, *columns) -> list[Job]:
        pickles = [cloudpickle.dumps((function, row)) for row in zip(*columns, strict=True)]
        jobs.extend(lambda job=job: unpickled(job) for job in pickles)
        return [Job() for _ in pickles]

    for name in ("bin/sbatch", "bin/srun"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "own/experiment").mkdir(parents=True)
    (tmp_path / "own/mine.yaml").write_text(f"defaults: [config, _self_]\n{OWN}")
    (tmp_path / "own/experiment/ours.yaml").write_text(f"# @package _global_\nexperiment: ours\n{OWN}")
    shutil.copytree(ROOT / "conf", tmp_path / "whole")
    for name in ("other", "config"):
        text = (ROOT / "conf/config.yaml").read_text()
        (tmp_path / f"whole/{name}.yaml").write_text(f"{text}\n{OWN}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "")  # launchers add to it
    monkeypatch.setattr(train, "train", note)
    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(submitit.AutoExecutor, "map_array", map_array)
    monkeypatch.setattr("hydra_plugins.job_launchers.Jobs.watch", lambda *_: None)

    def given(flags: str, *more: str, before_jobs: Callable[[], object] = bool) -> SimpleNamespace:
        flags = flags.replace("WHOLE", str(tmp_path / "whole")).split()
        words = [*flags, *more]
        status = train_py(words, {})
        before_jobs()
        status = max([status, *(job() for job in jobs)])
        GlobalHydra.instance().clear()
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err, runs=trained, words=words)

    return given


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("flags", RUN_FLAGS)
def test_a_flag_that_chooses_settings_reaches_every_run(flags, launcher, call):
    done = call(flags, *RUN, f"hydra/launcher={launcher}", "trainer.batch_size=4,8", *RUN_FLAGS[flags])
    assert (done.status, done.err) == (0, "")
    runs, expected = zip(*done.runs, strict=True)
    assert {(run.seed, run.trainer.weight_decay) for run in runs} == {(7, 0.25)}
    assert sorted(run.trainer.batch_size for run in runs) == [4, 8]
    assert [run.hash for run in runs] == list(expected)
    if launcher == "processes":  # what status.py finds
        assert [run.hash for run in cells(done.words)] == list(expected)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_run_whose_files_have_changed_trains_as_its_sweep_asks_or_not_at_all(launcher, call, tmp_path):
    mine = tmp_path / "own/mine.yaml"
    change = partial(mine.write_text, mine.read_text().replace("7", "8"))
    done = call("-m -cd own -cn mine", *RUN, f"hydra/launcher={launcher}", before_jobs=change)
    if launcher == "processes":
        assert done.runs == []
        assert "the sweep expects a run with hash" in done.err
    else:  # a job waits for hours: it brings what its sweep has read
        assert [run.seed for run, _ in done.runs] == [7]


@pytest.mark.parametrize("flag", ["", "--run"])
def test_a_command_without_a_sweep_trains_one_run(flag, call):
    done = call(f"{flag} -cd own -cn mine", *RUN)
    assert (done.status, done.err) == (0, "")
    assert [run.seed for run, _ in done.runs] == [7]


def test_info_is_printed(tmp_path):
    process = WarmProcess(["--info", "all"], ENVIRONMENT, tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "Config search path" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", SHOWN)
def test_a_flag_that_shows_something_trains_nothing(flags, call):
    done = call(flags)
    assert (done.status, done.err, done.runs) == (0, "", [])
    assert SHOWN[flags] in done.out


@pytest.mark.parametrize("flags", REFUSED)
def test_a_flag_that_does_not_fit_is_refused_in_a_sentence(flags, call):
    done = call(flags, "hydra/launcher=slurm")
    assert (done.status, done.out, done.runs) == (2, "", [])
    assert done.err.count("\n") == 1
    assert done.err.startswith("error: ")
    assert REFUSED[flags] in done.err


def test_every_flag_is_in_a_table():
    told = " ".join([*RUN_FLAGS, *SHOWN, *REFUSED, "--run"]).replace("=", " ").split()
    flags = [action.option_strings[0] for action in get_args_parser()._actions if action.option_strings]
    assert [flag for flag in flags if flag not in told] == []
