"""Latency: every variant matches its name, takes its turn, and is compared with the plain model pass by pass."""

import json

import pytest
import torch
from support.command_line import compose
from support.tiny import adapted_layers
from torch import nn

from analysis.claims import CLAIMS, FAILS, HOLDS, NOT_RUN, UNDECIDED, Claim
from analysis.latency import ADAPTERS, MERGED, PLAIN, VARIANTS, table, verdict, verdicts
from benchmarks import latency
from benchmarks.latency import WARM_UP, build_all, measure
from methods.adapter import Adapter
from scripts.latency import main
from training.accelerator import make_accelerator

TINY = ("backbone=tiny", "trainer.device=cpu")


@pytest.fixture(scope="module")
def built():
    return build_all(compose(*TINY))


def kinds(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def test_every_variant_matches_its_name(built):
    models, trained = built
    assert tuple(models) == (PLAIN, *VARIANTS)
    assert kinds(models[MERGED]) == kinds(models[PLAIN])
    for name, model in models.items():
        assert not model.training
        assert bool(adapted_layers(model)) == (name in ("lora", "dora", "vera"))
        assert sum(isinstance(module, Adapter) for module in model.modules()) == {
            "houlsby": 4,
            "lin": 2,
            "pfeiffer": 2,
        }.get(name, 0)
    assert trained["lora"] == trained[MERGED] == 2 * 2 * 2 * 32 * 8


def test_the_variants_share_one_encoder(built):
    models, _ = built
    ids = torch.randint(5, 900, (2, 9))
    with torch.no_grad():
        logits = [model(input_ids=ids).logits for model in models.values()]
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], atol=1e-5, rtol=1e-5)
    words = {model.base_model.embeddings.word_embeddings.weight.data_ptr() for model in models.values()}
    assert len(words) == 1  # not equal copies, but the same memory


def test_every_variant_takes_one_pass_a_turn_in_changing_order(monkeypatch):
    order = []
    monkeypatch.setattr(latency, "seconds", lambda model, ids, accelerator: order.append(model) or len(order))
    models = dict(zip("abcdefgh", "abcdefgh", strict=True))
    taken = measure(models, torch.zeros(1, 1), 5, None)
    turns = ["".join(order[i : i + 8]) for i in range(0, len(order), 8)]
    assert len(turns) == WARM_UP + 5
    assert all(sorted(turn) == sorted(models) for turn in turns)
    assert len(set(turns)) > 5
    assert all(len(times) == 5 and min(times) > 8 * WARM_UP for times in taken.values())  # warm-up is left out


def test_a_pass_runs_without_gradients_and_without_dropout(built):
    seen = []
    model = nn.Module()
    model.forward = lambda input_ids: seen.append((torch.is_inference_mode_enabled(), input_ids.shape))
    assert (
        latency.seconds(
            model, torch.ones(2, 3, dtype=torch.int64), make_accelerator(compose(*TINY).trainer, deterministic=False)
        )
        > 0
    )
    assert seen == [(True, (2, 3))]


def made_up(turns: int = 3, **slow: float) -> dict:
    """A record of two cells whose turns drift; `slow`: each variant's time over the plain model's, in every turn."""
    drift = [2.0**turn for turn in range(turns)]
    seconds = {name: [slow.get(name, 1.0) * t for t in drift] for name in (PLAIN, *VARIANTS)}
    hardware = {"device": "cpu", "cpu": "X", "threads": 1, "precision": "fp32"}
    cells = [{"batch": batch, "length": 16, "seconds": seconds} for batch in (1, 32)]
    return {"latency": 1, "backbone": "minilm", "provenance": {"hardware": hardware}, "cells": cells}


SLOW = dict.fromkeys(ADAPTERS, 1.25)


def test_ratios_are_pair_by_pair(tmp_path):
    record = made_up(**SLOW, vera=3.0)
    record["cells"][1]["seconds"] = record["cells"][1]["seconds"] | {"dora": [1.0, 4.0, 16.0]}
    (tmp_path / "a.json").write_text(json.dumps(record))
    lines = table(tmp_path).cells
    ours = lines[lines["backbone"] == "MiniLM"].to_dict("records")
    assert [(line["batch"], line["length"], line["ms"]) for line in ours] == [
        ("1", "16", "2000.0"),
        ("32", "16", "2000.0"),
    ]
    assert ours[0]["Houlsby adapters"] == "1.25 (1.25-1.25)"  # though turns took one, two and four seconds
    assert ours[0]["VeRA"] == "3.00 (3.00-3.00)"
    assert ours[1]["DoRA"] == "2.00 (1.20-3.60)"


