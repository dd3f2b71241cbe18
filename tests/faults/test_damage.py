"""Damaged files in a run's folder are noticed and quarantined, and the run ends like an undisturbed one."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import compose

import train
from analysis.records import collect, ended
from core.errors import Damaged, Interrupted
from experiments.record import RECORD, read_record
from experiments.restore import restore
from experiments.run_folder import BEST, CHECKPOINT
from faults.harness import TINY, Lost, outcome
from training.trainer import Trainer

WORDS = (*TINY, "trainer.epochs=2", "trainer.eval_every=6")


def cut(content: bytes, moments: random.Random) -> bytes:
    return content[: moments.randrange(1, len(content))]


def empty(content: bytes, moments: random.Random) -> bytes:
    return b""


def flip(content: bytes, moments: random.Random) -> bytes:
    changed = bytearray(content)
    changed[moments.randrange(len(changed))] ^= 1 << moments.randrange(8)
    return bytes(changed)


def zero(content: bytes, moments: random.Random) -> bytes:
    """One block of zeros, as a file system leaves it if the block was never written."""
    start = moments.randrange(len(content))
    return (content[:start] + bytes(min(4096, len(content) - start)) + content[start + 4096 :]).ljust(
        len(content), b"\0"
    )


DAMAGES = (cut, empty, flip, zero)


def run(output: Path):
    return compose(*WORDS, f"output_dir={output}")


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """`whole/` of a finished run, `part/` of one that was stopped at step 16 of 24."""
    house = tmp_path_factory.mktemp("house")
    train.train(run(house / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "is_stop_requested", lambda trainer: trainer.progress.step == 16)
        with pytest.raises(Interrupted):
            train.train(run(house / "part"))
    return house


def damaged(source: Path, output: Path, name: str, damage: Callable, moments: random.Random) -> Path:
    """A copy with one file damaged; the file."""
    shutil.copytree(source, output)
    file = run(output).folder / name
    content = file.read_bytes()
    while (changed := damage(content, moments)) == content:
        pass
    file.write_bytes(changed)
    return file


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("state", "name"), [("part", CHECKPOINT), ("part", RECORD), ("whole", RECORD)])
def test_the_same_command_after_damage_ends_like_an_undisturbed_run(
    state, name, damage, is_long, house, tmp_path, tally, capsys
):
    whole, times = outcome(house / "whole"), 40 if is_long else 2
    for seed in range(times):
        output = tmp_path / str(seed)
        file = damaged(house / state, output, name, damage, random.Random(seed))
        capsys.readouterr()
        train.train(run(output))
        assert outcome(output) == whole
        assert f"{file} is damaged: " in capsys.readouterr().err
        assert file.with_name(f"{name}.damaged").exists()
        shutil.rmtree(output)
    tally("other faults", times)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_named_and_left_out_of_tables(damage, is_long, house, tmp_path, tally, capsys):
    times = 200 if is_long else 10
    for seed in range(times):
        output = tmp_path / str(seed)
        file = damaged(house / "whole", output, RECORD, damage, random.Random(seed))
        with pytest.raises(Damaged, match=RECORD):
            read_record(file.parent)
        capsys.readouterr()
        assert collect(output, into=tmp_path / "records") == []
        assert f"{file} is damaged" in capsys.readouterr().err
        shutil.rmtree(output)
    tally("other faults", times)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_best_state_is_not_restored(damage, is_long, house, tmp_path, tally):
    times = 40 if is_long else 3
    for seed in range(times):
        output = tmp_path / str(seed)
        file = damaged(house / "whole", output, BEST, damage, random.Random(seed))
        with pytest.raises(Damaged, match="force=true trains its run again"):
            restore(file.parent)
        shutil.rmtree(output)
    tally("other faults", times)


def test_a_run_with_a_missing_file_ends_like_an_undisturbed_run(house, tmp_path, tally):
    whole = outcome(house / "whole")
    for name in sorted(os.listdir(run(house / "part").folder)):
        output = tmp_path / name
        shutil.copytree(house / "part", output)
        (run(output).folder / name).unlink()
        train.train(run(output))
        if outcome(output) != whole:
            raise Lost(name)
        tally("other faults")


def test_a_restarted_run_starts_from_its_init_from_again(house, tmp_path, monkeypatch):
    begun = (*WORDS, f"init_from={run(house / 'whole').folder}")
    whole, parts = (compose(*begun, f"output_dir={tmp_path / name}") for name in ("whole", "parts"))
    train.train(whole)
    monkeypatch.setattr(Trainer, "is_stop_requested", lambda trainer: trainer.progress.step == 16)
    with pytest.raises(Interrupted):
        train.train(parts)
    monkeypatch.undo()
    (parts.folder / CHECKPOINT).write_bytes(b"")
    train.train(parts)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def other(house: Path, output: Path, state: str, name: str) -> Path:
    """A copy of a run's output with one file that a run with another seed left."""
    second = compose(*WORDS, "seed=1", f"output_dir={house / 'other'}")
    if not second.folder.exists():
        train.train(second)
    shutil.copytree(house / state, output)
    shutil.copy(second.folder / name, run(output).folder / name)
    return run(output).folder / name


@pytest.mark.parametrize(("state", "name"), [("part", BEST), ("whole", RECORD), ("part", RECORD)])
def test_a_file_of_another_run_is_treated_as_damaged(state, name, house, tmp_path, tally, capsys):
    file = other(house, tmp_path / "runs", state, name)
    train.train(run(tmp_path / "runs"))
    assert outcome(tmp_path / "runs") == outcome(house / "whole")
    assert f"{file} is damaged: it is another run's" in capsys.readouterr().err
    tally("other faults")


def test_a_best_state_of_another_run_is_not_restored(house, tmp_path):
    file = other(house, tmp_path / "runs", "whole", BEST)
    with pytest.raises(Damaged, match="another run's; force=true trains its run again"):
        restore(file.parent)


def test_a_copied_record_is_counted_once(house, tmp_path, capsys):
    """A record copied over another's, and a copy of a run's folder."""
    shutil.copytree(house / "whole", tmp_path / "runs")
    folder = run(tmp_path / "runs").folder
    shutil.copytree(folder, folder.with_name("copy"))
    assert len(list(ended(sorted(tmp_path.rglob(RECORD))))) == 1
    assert "is of the same run as" in capsys.readouterr().err


@pytest.mark.parametrize("name", [RECORD, CHECKPOINT, BEST])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_a_pipe_or_folder_in_place_of_a_file_is_quarantined(make, name, house, tmp_path, tally):
    shutil.copytree(house / "part", tmp_path / "runs")
    file = run(tmp_path / "runs").folder / name
    file.unlink(missing_ok=True)
    make(file)
    train.train(run(tmp_path / "runs"))
    assert outcome(tmp_path / "runs") == outcome(house / "whole")
    tally("other faults")


def test_a_start_run_with_a_damaged_best_state_is_trained_again(tmp_path, monkeypatch, capsys):
    def call() -> None:
        monkeypatch.setattr("sys.argv", ["train.py", *WORDS, "task=rte", "start=mnli", f"output_dir={tmp_path}"])
        assert train.cli() == 0, capsys.readouterr().err

    call()
    [mnli], [rte] = (list(tmp_path.glob(f"default/lora-{task}-*")) for task in ("mnli", "rte"))
    whole = (mnli / BEST).read_bytes(), (rte / BEST).read_bytes()
    (mnli / BEST).write_bytes(b"junk")
    shutil.rmtree(rte)
    call()
    assert ((mnli / BEST).read_bytes(), (rte / BEST).read_bytes()) == whole
