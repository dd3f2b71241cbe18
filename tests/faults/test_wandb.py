"""W&B without a key, unreachable, killed, stopped or without a folder: the run still writes its record."""

import signal
import subprocess
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import pytest
from support.long import short

from faults.harness import call, descendants, finish, outcome, run_folder, start
from faults.servers import GONE, Server, Wandb, serving, silent

LOGGED = ("logger=wandb", "trainer.epochs=30")  # long enough to be met in the middle
KEY = "5ec2e7" + "0123456789" * 4
ALLOWED = 60  # seconds for a run that waits for W&B at its start and at its end


@pytest.fixture(scope="module")
def without_wandb(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("without")
    assert call(output, *LOGGED[1:]).status == 0
    return output


@pytest.fixture(scope="module")
def undisturbed(without_wandb) -> dict:
    return outcome(without_wandb)


@pytest.fixture(scope="module")
def name(without_wandb) -> str:
    """The name of the run's folder, which does not depend on W&B."""
    return run_folder(without_wandb).name


@pytest.fixture
def require_whole(undisturbed, tmp_path, tally):
    """The run ended as if there were no W&B, said `line` once, and did not show the key."""

    def check(ended, line: str | None) -> None:
        assert ended.status == 0, ended
        assert ended.err == ""
        assert outcome(tmp_path) == undisturbed
        said = [text for text in ended.out.splitlines() if text.startswith("W&B ")]
        assert sum(text.startswith("W&B stopped") for text in said) <= 1
        assert (line in "\n".join(said)) if line else not said
        assert KEY not in ended.out
        holders = [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
        assert not holders
        tally("other faults")

    return check


def to(url: str) -> dict[str, str]:
    return {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": url}


def until_it_trains(process, output) -> None:
    deadline = time.monotonic() + 60
    while not list(output.glob("*/*/checkpoint.safetensors")):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_a_key_wandb_logs_offline_and_never_asks(require_whole, tmp_path):
    ended = call(tmp_path, *LOGGED)
    require_whole(ended, "W&B logs offline; to upload: wandb sync")
    assert list(run_folder(tmp_path).glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.long
def test_with_a_server_wandb_prints_nothing(require_whole, tmp_path):
    """Also proves that W&B accepts the server of these tests."""
    with serving(Wandb()) as server:
        require_whole(call(tmp_path, *LOGGED, environment=to(server.url)), None)
    assert any("file_stream" in request for request in server.asked)


@pytest.mark.parametrize("server", short([401], of=["nobody", "silent", 401, 500]))
def test_wandb_logs_offline_if_its_server_is_unreachable_at_the_start(server, require_whole, tmp_path):
    kinds = {"nobody": lambda: nullcontext("http://127.0.0.1:9"), "silent": silent}
    with kinds.get(server, lambda: serving(Server(server)))() as there:
        ended = finish(start(tmp_path, *LOGGED, environment=to(getattr(there, "url", there))), ALLOWED)
    require_whole(ended, "W&B cannot be reached")
    assert "to upload: wandb sync" in ended.out


@pytest.mark.long
@pytest.mark.parametrize("status", [GONE, 401, 500])
def test_a_run_survives_the_loss_of_the_wandb_server(status, require_whole, tmp_path):
    with serving(Wandb()) as server:
        process = start(tmp_path, *LOGGED, environment=to(server.url))
        until_it_trains(process, tmp_path)
        server.status = status
        ended = finish(process, ALLOWED)
    require_whole(ended, "W&B stopped (")
    assert "to upload: wandb sync" in ended.out


@pytest.mark.parametrize("number", short([signal.SIGKILL], of=[signal.SIGKILL, signal.SIGSTOP]))
def test_a_run_survives_a_killed_or_stopped_wandb_service(number, require_whole, tmp_path):
    process = start(tmp_path, *LOGGED)
    until_it_trains(process, tmp_path)
    [service] = [child for child in descendants(process) if child.name() == "wandb-core"]
    service.send_signal(number)
    ended = finish(process, ALLOWED)
    require_whole(ended, "W&B stopped (")
    assert not service.is_running() or service.status() == psutil.STATUS_ZOMBIE  # nobody reaps an orphan in a container


@pytest.mark.long
def test_a_run_survives_a_file_in_place_of_the_wandb_folder(name, require_whole, tmp_path):
    (tmp_path / "default" / name).mkdir(parents=True)
    (tmp_path / "default" / name / "wandb").touch()
    require_whole(call(tmp_path, *LOGGED), "W&B stopped ([Errno 20] Not a directory")


@pytest.mark.long
def test_a_run_survives_a_full_wandb_folder(name, require_whole, tmp_path):
    """Its service loses the curves silently; the run is complete."""
    folder = tmp_path / "default" / name / "wandb"
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        process = start(tmp_path, *LOGGED)
        until_it_trains(process, tmp_path)
        with suppress(OSError), (folder / "junk").open("wb", buffering=0) as junk:
            while True:
                junk.write(b"0" * 512)
        require_whole(finish(process, ALLOWED), "W&B logs offline")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.long
@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("WANDB_SERVICE", "3-1-unix-/nowhere", "Failed to connect to service"),
        ("WANDB_SERVICE", "nonsense", "Failed to parse WANDB_SERVICE"),
        ("WANDB_MODE", "nonsense", "validation error for Settings; mode"),
        ("WANDB_API_KEY", KEY[:10] + " " + KEY[10:], "logging offline"),
        ("TMPDIR", "/nowhere", "W&B logs offline"),
    ],
)
def test_a_run_survives_an_environment_in_which_wandb_cannot_start(variable, value, line, require_whole, tmp_path):
    ended = call(tmp_path, *LOGGED, environment={variable: value})
    require_whole(ended, line)
    assert KEY[10:] not in ended.out
