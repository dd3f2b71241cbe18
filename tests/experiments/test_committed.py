"""A run whose record is committed counts as finished, so that machines can share a grid through git."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest
from support.command_line import ROOT, compose

import train
from analysis.records import collect
from experiments import run_folder
from experiments.record import git_state
from experiments.run_folder import RunFolder
from experiments.sweep import cells
from training.trainer import Trainer

WORDS = (
    "profile=offline",
    "backbone=tiny",
    "logger=none",
    "data.train_size=40",
    "data.eval_size=20",
    "trainer.epochs=1",
)


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """A run whose record alone is left, where records are committed."""
    monkeypatch.setattr(run_folder, "COMMITTED", tmp_path / "records")
    run = replace(compose(*WORDS, f"output_dir={tmp_path / 'runs'}"), experiment="study")
    train.train(run)
    file = tmp_path / "records/study" / f"{run.folder.name}.json"
    file.parent.mkdir(parents=True)
    shutil.copy(run.folder / "result.json", file)
    shutil.rmtree(tmp_path / "runs")
    return run, file


def test_a_committed_run_is_complete_and_not_trained_again(committed, monkeypatch, capsys):
    run, file = committed
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("trained again"))
    assert RunFolder.of(run).status()[0] == "complete"
    train.train(run)
    assert capsys.readouterr().out.endswith(f"result: {file}\n")
    assert not run.folder.exists()


@pytest.mark.parametrize("other", [{"reuse_records": False}, {"force": True}, {"seed": 1}, {"experiment": "default"}])
def test_another_run_or_one_that_asks_for_training_is_missing(committed, other):
    assert RunFolder.of(replace(committed[0], **other)).status()[0] == "missing"


def test_a_committed_record_of_other_settings_does_not_count(committed):
    run, file = committed
    record = json.loads(file.read_text())
    del record["sha256"]
    file.write_text(json.dumps(record | {"schema": 2, "config_hash": "0" * 16}))
    assert RunFolder.of(run).status()[0] == "missing"


def test_a_run_whose_committed_record_failed_is_trained_here(committed):
    run, file = committed
    record = json.loads(file.read_text())
    del record["sha256"]
    file.write_text(json.dumps(record | {"schema": 2, "status": "failed"}))
    assert RunFolder.of(run).status()[0] == "missing"


def test_records_that_collect_writes_are_found_again(committed, tmp_path):
    run, file = committed
    again = replace(run, force=True, output_dir=str(tmp_path / "again"))
    train.train(again)
    record = again.folder / "result.json"
    kept = json.loads(record.read_text())
    del kept["sha256"]
    record.write_text(json.dumps(kept | {"schema": 2, "data": "local"}))  # generated data are never committed
    file.unlink()
    assert collect(tmp_path / "again", into=file.parent.parent) == [file]
    assert RunFolder.of(run).status()[0] == "complete"


def test_the_committed_study_is_complete_in_a_fresh_clone(tmp_path):
    """A record in the repository stands for its cell of the experiment; the others are missing."""
    files = {file.stem for file in (ROOT / "paper_tables/records/minilm").glob("*.json")}
    runs = cells(["experiment=minilm", "data.path=/nowhere", f"output_dir={tmp_path}"])
    found = {run.folder.name for run in runs if RunFolder.of(run).status()[0] == "complete"}
    assert found == files & {run.folder.name for run in runs}
    assert len(found) > 40


def test_a_record_says_whether_code_or_settings_are_not_the_commits(tmp_path):
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x", *words], check=True)

    git("init", "--quiet")
    (tmp_path / "train.py").touch()
    git("add", ".")
    git("commit", "--quiet", "--message=x")
    (tmp_path / "notes.txt").touch()
    assert git_state(tmp_path)["dirty"] is False
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/mine.py").touch()
    assert git_state(tmp_path)["dirty"] is True
    (tmp_path / "methods/mine.py").unlink()
    (tmp_path / "train.py").write_text("changed")
    assert git_state(tmp_path)["dirty"] is True
    assert git_state(tmp_path.parent / "nowhere") == {"commit": None, "dirty": None}
