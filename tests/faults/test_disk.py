"""A full disk, a read-only folder, a closed output pipe: one sentence, and nothing is lost."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.long import short

from experiments.record import read_record
from faults.harness import RUN, call, finish, outcome, require_sentence, require_whole, run_folder, start


def sizes(output: Path) -> list[int]:
    """Bytes of a run's files, in ascending order."""
    return sorted(path.stat().st_size for path in output.rglob("*") if path.is_file())


def goes_on(output: Path, expected: dict) -> None:
    ended = call(output, *RUN)
    assert ended.status == 0, ended.err
    assert outcome(output) == expected


@pytest.mark.parametrize("place", short([3], of=range(8)))
def test_a_file_size_limit_ends_in_one_sentence(place, undisturbed, expected, tmp_path, tally):
    """Limits between the smallest of the files that a run writes and the largest."""
    least, *_, most = filter(None, sizes(undisturbed))
    limit = int(least + (most - least) * (place / 8) ** 2)
    ended = call(tmp_path, *RUN, within=(Path(__file__).with_name("broken.py"), f"file_size={limit}"))
    require_sentence(ended)
    assert "cannot be written" in ended.err
    require_whole(tmp_path)
    goes_on(tmp_path, expected)
    tally("other faults")


@pytest.mark.parametrize("part", short([0.3], of=[0.3, 0.05, 0.6, 0.8, 0.95]))
def test_a_full_disk_loses_nothing(part, undisturbed, expected, tmp_path, tally):
    with small_disk(tmp_path, int(sum(sizes(undisturbed)) * part)) as grow:
        ended = call(tmp_path, *RUN)
        require_sentence(ended)
        assert "No space left" in ended.err
        require_whole(tmp_path)
        grow()
        goes_on(tmp_path, expected)
    tally("other faults")


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator:
    """A file system of `size` bytes at `folder`, and a function that makes it large."""

    def mount(*words: str) -> None:
        try:
            subprocess.run(["mount", *words, str(folder)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting is not allowed here")

    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    try:
        yield lambda: mount("-o", "remount,size=64m")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in the folder can be created or removed; root ignores modes, so for root a file attribute forbids it."""
    root = os.geteuid() == 0
    if root and subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode:
        pytest.skip("this file system has no immutable folders, and nothing else binds root")
    mode = folder.stat().st_mode
    if not root:
        folder.chmod(0o555)
    try:
        yield
    finally:
        if root:
            subprocess.run(["chattr", "-i", str(folder)], check=True)
        else:
            folder.chmod(mode)


def test_a_folder_that_is_read_only_at_the_start_is_one_sentence(tmp_path, tally):
    (tmp_path / "runs").mkdir()
    with read_only(tmp_path / "runs"):
        for sweep in ([], ["seed=0,1", "-m"]):
            ended = call(tmp_path, *RUN, f"output_dir={tmp_path / 'runs'}", *sweep)
            require_sentence(ended)
            assert "cannot be written" in ended.err
    assert not list((tmp_path / "runs").iterdir())
    tally("other faults")


@pytest.mark.long
def test_a_folder_that_turns_read_only_is_one_sentence_and_the_run_resumes(tmp_path, tally):
    process = start(tmp_path, *RUN, "trainer.epochs=40")
    while not list(tmp_path.rglob("checkpoint.safetensors")):
        assert process.poll() is None
        time.sleep(0.02)
    folder = run_folder(tmp_path)
    with read_only(folder):
        ended = finish(process)
        require_sentence(ended)
        assert "cannot be written" in ended.err
    require_whole(tmp_path)
    assert read_record(folder) is None
    ended = call(tmp_path, *RUN, "trainer.epochs=40")
    assert ended.status == 0
    assert "resumes at step" in ended.out
    tally("other faults")


def test_a_closed_output_pipe_does_not_stop_a_run(expected, tmp_path, tally):
    """As `| head -1` does."""
    process = start(tmp_path, *RUN, piped=True)
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    assert finish(process)[0] == 0
    assert outcome(tmp_path) == expected
    tally("other faults")