def test_the_published_numbers_are_shown_beside_ours(tmp_path):
    lines = table(tmp_path).cells.to_dict("records")
    assert [(line["backbone"], line["batch"], line["length"]) for line in lines] == [
        ("GPT-2 medium", "32", "512"),
        ("GPT-2 medium", "16", "256"),
        ("GPT-2 medium", "1", "128"),
    ]
    assert [line["Lin adapters"] for line in lines] == ["1.02", "1.05", "1.21"]  # + 2.2, 5.0 and 20.7 %
    assert [line["Houlsby adapters"] for line in lines] == ["1.03", "1.08", "1.30"]
    assert {line["LoRA, merged"] for line in lines} == {"1.00"}
    assert {line["Pfeiffer adapters"] for line in lines} == {""}


def test_the_verdict_needs_slow_adapters_at_batch_1_and_a_fast_merged_lora():
    assert verdict(made_up(**SLOW))[0] is True
    assert verdict(made_up(**SLOW, **{MERGED: 1.1}))[0] is False
    assert verdict(made_up(**SLOW | {"lin": 0.99}))[0] is False
    assert "Houlsby adapters, batch 1: x 1.25 to 1.25" in verdict(made_up(**SLOW))[1]
    at_32 = made_up(**SLOW)
    at_32["cells"][1]["seconds"] = at_32["cells"][1]["seconds"] | {"lin": [1.0, 2.0, 4.0]}
    assert verdict(at_32)[0] is True  # the paper claims nothing of large batches


def test_an_interval_around_1_decides_nothing_and_two_turns_have_no_interval():
    noisy = made_up(**SLOW)
    noisy["cells"][0]["seconds"] = noisy["cells"][0]["seconds"] | {"lin": [0.9, 2.2, 4.4]}
    assert verdict(noisy)[0] is None
    assert verdict(made_up(turns=2, **SLOW)) == (None, "2 turns are too few for an interval")


def test_the_claim_is_answered_from_the_records(tmp_path):
    claim = Claim("c", "s", ("scripts/latency.py",), measured=lambda: verdicts(tmp_path))
    assert claim.lines(None) == [("`scripts/latency.py`", "", NOT_RUN, "")]
    for slow, expected in ((SLOW, HOLDS), ({}, UNDECIDED), (SLOW | {MERGED: 1.1}, FAILS)):
        (tmp_path / "a.json").write_text(json.dumps(made_up(**slow)))
        [(source, backbone, word, figures)] = claim.lines(None)
        assert (source, backbone, word) == ("`scripts/latency.py`", "MiniLM", expected)
        assert figures.startswith("X, 1 thread, fp32: LoRA, merged, any batch: x 1.")
    assert "adapters add latency where merged LoRA adds none" in [claim.text for claim in CLAIMS if claim.measured]


@pytest.fixture
def cli(monkeypatch, capsys):
    """Calls the script in this process; gives exit status, and what it printed to the two streams."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["latency.py", *words])
        return main(), *capsys.readouterr()

    return call


def test_the_command_writes_a_record_and_a_table(cli, tmp_path):
    status, out, err = cli(*TINY, "batches=1,2", "lengths=8", "repeats=2", f"into={tmp_path}")
    assert (status, err) == (0, "")
    [file] = (tmp_path / "records/latency").glob("tiny-*-fp32.json")
    record = json.loads(file.read_text())
    assert [(cell["batch"], cell["length"]) for cell in record["cells"]] == [(1, 8), (2, 8)]
    assert all(len(times) == 2 for cell in record["cells"] for times in cell["seconds"].values())
    assert verdict(record)[1] in out
    assert "| tiny | " in (tmp_path / "latency.md").read_text()


MISTAKES = {
    "batches=0": "batches is '0'; give a whole number of at least 1",
    "lengths=8,x": "lengths is 'x'",
    "repeats=": "repeats= is empty",
    "lengths=8,500": "lengths has 500; tiny takes at most 128",
    "method=lora": "method=lora: every method is measured, at its own defaults; leave it out",
    "method.rank=4": "method.rank=4: every method",
    "backbone=tinny": "unknown backbone 'tinny'",
    "backbone=custom backbone.source=x": "backbone 'x' has no architecture in its YAML",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, cli, tmp_path):
    status, _, err = cli(*TINY, f"into={tmp_path}", *mistake.split())
    assert status == 2
    assert err.startswith(f"error: {MISTAKES[mistake]}")
    assert err.count("\n") == 1
