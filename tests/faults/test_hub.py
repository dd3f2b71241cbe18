"""Failures of the hub: a failed download is one sentence, and the next run continues it."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.command_line import ROOT
from support.files import mirror, save_encoder
from support.long import short

from faults.harness import ENVIRONMENT, Ended, finish, outcome, require_sentence
from faults.servers import Hub, Server, serving, silent

WORDS = ("method=lora", "task=cola", "logger=none", "method.rank=2", "task.max_length=32", "trainer.epochs=2")
TOKEN = "hf_5ec2e7" + "x" * 28
PROMPT = (
    45  # seconds until a refusal, of which some ten are the start of Python and half a minute the hub's own retries
)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("repositories")
    save_encoder(folder / "model")
    mirror(folder / "data", "cola")
    return {"FacebookAI/roberta-base": folder / "model", "datasets/nyu-mll/glue": folder / "data"}


@pytest.fixture(scope="module")
def whole(repositories, tmp_path_factory) -> tuple[dict, Path]:
    """What a run from a healthy hub ends with, and the cache that it leaves."""
    output, home = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("home")
    with serving(Hub(repositories)) as hub:
        ended = run(output, home, hub)
    assert ended.status == 0, ended
    return outcome(output), home


@pytest.fixture
def require_refused(tmp_path, tally):
    """One sentence, nothing trained, and the token is not shown."""

    def check(ended: Ended, text: str) -> None:
        require_sentence(ended)
        assert ended.status == 2
        assert text in ended.err, ended.err
        require_secret(tmp_path, ended)
        tally("other faults")

    return check


def run(output: Path, home: Path, hub: Server | str, *words: str) -> Ended:
    """The documented command, against a hub of our own and a cache in `home`."""
    variables = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("HF_")}
    variables |= {"HF_ENDPOINT": getattr(hub, "url", hub), "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    command = [sys.executable, str(ROOT / "train.py"), *WORDS, f"output_dir={output}", *words]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return finish(subprocess.Popen(command, env=variables, cwd=ROOT, start_new_session=True, **pipes), PROMPT)


def require_secret(output: Path, ended: Ended) -> None:
    assert TOKEN not in ended.out + ended.err
    assert not [path for path in output.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("file", short([".safetensors"], of=[".safetensors", "train-00000-of-00001.parquet"]))
def test_a_download_cut_off_within_a_file_continues_from_there(file, whole, repositories, require_refused, tmp_path):
    with serving(Hub(repositories)) as hub:
        hub.broken = file
        require_refused(
            run(tmp_path / "runs", tmp_path / "home", hub), "could not be downloaded (peer closed connection"
        )
        hub.broken = None
        ended = run(tmp_path / "runs", tmp_path / "home", hub)
    assert (ended.status, ended.err) == (0, "")
    assert outcome(tmp_path / "runs") == whole[0]
    require_secret(tmp_path, ended)


@pytest.mark.long
@pytest.mark.parametrize("status", [500, 429, 401, 404])
def test_a_refusal_by_the_hub_is_one_sentence(status, repositories, require_refused, tmp_path):
    with serving(Hub(repositories)) as hub:
        hub.status = status
        refused = f"'nyu-mll/glue' at revision bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c for you ({status})"
        text = refused if status < 429 else f"is there, but answers {status}: try again later"
        require_refused(run(tmp_path / "runs", tmp_path / "home", hub), text)


@contextmanager
def nobody():
    yield "http://127.0.0.1:9"


@pytest.mark.long
@pytest.mark.parametrize("there", [silent, nobody])
def test_an_unreachable_hub_is_refused_unless_the_files_are_cached(there, whole, require_refused, tmp_path):
    """A silent socket or a closed port; with the files in the cache the hub is not needed."""
    with there() as url:
        require_refused(run(tmp_path / "runs", tmp_path / "home", url), "is out of reach: run scripts/download.py")
        ended = run(tmp_path / "runs", whole[1], url)
    assert (ended.status, ended.err) == (0, "")
    assert outcome(tmp_path / "runs") == whole[0]


@pytest.mark.long
@pytest.mark.parametrize("file", [".safetensors", "train-00000-of-00001.parquet"])
def test_a_wrong_bit_is_found_by_the_hubs_checksum(file, whole, repositories, require_refused, tmp_path):
    """The hub's client counts bytes only."""
    with serving(Hub(repositories)) as hub:
        hub.flipped = file
        ended = run(tmp_path / "runs", tmp_path / "home", hub)
        require_refused(ended, "is not what the hub sent out, or was changed since: remove it, and try again")
        Path(ended.err.removeprefix("error: ").partition(" is not what")[0]).unlink()
        hub.flipped = None
        assert run(tmp_path / "runs", tmp_path / "home", hub).status == 0
    assert outcome(tmp_path / "runs") == whole[0]
