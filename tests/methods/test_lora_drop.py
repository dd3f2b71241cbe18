"""LoRA-drop beside its formulas: what the probe measures, what is kept, and one pair that is shared, counted, saved once."""

import copy
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.command_line import ROOT, compose
from support.runs import outcome, run, settings
from support.tiny import METHODS, adapted_layers, encoded, shake, tiny_inputs, tiny_model
from transformers import AutoConfig, AutoModelForSequenceClassification

import train
import training.probe
from analysis.figures import importances
from analysis.records import frame
from core.errors import Diverged, UserError
from experiments.export import export_merged
from experiments.record import read_record
from experiments.restore import restore
from methods.base import load_trained_state, parameter_counts, trained_state
from methods.lora import LoRA
from methods.lora_drop import LoRADrop, layers
from models.backbone import load_backbone
from models.batches import collate
from serving.adapters import from_folder
from serving.mixed import Server
from tasks.glue import GLUE
from tasks.loading import Split
from training.accelerator import make_accelerator
from training.settings import TrainerConfig

RANK, ALPHA = 4, 6.0
SETTINGS = TrainerConfig(learning_rate=1e-2, head_learning_rate=1e-2, batch_size=4, device="cpu", precision="fp32")


def adapted(importance: list[float] | None = None, **more):
    """A small model, and in the shape that these importances of its four layers give."""
    model, method = tiny_model(), LoRADrop(**{"rank": RANK, "alpha": ALPHA} | more)
    method.apply(model)
    if importance:
        names = list(layers(model))
        method.shape(model, {f"{n}.importance": torch.tensor(v) for n, v in zip(names, importance, strict=True)})
    return model, method


def probed(model, method, **more) -> float:
    accelerator = make_accelerator(SETTINGS, deterministic=False)
    own = {"settings": SETTINGS, "task": GLUE["mnli"], "data": encoded("roberta"), "seed": 0} | more
    return training.probe.probe(model, method, accelerator=accelerator, **own)


def test_importances_are_the_squared_norms_of_each_texts_low_rank_outputs():
    """Each text alone through a copy whose layers' inputs are caught; ΔW is built and multiplied."""
    model, method = adapted()
    shake(model)
    data = encoded("roberta")
    accelerator = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    with torch.no_grad():
        found = method.judge(model, training.probe.passes(data, 3, accelerator), lambda own: own)
    g, caught = dict.fromkeys(layers(model), 0.0), {}
    for name, layer in layers(model).items():
        layer.register_forward_hook(lambda _, inputs, output, name=name: caught.update({name: inputs[0]}))
    for i in range(len(data.lengths)):
        model(**collate(data, [i]).inputs)
        for name, layer in layers(model).items():
            delta = ALPHA / RANK * (layer.B @ layer.A).detach().double()
            g[name] += sum(float((delta @ token.detach().double()).square().sum()) for token in caught[name][0])
    for name, own in g.items():
        assert float(found[f"{name}.importance"]) == pytest.approx(own / sum(g.values()), rel=1e-4)


@pytest.mark.parametrize(
    ("importance", "threshold", "kept"),
    [
        ([0.1, 0.2, 0.3, 0.4], 0.9, {1, 2, 3}),  # 0.4 and 0.3 are too little, 0.2 reaches 0.9
        ([0.1, 0.2, 0.3, 0.4], 0.65, {2, 3}),
        ([0.1, 0.2, 0.3, 0.4], 0.3, {3}),
        ([0.1, 0.2, 0.3, 0.4], 1.0, {0, 1, 2, 3}),
        ([0.25, 0.25, 0.25, 0.25], 0.5, {0, 1}),  # equals: the lower layers first
        ([0.0, 0.0, 0.0, 0.0], 0.9, {0, 1, 2, 3}),  # not judged yet
    ],
)
def test_the_layers_that_make_up_the_threshold_are_kept(importance, threshold, kept):
    model, method = adapted(importance, threshold=threshold)
    own = list(layers(model).values())
    assert {list(layers(model)).index(name) for name in method.kept(layers(model))} == kept
    shared = [layer for i, layer in enumerate(own) if i not in kept]
    assert len({layer.A for layer in own}) == len({layer.B for layer in own}) == len(kept) + (len(shared) > 0)
    assert len({(layer.A, layer.B) for layer in shared}) <= 1


def test_layers_of_each_shape_share_a_pair_of_their_own():
    model = tiny_model()
    METHODS["lora_drop_shared_all"].apply(model)
    pairs: dict[tuple[int, int], set] = {}
    for layer in adapted_layers(model):
        pairs.setdefault((layer.in_features, layer.out_features), set()).add(layer.A)
        assert layer.effective_weight().shape == layer.base.weight.shape
    assert {size: len(own) for size, own in pairs.items()} == {(32, 32): 2, (32, 48): 2, (48, 32): 2}


