"""Curves reach W&B whole: offline parts of a run that was resumed, and finished records."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.servers import Wandb, serving
from support.command_line import ENVIRONMENT, ROOT

from scripts import wandb_upload
from training.tracking import LoggerConfig, offline_parts, sync_command, upload_line
from training.wandb_tracker import WandbTracker

RECORD = ROOT / "paper_tables/records/minilm/lora-cola-minilm-local-seed0-58de23da.json"
KEY = "5ec2e7" + "0123456789" * 4


@pytest.fixture
def upload(monkeypatch, capsys):
    """Calls the script, with a server of these tests or without a key; returns its status and what it printed."""

    def call(*words: str, url: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wandb_upload.py", *words])
        to = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": url} if url else {"WANDB_API_KEY": "", "NETRC": "/nonexistent"}
        for name, value in to.items():
            monkeypatch.setenv(name, value)
        return wandb_upload.main(), *capsys.readouterr()

    monkeypatch.setenv("WANDB_MODE", "online")
    return call


def test_offline_parts_of_a_resumed_run_upload_as_one_curve(tmp_path):
    """Each part is sent by itself, as after two nights: the second continues the first."""
    record, run = json.loads(RECORD.read_text()), tmp_path / "sweep" / "a run"
    for part in range(2):
        tracker = WandbTracker(LoggerConfig("offline"), run, record)
        for step in range(3 * part, 3 * part + 3):
            tracker.log({"train/loss": 1 / (1 + step)}, step)
        tracker.finish(record)
        time.sleep(1)  # W&B names a part by the second
    assert len(offline_parts(run)) == 2
    assert upload_line(run.parent) == f"W&B's offline curves; to upload: wandb sync {run.parent}/*/wandb/offline-run-*"
    [glob] = sync_command(run).split("wandb sync ")[1:]
    listed = subprocess.run(["bash", "-c", f"ls -d {glob}"], capture_output=True, text=True).stdout.splitlines()
    assert listed == list(map(str, offline_parts(run)))
    with serving(Wandb()) as server:
        environment = ENVIRONMENT | {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        for part in listed:
            wandb = Path(sys.executable).with_name("wandb")
            subprocess.run([wandb, "sync", part], env=environment, capture_output=True, check=True, timeout=60)
    [lines] = server.lines.values()
    assert [line["_step"] for line in lines.values()] == [0, 1, 2, 3, 4, 5]
    assert upload_line(run.parent) is None


def test_a_finished_record_becomes_one_run_however_often_it_is_sent(upload):
    record = json.loads(RECORD.read_text())
    with serving(Wandb()) as server:
        for _ in range(2):
            assert upload(str(RECORD), url=server.url) == (0, f"[1/1] {RECORD.stem}\n", "")
    assert list(server.lines) == [record["config_hash"]]
    lines, about = server.lines[record["config_hash"]], server.runs[record["config_hash"]]
    assert [line["_step"] for line in lines.values()] == [entry["step"] for entry in record["history"]]
    assert lines[3]["eval/matthews_correlation"] == record["history"][3]["matthews_correlation"]
    assert lines[3]["held_out/matthews_correlation"] == record["history"][3]["held_out"]["matthews_correlation"]
    config = {key: part["value"] for key, part in json.loads(about["config"]).items()}
    assert (config["method"], config["config_hash"]) == (record["config"]["method"], record["config_hash"])
    assert config["trainer"]["head_learning_rate"] == record["config"]["trainer"]["head_learning_rate"]
    assert config["git_commit"] == record["provenance"]["git"]["commit"]
    assert (about["groupName"], about["jobType"], about["tags"]) == ("minilm", "lora", ["cola", "minilm", "seed0"])
    values = about["summary"]
    assert values["selected/matthews_correlation"] == record["selected"]["matthews_correlation"]
    assert values["config_hash"] == record["config_hash"]
    assert values["git_commit"] == record["provenance"]["git"]["commit"]
    assert values["memory/peak_bytes"] == record["memory"]["peak_bytes"]
    assert values["eval/matthews_correlation"] == {"max": record["best"]["matthews_correlation"]}


def test_without_a_key_records_are_refused_or_written_for_later(upload, tmp_path):
    status, _, err = upload(str(RECORD))
    assert (status, "error: there is no W&B key: run `wandb login` first, or " in err) == (2, True)
    status, out, _ = upload(str(RECORD), "mode=offline", f"dir={tmp_path}")
    assert (status, out.splitlines()[-1]) == (0, f"to upload: {sync_command(tmp_path)}")
    assert len(offline_parts(tmp_path)) == 1


@pytest.mark.parametrize("is_uploaded", [False, True])
def test_runs_with_curves_of_their_own_are_left_out(is_uploaded, upload, tmp_path):
    place = tmp_path / RECORD.stem
    part = place / "wandb" / "offline-run-1-x"
    part.mkdir(parents=True)
    for file, text in {place / "result.json": RECORD.read_text(), part / "run-x.wandb": ""}.items():
        file.write_text(text)
    if is_uploaded:
        (part / "run-x.wandb.synced").touch()
    status, out, err = upload(str(tmp_path), "mode=offline", f"dir={tmp_path}/into")
    assert (status, out) == (0, "" if is_uploaded else f"{upload_line(tmp_path)}\n")
    assert err == "1 run with curves of W&B's own: left out\n"
