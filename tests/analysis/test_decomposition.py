"""How far training moves magnitudes and directions: the equations, a run's record, and the claim made of them."""

import json

import numpy as np
import pytest
import torch
from support.runs import run

from analysis import decomposition
from analysis.decomposition import FOLDER, change, correlations, decompose, matrices, points, read, runs_below
from core.errors import UserError
from core.io import read_tensors
from experiments.restore import pretrained, restore
from experiments.run_folder import BEST


def test_a_longer_row_changes_the_magnitude_and_a_turned_one_the_direction():
    W0 = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert change(W0, W0) == pytest.approx((0, 0))
    assert change(2 * W0, W0) == pytest.approx(((5 + 2) / 2, 0))
    turned = torch.tensor([[-4.0, 3.0], [0.0, -2.0]])  # by 90 and by 180 degrees
    assert change(turned, W0) == pytest.approx((0, (1 + 2) / 2))


def test_a_runs_record_has_what_its_saved_factors_say(tmp_path):
    folder, record = run(tmp_path, "lora", "cola", "method.alpha=64")
    found = decompose(folder)
    restored, state = restore(folder), read_tensors(folder / BEST)[0]
    before = matrices(pretrained(folder, restored.run, record).model)
    assert found["decomposition"].keys() == before.keys()
    for name, pair in found["decomposition"].items():
        s = 64 / state[f"{name}.A"].shape[0]
        W = before[name] + s * state[f"{name}.B"] @ state[f"{name}.A"]
        assert pair == pytest.approx(change(W, before[name]), rel=1e-3, abs=1e-9)
        assert pair[1] > 0
    assert (found["method"], found["seed"]) == ("lora", record["seed"])
    with pytest.raises(UserError, match="holds no finished run of full, lora, dora on real data"):
        runs_below(tmp_path)  # its data are generated


def test_correlations_are_over_layers_and_summed_up_over_seeds_by_fishers_z():
    def of(seed: int, r: float) -> dict:
        x = np.array([0.0, 1.0, 2.0, 3.0])
        across = np.array([1.0, -1.0, -1.0, 1.0])  # uncorrelated with x
        y = r * (x - 1.5) / np.std(x) + np.sqrt(1 - r**2) * across
        layers = {f"layer.{i}.query": [a, b] for i, (a, b) in enumerate(zip(x, y, strict=True))}
        others = {f"layer.{i}.value": [a, -a] for i, a in enumerate(x)}
        return {"method": "lora", "seed": seed, "decomposition": layers | others}

    records = [of(seed, r) for seed, r in enumerate((0.2, 0.5, 0.8))]
    assert points(records[0]).shape == (4, 2)
    s = correlations(records)["lora"]
    z = np.arctanh([0.2, 0.5, 0.8])
    half = 4.302653 * z.std(ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    assert (s.mean, s.low, s.high) == pytest.approx(tuple(np.tanh([z.mean(), z.mean() - half, z.mean() + half])))


def test_the_claim_is_judged_by_all_three_intervals(tmp_path, monkeypatch):
    def verdict(**of) -> bool | None:
        for file in tmp_path.glob("*.json"):
            file.unlink()
        for method, values in of.items():
            for seed, r in enumerate(values):
                layers = {f"layer.{i}.query": [x, r * x + 0.3 * (-1) ** i] for i, x in enumerate((0.0, 1.0, 3.0, 4.0))}
                record = {"method": method, "seed": seed, "task": "cola", "backbone": "minilm", "experiment": "x"}
                (tmp_path / f"{method}{seed}.json").write_text(json.dumps(record | {"decomposition": layers}))
        monkeypatch.setattr(decomposition, "read", lambda: read(tmp_path))
        [(backbone, holds, _)] = decomposition.verdicts()
        assert backbone == "minilm"
        return holds

    apart, together, either = (-1, -1.1, -0.9), (1, 1.1, 0.9), (-1, 1, 0.1)
    assert verdict(full=apart, lora=together, dora=apart) is True
    assert verdict(full=apart, lora=together, dora=either) is None
    assert verdict(full=apart, lora=apart, dora=apart) is False


def test_committed_records_are_of_the_study_and_name_no_path():
    for file in FOLDER.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert json.loads(text)["experiment"] == "minilm_3_epochs"
        assert "/home" not in text