def test_the_shared_pairs_gradient_is_the_sum_over_its_layers():
    model, _ = adapted([0.02, 0.03, 0.91, 0.04])
    shake(model)
    apart = tiny_model()
    LoRA(rank=RANK, alpha=ALPHA).apply(apart)
    for theirs, ours in zip(adapted_layers(apart), adapted_layers(model), strict=True):
        theirs.A.data.copy_(ours.A.data)
        theirs.B.data.copy_(ours.B.data)
    for each in (model, apart):
        each(**tiny_inputs()).logits.square().sum().backward()
    for letter in "AB":
        ours = [getattr(layer, letter) for layer in adapted_layers(model)]
        theirs = [getattr(layer, letter).grad for layer in adapted_layers(apart)]
        torch.testing.assert_close(ours[2].grad, theirs[2])
        torch.testing.assert_close(ours[0].grad, theirs[0] + theirs[1] + theirs[3])
        assert ours[0] is ours[1] is ours[3]


@pytest.mark.parametrize("kept", [1, 5, 12, 23])
def test_counts_are_the_closed_form_at_roberta_bases_shape(kept):
    config = AutoConfig.for_model("roberta", vocab_size=10, num_labels=2)
    model = AutoModelForSequenceClassification.from_config(config)
    backbone = {name: p.numel() for name, p in model.named_parameters()}
    method = LoRADrop()
    method.apply(model)
    share = torch.tensor(0.9 / (kept - 0.5))  # one less does not reach T
    method.shape(model, {f"{name}.importance": share for name in list(layers(model))[:kept]})
    counts = parameter_counts(model, backbone)
    assert counts["trained_without_head"] == (kept + 1) * 8 * (768 + 768)
    assert counts["total"] == sum(backbone.values()) + counts["trained_without_head"] + 24
    saved = {name: tensor for name, tensor in trained_state(model).items() if name.endswith((".A", ".B"))}
    assert sum(tensor.numel() for tensor in saved.values()) == counts["trained_without_head"]


def test_a_probe_changes_only_the_shape():
    model, method = adapted(probe_steps=5, sample=1.0, threshold=0.3)
    start = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    assert probed(model, method) > 0
    after = trained_state(model)
    assert {name for name in start.keys() - after.keys() if not name.endswith((".A", ".B"))} == set()
    assert len(start) - len(after) == 2 * (4 - len(method.kept(layers(model))) - 1) > 0
    for name, tensor in after.items():
        assert torch.equal(tensor, start[name]) != name.endswith("importance"), name
    found = method.findings(model)["importance"]
    assert sum(found.values()) == pytest.approx(1, abs=1e-6)
    again, other = adapted(probe_steps=5, sample=1.0, threshold=0.3)
    torch.randn(7)  # what was drawn before plays no part
    probed(again, other)
    assert other.findings(again) == method.findings(model)


def test_a_model_shaped_by_a_state_loads_it_and_another_shape_does_not():
    model, _ = adapted([0.02, 0.03, 0.91, 0.04])
    shake(model)
    state = copy.deepcopy(trained_state(model))
    fresh, method = adapted()
    with pytest.raises(UserError, match="one side only"):
        load_trained_state(fresh, state)
    method.shape(fresh, state)
    load_trained_state(fresh, state)
    assert torch.equal(fresh(**tiny_inputs()).logits, model(**tiny_inputs()).logits)
    assert method.findings(fresh) == method.findings(model)


def test_a_probe_that_learns_nothing_is_reported():
    model, method = adapted(probe_steps=1)
    settings = TrainerConfig(learning_rate=1e-45, head_learning_rate=1e-2, device="cpu", precision="fp32")
    with pytest.raises(Diverged, match="the probe of 1 steps found numbers that are not finite"):
        probed(model, method, settings=settings)


@pytest.mark.parametrize(
    "labels", [[0] * 60 + [1] * 30 + [2] * 10, [i / 20 for i in range(100)]], ids=["classes", "scores"]
)
def test_the_sample_has_every_label_in_its_proportion(labels):
    data = encoded("roberta", [5] * 100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).tolist()
    split = Split("train", data.split.texts, [labels[i] for i in order], list(range(100)))
    drawn = [training.probe.draw(replace(data, split=split), 0.2, s) for s in (0, 0, 1)]
    for own in drawn:
        assert len(set(own.split.idx)) == 20
        assert [own.inputs["input_ids"][i] for i in range(20)] == [data.inputs["input_ids"][i] for i in own.split.idx]
    rows = sorted(drawn[0].split.labels)
    if isinstance(labels[0], int):
        assert [rows.count(label) for label in range(3)] == [12, 6, 2]
    else:
        assert all(int(score * 4) == i for i, score in enumerate(rows))
    assert drawn[0].split.idx == drawn[1].split.idx != drawn[2].split.idx


