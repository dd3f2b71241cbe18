"""A run's name never changes: committed records and finished folders stay valid through every refactoring."""

import hashlib
import json
from pathlib import Path

import pytest
from support.command_line import ROOT

from experiments.config import from_dict, hash_of
from experiments.sweep import cells

RECORDS = sorted((ROOT / "paper_tables/records").rglob("*.json"))
TABLE = json.loads(Path(__file__).with_name("hashes.json").read_text())
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))


def runs():
    for file in RECORDS:
        record = json.loads(file.read_text())
        if isinstance(record, dict) and "config_hash" in record and "config" in record:
            yield file.relative_to(ROOT / "paper_tables/records").as_posix(), record


def test_every_committed_record_keeps_its_hash():
    """Those of old schemas too, which no command line can ask for any more."""
    kept = {name: record["config_hash"] for name, record in runs()}
    assert {name: hash_of(record["config"]) for name, record in runs()} == kept
    assert kept


def test_what_a_record_says_is_what_a_command_line_would_run():
    for name, record in runs():
        config = record["config"] | {"data": record["config"]["data"] | {"path": "/nowhere"}}  # no path is committed
        if "packed" not in config["trainer"]:
            assert from_dict(config).hash == record["config_hash"], name


def digest(experiment: str) -> str:
    runs = cells([f"experiment={experiment}", "data.path=/nowhere", "seed=0"])
    return hashlib.sha256("\n".join(sorted({run.hash for run in runs})).encode()).hexdigest()[:16]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_keeps_the_hashes_of_its_runs(experiment):
    """A new experiment adds a line to the table; a changed line means that finished runs are orphaned."""
    assert digest(experiment) == TABLE[experiment]
