"""`scripts/status.py`: the grid of a sweep, why runs failed, and how long the rest takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.command_line import ROOT

from core.io import with_checksum
from experiments.config import RunConfig, to_dict
from experiments.record import SCHEMA
from experiments.run_folder import CHECKPOINT, CONFIG, RunFolder
from experiments.slurm_jobs import NotedJobs
from experiments.sweep import cells
from scripts import status

TINY = ("profile=offline", "backbone=tiny")
LEGEND = "C complete, R running, Q queued, I interrupted, F failed, D damaged, . missing"


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """Calls the script with these overrides; gives its exit status and what it says."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["status.py", *TINY, f"output_dir={tmp_path}", *words])
        done = status.main()
        return done, *capsys.readouterr()

    return call


def places(output: Path, *words: str) -> dict[tuple[str, str, int], RunConfig]:
    """The grid's runs by method, task and seed."""
    runs = cells([*TINY, f"output_dir={output}", *words])
    return {(run.method.name, run.task.name, run.seed): run for run in runs}


def leave(run: RunConfig, word: str, seconds: float = 60.0, reason: str | None = None, examples: int = 3200) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    record = {"schema": SCHEMA, "config_hash": run.hash, "status": word, "seconds": seconds, "reason": reason}
    steps = run.trainer.total_steps(examples)
    record["last"] = {"step": steps, "epoch": steps * run.trainer.batch_size / examples}
    (run.folder / "result.json").write_text(json.dumps(with_checksum(record)))


def table(out: str) -> list[str]:
    """The grid's lines, with single spaces."""
    return [" ".join(line.split()) for line in out.split("\n\n")[1].splitlines()]


def test_every_state_of_a_run_is_counted_and_explained(show, tmp_path):
    words = ("method=full,lora", "task=cola,rte", "seed=1,0")
    runs = places(tmp_path, *words)
    leave(runs["full", "cola", 0], "complete")
    leave(runs["full", "cola", 1], "failed", reason="the loss is nan\nat step 6")
    leave(runs["full", "rte", 0], "interrupted", reason="Interrupted: stopped at step 3 of 9")
    leave(runs["full", "rte", 1], "complete")
    damaged = runs["full", "rte", 1].folder / "result.json"
    damaged.write_text(damaged.read_text().replace("60", "61"))
    killed = runs["lora", "rte", 1].folder
    killed.mkdir()
    (killed / CHECKPOINT).touch()
    with RunFolder.of(runs["lora", "cola", 0]).lock():
        done, out, err = show(*words)
    assert (done, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "1 complete, 1 running, 0 queued, 2 interrupted, 1 failed, 1 damaged, 2 missing, of 8"
    assert lines[2:7] == [
        "      cola  rte",
        "full  CF    ID",
        "lora  R.    .I",
        "",
        f"a letter a seed (0, 1): {LEGEND}",
    ]
    assert lines[7:11] == [
        "failed: full on cola, seed 1: the loss is nan at step 6 (retry=true trains it again)",
        "damaged: full on rte, seed 1: its record is not as it was written (the same command trains it again)",
        "interrupted: full on rte, seed 0: stopped at step 3 of 9 (the same command resumes it)",
        "interrupted: lora on rte, seed 1: killed (the same command resumes it)",
    ]
    assert show(*words)[1].startswith(
        "1 complete, 0 running, 0 queued, 2 interrupted, 1 failed, 1 damaged, 3 missing, of 8\n"
    )


def test_a_folder_of_runs_says_nothing_about_missing_ones(tmp_path, monkeypatch, capsys):
    [run] = places(tmp_path, "seed=0").values()
    leave(run, "complete")
    (run.folder / CONFIG).write_text(yaml.safe_dump(to_dict(run)))
    monkeypatch.setattr(sys, "argv", ["status.py", str(tmp_path)])
    assert status.main() == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "1 complete, 0 running, 0 queued, 0 interrupted, 0 failed, 0 damaged, of 1 that have begun"


def test_a_run_that_was_killed_before_its_first_evaluation_is_interrupted(tmp_path, monkeypatch, capsys):
    [run] = places(tmp_path, "seed=0").values()
    run.folder.mkdir(parents=True)
    (run.folder / CONFIG).write_text(yaml.safe_dump(to_dict(run)))
    monkeypatch.setattr(sys, "argv", ["status.py", str(tmp_path)])
    assert status.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 complete, 0 running, 0 queued, 1 interrupted, 0 failed, 0 damaged, of 1 that have begun"
    assert "interrupted: lora on cola, seed 0: killed (the same command resumes it)" in lines


def test_the_state_of_a_grid_on_local_data_needs_no_folder(show):
    done, out, err = show("data=local", "backbone=minilm", "seed=0,1")
    assert (done, err) == (0, "")
    assert out.startswith("0 complete, 0 running, 0 queued, 0 interrupted, 0 failed, 0 damaged, 2 missing, of 2\n")


def test_a_batch_larger_than_the_training_set_does_not_take_longer(show, tmp_path):
    words = ("trainer.batch_size=8,1000000000", "data.train_size=3200")
    small, large = cells([*TINY, f"output_dir={tmp_path}", *words])
    leave(small, "complete", seconds=600)
    assert show(*words)[1].splitlines()[-1] == "about 10 min of training left, one process at a time"
    assert not large.folder.exists()


def test_runs_whose_jobs_wait_in_slurms_queue_are_queued(show, tmp_path, monkeypatch):
    """A fake squeue knows two jobs, of a finished run and of one that has not begun."""
    runs = places(tmp_path, "seed=0,1,2")
    leave(runs["lora", "cola", 0], "complete")
    names = [run.folder.name for run in runs.values()]
    NotedJobs(runs["lora", "cola", 0].folder.parent).add(dict(zip(names, ["7_0", "7_1", "7_2"], strict=True)))
    (tmp_path / "squeue").write_text("#!/bin/sh\necho '7_0|COMPLETING|None\n7_1|PENDING|Priority'\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert table(show("seed=0,1,2")[1])[1] == "lora CQ."
    (tmp_path / "squeue").unlink()
    assert table(show("seed=0,1,2")[1])[1] == "lora C.."


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (("method=lora,full", "task=rte,mrpc"), ["rte mrpc", "lora . .", "full . ."]),  # batches differ, but by method
        (
            ("backbone=tiny,minilm",),
            [
                "cola",
                "lora backbone=tiny random_init=True learning_rate=0.0004 .",
                "lora backbone=minilm random_init=False learning_rate=0.001 .",
            ],
        ),
        (
            ("method=lora,qlora,qlora_fp4", "seed=0,1"),
            ["cola", "lora ..", "qlora quant_type=nf4 ..", "qlora quant_type=fp4 .."],
        ),
        (
            ("method=full", "trainer.learning_rate=1e-3,2e-5", "trainer.max_grad_norm=null"),
            ["cola", "full learning_rate=0.001 .", "full learning_rate=2e-05 ."],
        ),
        (
            ("method=full", "trainer.max_grad_norm=null,1"),
            ["cola", "full max_grad_norm=null .", "full max_grad_norm=1 ."],
        ),
        (
            ("experiment=mnli_start", "method=lora,vera", "task=mrpc", "seed=0"),
            ["mnli mrpc", "lora start=null . .", "lora start=mnli .", "vera start=null . .", "vera start=mnli ."],
        ),
        (
            ("experiment=optimizers", "seed=0", "trainer.schedule=linear"),
            [
                "cola",
                "lora optimizer=adamw learning_rate=0.0004 weight_decay=0.1 .",
                "lora optimizer=sgd learning_rate=0.1 weight_decay=0 .",
            ],
        ),
    ],
)
def test_a_row_is_a_method_with_the_settings_that_differ(words, rows, show):
    assert table(show(*words)[1]) == rows