def test_the_processes_passes_cover_the_sample_once_without_padding():
    data, seen = encoded("roberta"), []
    for rank in range(2):
        accelerator = SimpleNamespace(process_index=rank, num_processes=2, device=torch.device("cpu"))
        for inputs in training.probe.passes(data, 2, accelerator):
            assert inputs["attention_mask"].all()
            assert len(inputs["input_ids"]) <= 2
            seen += inputs["input_ids"].tolist()
    assert sorted(seen) == sorted(data.inputs["input_ids"])


def test_a_run_that_is_stopped_in_its_probe_begins_again_to_the_same_bits(tmp_path, monkeypatch):
    whole, _ = run(tmp_path / "whole", "lora_drop", "cola")

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LoRADrop, "judge", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", "lora_drop", "cola")
    cut, _ = run(tmp_path / "cut", "lora_drop", "cola")
    assert outcome(cut) == outcome(whole)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    words = ("method.threshold=0.5", "trainer.learning_rate=0.02")
    return run(tmp_path_factory.mktemp("runs"), "lora_drop", "cola", *words)


def test_a_record_lists_importances_and_kept_layers_and_a_figure_shows_them(finished):
    folder, record = finished
    found = record["findings"]
    count = 2 * record["config"]["backbone"]["architecture"]["num_hidden_layers"]
    assert len(found["importance"]) == count > len(found["kept"])
    assert sum(found["importance"].values()) == pytest.approx(1, abs=1e-5)
    above = sorted(found["importance"].values(), reverse=True)
    sums = [0.0, *itertools.accumulate(above)]
    assert sums[len(found["kept"])] >= 0.5 > sums[len(found["kept"]) - 1]
    width = record["config"]["backbone"]["architecture"]["hidden_size"]
    assert record["parameters"]["trained_without_head"] == (len(found["kept"]) + 1) * 2 * width * 4
    (ax,) = importances(frame([record])).axes
    assert [bar.get_height() for bar in ax.patches] == pytest.approx(list(found["importance"].values()))
    filled = [bar.get_facecolor() != (1, 1, 1, 1) for bar in ax.patches]
    assert [name for name, own in zip(found["importance"], filled, strict=True) if own] == [
        name for name in found["importance"] if name in found["kept"]
    ]
    assert importances(frame([record | {"findings": {}}])) is None
    assert read_record(folder) == record


def test_a_finished_run_merges_and_peft_and_the_server_get_a_copy_in_each_layer(finished, tmp_path):
    folder, record = finished
    restored = restore(folder)
    accelerator = make_accelerator(restored.run.trainer, deterministic=False)
    numbers = export_merged(copy.deepcopy(restored), tmp_path / "merged", accelerator, "")
    assert numbers["saved and loaded"]["largest difference"] < 1e-4
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], len(config["target_modules"])) == (
        "LORA",
        4,
        len(record["findings"]["importance"]),
    )
    inputs = {"input_ids": [[5, 6, 7, 8], [9, 10, 11]]}
    data = replace(encoded("roberta", [4, 3]), inputs=inputs)
    plain = restore(folder)
    base = load_backbone(plain.run.backbone, plain.run.task.row, plain.run.seed, [("a",)])
    server = Server(base.model, 10**9, data)
    server.store.add("one", from_folder(folder, record["provenance"]["backbone"]))
    with torch.no_grad():
        expected = plain.model(**collate(data, [0, 1]).inputs).logits
    torch.testing.assert_close(torch.stack(server.logits(data, [0, 1], ["one", "one"])), expected, rtol=1e-3, atol=1e-4)


def test_a_run_from_another_run_keeps_its_shape_and_one_from_peft_is_refused(finished, tmp_path, monkeypatch):
    folder, record = finished
    monkeypatch.setattr(LoRADrop, "judge", None)  # no probe may ask
    words = ("method.threshold=0.5", "trainer.epochs=1", f"init_from={folder}")
    _, second = run(tmp_path, "lora_drop", "cola", *words)
    assert second["findings"] == record["findings"]
    assert second["parameters"] == record["parameters"]
    with pytest.raises(UserError, match="does not say which layers share a pair: name a run's folder instead"):
        train.train(compose(*settings(tmp_path, "lora_drop", "cola", *words[:2], f"init_from={folder / 'adapter'}")))


def test_the_published_threshold_is_the_default_and_others_are_checked():
    method = compose("method=lora_drop").method
    assert (method.threshold, method.rank, method.alpha) == (0.9, 8, 8.0)
    for word in ("threshold=0", "threshold=1.1", "sample=0", "probe_steps=0"):
        with pytest.raises(UserError, match=f"method.{word.partition('=')[0]} is"):
            compose("method=lora_drop", f"method.{word}")
    assert (ROOT / "conf/method/lora_drop.yaml").exists()
