"""A run's hash never changes: committed records and finished folders stay valid through every refactoring."""

import copy
import functools
import json

from support.command_line import ROOT, compose

from experiments.config import from_dict, hash_of, to_dict
from experiments.record import without_paths

FOLDER = ROOT / "paper_tables/records"


@functools.cache
def runs() -> list[tuple[str, dict]]:
    records = [
        (file.relative_to(FOLDER).as_posix(), json.loads(file.read_text())) for file in sorted(FOLDER.rglob("*.json"))
    ]
    return [
        (n, record) for n, record in records if isinstance(record, dict) and {"config_hash", "config"} <= record.keys()
    ]


def test_every_committed_record_keeps_its_hash():
    """Those of old schemas too, which no command line can ask for any more."""
    kept = {name: record["config_hash"] for name, record in runs()}
    lost = [name for name, record in runs() if hash_of(record["config"]) != kept[name]]
    assert not lost, (
        "a new setting belongs in HASH_NEUTRAL_DEFAULTS (experiments/config.py), at the value that old runs had"
    )
    assert kept


def test_settings_read_from_a_record_have_the_records_hash():
    kinds = {
        (name.split("/")[0], *(record["config"][group]["name"] for group in ("method", "task", "backbone"))): (
            name,
            record,
        )
        for name, record in runs()
    }
    for name, record in kinds.values():  # others differ in numbers: rates, ranks, seeds
        config = record["config"] | {"data": record["config"]["data"] | {"path": "/nowhere"}}  # no path is committed
        if "packed" not in config["trainer"]:
            words = "a new setting belongs in HASH_NEUTRAL_DEFAULTS (experiments/config.py)"
            assert from_dict(config).hash == record["config_hash"], f"{name}: {words}"


def test_a_new_setting_at_its_default_leaves_old_hashes_unchanged():
    for words in (("method=houlsby",), ("method=lora",)):
        config = to_dict(compose(*words))
        old = copy.deepcopy(config)
        old["method"].pop("activation", None)
        assert hash_of(old) == hash_of(config)
    swish = to_dict(compose("method=houlsby", "method.activation=swish"))
    assert hash_of(swish) != hash_of(to_dict(compose("method=houlsby")))


def test_a_committed_record_says_no_path_and_keeps_its_hash():
    run = compose("data=local", "data.path=/home/me/glue", "output_dir=/tmp/x", "backbone.tokenizer=/home/me/tokens")
    committed = without_paths(to_dict(run))
    assert "/home" not in json.dumps(committed)
    assert "/tmp" not in json.dumps(committed)
    assert hash_of(committed) == run.hash
    assert hash_of(to_dict(compose("data=local", "data.path=x", "backbone.tokenizer=other"))) != run.hash