def test_the_time_left_is_estimated_from_the_most_similar_runs(show, tmp_path):
    words = ("method=full,lora,vera", "task=cola,rte", "seed=0,1")
    runs = places(tmp_path, *words)
    leave(runs["full", "rte", 1], "interrupted", seconds=900)
    leave(runs["vera", "rte", 1], "failed", seconds=5)
    assert "left" not in show(*words)[1]
    for seed in (0, 1):
        leave(runs["full", "cola", seed], "complete", seconds=600)
    leave(runs["full", "rte", 0], "complete", seconds=2700)
    leave(runs["lora", "cola", 0], "complete", seconds=60)
    # full: 2700 less the 900 behind it; LoRA: three times 60; VeRA: three times 990, the mean of all
    assert show(*words)[1].splitlines()[-1] == "about 1 h 23 min of training left, one process at a time"
    for run in runs.values():
        leave(run, "complete")
    assert "left" not in show(*words)[1]


def test_the_time_left_grows_with_epochs_and_steps(show, tmp_path):
    words = ("method=lora", "task=cola,rte", "trainer.epochs=2,4", "trainer.max_steps=null,50", "trainer.batch_size=32")
    short = places(tmp_path, *words[:2], "trainer.epochs=2", "trainer.batch_size=32")
    leave(short["lora", "cola", 0], "complete", seconds=200)  # of 200 steps
    # CoLA: 400 steps and twice 50; RTE, whose size no run has shown: 200, 400 and twice 50
    assert show(*words)[1].splitlines()[-1] == "about 20 min of training left, one process at a time"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("experiment=colla", "unknown experiment 'colla'; there are: "),
        ("method.rank=8,0", "method.rank is 0; it must be at least 1"),
        ("trainer.epoch=3", "did you mean epochs?"),
    ],
)
def test_mistakes_are_one_sentence(word, message, show):
    done, out, err = show(word)
    assert (done, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert message in err


def test_train_pys_overrides_work_from_any_folder_and_without_a_grid(tmp_path):
    words = ["-m", *TINY, "hydra/launcher=slurm", "method=vera"]
    command = [sys.executable, str(ROOT / "scripts/status.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "0 complete, 0 running, 0 queued, 0 interrupted, 0 failed, 0 damaged, 1 missing, of 1\n"
    )
    assert table(done.stdout) == ["cola", "vera ."]
    assert not list(tmp_path.iterdir())


def test_rows_of_a_folder_are_in_the_order_of_their_settings(tmp_path, monkeypatch, capsys):
    for decay in ("0.01", "0.1", "0"):
        [run] = cells([*TINY, f"output_dir={tmp_path}", f"trainer.weight_decay={decay}"])
        leave(run, "complete")
        (run.folder / CONFIG).write_text(yaml.safe_dump(to_dict(run)))
    monkeypatch.setattr(sys, "argv", ["status.py", str(tmp_path)])
    assert status.main() == 0
    rows = table(capsys.readouterr().out)
    assert rows == ["cola", *(f"lora weight_decay={decay} C" for decay in ("0", "0.01", "0.1"))]
