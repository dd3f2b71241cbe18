"""Many adapters beside one backbone: each row gets the logits of its own adapter, whatever else is in the batch."""

import json
import os
import subprocess
import sys

import pytest
import torch
from support.architectures import ARCHITECTURES, TEXTS, random_classifier
from support.command_line import ROOT, compose
from support.files import save_encoder
from support.tiny import METHODS, encoded, tiny_model
from torch import nn
from transformers import PretrainedConfig

from analysis.figures import throughput
from analysis.serving import BARE, LABELS, MERGED, MIXED, SWITCHED, WAYS, mixing, ratio, table, thousands
from benchmarks.serving import verdict
from core.errors import UserError
from experiments.record import read_record
from experiments.restore import restore
from methods.base import linear_layers, trained_state
from methods.lora import LoRA
from methods.lora_fa import LoRAFA
from models.backbone import load_backbone, samples
from models.batches import collate, encode
from models.packed import Packed, Padded, forward_path
from models.random_init import train_tokenizer
from scripts.serve_bench import main
from serving.adapters import Adapter, AdapterStore, from_folder, from_state
from serving.mixed import MixedLinear, Server, by_adapter, unfit_layers
from tasks.glue import GLUE
from tasks.loading import load_splits
from train import train

PLENTY = 10**9
KINDS = {  # method, outputs: of all ranks, scales and layers
    "one": (LoRA(rank=2), 3),
    "two": (LoRA(rank=4, alpha=16, target_modules="."), 2),
    "three": (LoRAFA(rank=8), 1),
    "four": (LoRA(rank=5, rank_stabilized=True, target_modules="key|output.dense", dropout=0.3), 3),
}
INDICES = [9, 0, 4, 4, 7, 2, 8, 1, 5, 3]
NAMES = ["two", "one", "three", "two", "four", "one", "two", "three", "one", "two"]


def trained(architecture: str, name: str, seed: int = 0) -> nn.Module:
    """The shared encoder with an adapter and a head that are as if trained."""
    method, outputs = KINDS[name]
    model = tiny_model(architecture, outputs)
    model.base_model.load_state_dict(tiny_model(architecture).base_model.state_dict())
    method.apply(model)
    torch.manual_seed(sorted(KINDS).index(name) + 10 * seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def adapter(architecture: str, name: str, seed: int = 0) -> Adapter:
    return from_state(trained_state(trained(architecture, name, seed)), KINDS[name][0].scale)


def served(architecture: str, budget: int = PLENTY, forward: str = "packed") -> Server:
    server = Server(tiny_model(architecture), budget, encoded(architecture), forward)
    for name in KINDS:
        server.store.add(name, adapter(architecture, name))
    return server


@torch.no_grad()
def alone(model: nn.Module, data, indices: list[int]) -> list[torch.Tensor]:
    path = forward_path(model, "padded")
    return [path(path.collate(data, [i]))[0] for i in indices]


@pytest.mark.parametrize("forward", ["packed", "padded"])
def test_each_row_gets_the_logits_of_its_own_adapter(architecture, forward):
    data, server = encoded(architecture), served(architecture, forward=forward)
    assert type(server.path) is {"packed": Packed, "padded": Padded}[forward]
    answers = server.logits(data, INDICES, NAMES)
    for index, name, answer in zip(INDICES, NAMES, answers, strict=True):
        [expected] = alone(trained(architecture, name), data, [index])
        assert answer.shape == (KINDS[name][1],)
        torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_may_hold_one_adapter_or_one_request(name, architecture):
    data, server, model = encoded(architecture), served(architecture), trained(architecture, name)
    for indices in ([3, 9, 0], [7]):
        answers = server.logits(data, indices, [name] * len(indices))
        torch.testing.assert_close(answers, alone(model, data, indices), rtol=1e-5, atol=1e-5)


def test_an_adapter_without_a_pooler_takes_the_backbones():
    """BigBird's runs save none, since no head reads it; PEFT saves none that did not train."""
    data, model = encoded("bert"), trained("bert", "two")
    model.base_model.pooler.load_state_dict(tiny_model("bert").base_model.pooler.state_dict())
    state = {name: tensor for name, tensor in trained_state(model).items() if "pooler" not in name}
    server = served("bert")
    server.store.add("own", from_state(state, KINDS["two"][0].scale))
    answers = server.logits(data, [9, 0, 4], ["one", "own", "two"])
    models = [trained("bert", "one"), model, trained("bert", "two")]
    expected = [alone(each, data, [index])[0] for each, index in zip(models, [9, 0, 4], strict=True)]
    torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-5)


def test_a_batch_does_not_affect_the_next(architecture):
    data, server = encoded(architecture), served(architecture)
    first = server.logits(data, INDICES, NAMES)
    server.logits(data, INDICES, NAMES[::-1])
    assert all(map(torch.equal, server.logits(data, INDICES, NAMES), first))


def test_rows_of_an_adapter_lie_together_and_short_ones_come_first():
    assert by_adapter(["a", "b", "c", "a", "d"], [5, 4, 3, 9, 9]) == [2, 1, 0, 3, 4]


def test_requests_of_one_token_each_are_answered():
    """Requests of a token each: rows and tokens are the same slices."""
    data, server = encoded("bert", [1, 1, 1]), served("bert")
    answers = server.logits(data, [0, 1, 2], ["two", "one", "two"])
    expected = [alone(trained("bert", name), data, [i])[0] for i, name in enumerate(["two", "one", "two"])]
    torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-5)


def test_the_base_product_runs_once_and_the_base_weights_stay():
    data, server = encoded("roberta"), served("roberta")
    layers = [module for module in server.path.modules() if isinstance(module, MixedLinear)]
    assert len(layers) == 2 * 6
    calls = []
    for layer in layers:
        layer.base.register_forward_hook(lambda *_: calls.append(1))
    before = {name: p.clone() for name, p in server.path.named_parameters()}
    server.logits(data, INDICES, NAMES)
    assert len(calls) == len(layers)
    assert all(torch.equal(p, before[name]) for name, p in server.path.named_parameters())


def test_a_half_precision_model_is_served_in_its_own_type():
    data, model = encoded("bert"), tiny_model("bert").to(torch.bfloat16)
    server = Server(model, PLENTY, data)
    server.store.add("one", adapter("bert", "one"))
    server.store.add("two", adapter("bert", "two"))
    answers = server.logits(data, [0, 9], ["one", "two"])
    expected = [alone(trained("bert", name), data, [i])[0] for i, name in ((0, "one"), (9, "two"))]
    assert {answer.dtype for answer in answers} == {torch.bfloat16}
    torch.testing.assert_close(torch.cat(answers).float(), torch.cat(expected), rtol=0.1, atol=0.3)


def forget(config: PretrainedConfig, eos: int | list[int] | None) -> None:
    """Sets a config's `eos_token_id`; None: takes it away, since some classes have none."""
    config.eos_token_id = eos
    if eos is None:
        del config.eos_token_id


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES.keys() - {"bart", "t5"}))  # their own code reads it
def test_what_a_layer_is_given_shows_whatever_a_config_says_of_its_tokens(architecture):
    """A config may lack an `eos_token_id`, have several, or one that is no word of the tokenizer's texts."""
    model, tokenizer = random_classifier(architecture), train_tokenizer(TEXTS, vocabulary=300, pad_id=1)
    data, names = samples(tokenizer, GLUE["rte"], 64), dict(linear_layers(model))
    expected = unfit_layers(model, names, data)
    for eos in (None, [2, 3], 0):
        forget(model.config, eos)
        assert unfit_layers(model, names, data) == expected


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_a_head_that_reads_a_texts_end_finds_it_in_the_sample(architecture):
    model, tokenizer = random_classifier(architecture, eos_token_id=0), train_tokenizer(TEXTS, vocabulary=300, pad_id=1)
    data = samples(tokenizer, GLUE["rte"], 64)
    assert Server(model, PLENTY, data).store.unfit == set()


# The store


def test_the_store_keeps_its_own_copy():
    mine = adapter("bert", "one")
    server = Server(tiny_model("bert"), PLENTY, encoded("bert"))
    server.store.add("one", mine)
    before = server.logits(encoded("bert"), [0], ["one"])
    for A, B in mine.layers.values():
        A.zero_(), B.zero_()
    assert torch.equal(server.logits(encoded("bert"), [0], ["one"])[0], before[0])


def equal_adapters(budget: int, count: int = 4) -> AdapterStore:
    """A store of adapters `0`, `1`, ..., all of one size, `budget` of which fit."""
    store = AdapterStore(tiny_model("bert"), PLENTY)
    for number in range(count):
        store.add(str(number), adapter("bert", "one", number))
    store.budget = budget * store.host["0"].nbytes
    return store


def test_counted_bytes_equal_those_of_the_tensors():
    one = adapter("bert", "one")
    numbers = [t.numel() for pair in one.layers.values() for t in pair] + [t.numel() for t in one.head.values()]
    assert equal_adapters(1, count=3).nbytes == 3 * 4 * sum(numbers)


def state_of(store: AdapterStore) -> tuple[list[str], int, int]:
    """Who is resident, loads, evictions; the bytes must always agree."""
    assert store.resident_bytes == sum(store.host[name].nbytes for name in store.resident) <= store.budget
    return list(store.resident), store.loads, store.evictions


def test_the_least_recently_used_adapter_is_evicted_first():
    store = equal_adapters(budget=2)
    assert state_of(store) == ([], 0, 0)
    for names, after in (
        (["0"], (["0"], 1, 0)),
        (["1", "0", "1"], (["0", "1"], 2, 0)),
        (["0"], (["1", "0"], 2, 0)),
        (["2"], (["0", "2"], 3, 1)),
        (["3", "0"], (["0", "3"], 4, 2)),  # the older of the two is in the batch, and stays
        (["1", "2"], (["1", "2"], 6, 4)),
    ):
        assert list(store.fetch(names)) == list(dict.fromkeys(names))
        assert state_of(store) == after


@pytest.mark.parametrize(("spare", "after"), [(0, (["three", "two"], 3, 1)), (-1, (["two"], 3, 2))])
def test_no_more_adapters_are_evicted_than_needed(spare, after):
    store = served("roberta").store
    store.budget = store.host["two"].nbytes + store.host["three"].nbytes + spare
    for name in ("one", "three", "two"):
        store.fetch([name])
    assert state_of(store) == after


def test_an_evicted_adapter_gives_the_same_logits_when_loaded_again(architecture):
    data, roomy = encoded(architecture), served(architecture)
    largest = max(block.nbytes for block in roomy.store.host.values())
    tight = served(architecture, budget=largest)
    for _ in range(2):
        for index, name in zip(INDICES, NAMES, strict=True):
            [expected], [answer] = (server.logits(data, [index], [name]) for server in (roomy, tight))
            assert torch.equal(answer, expected)
    assert roomy.store.evictions == 0
    assert tight.store.evictions == tight.store.loads - len(tight.store.resident) > 8


def test_a_batch_beyond_the_budget_is_refused_and_changes_nothing():
    store = equal_adapters(budget=2)
    store.fetch(["3"])
    with pytest.raises(UserError, match=r"batch's 3 adapters take [\d,]+ bytes, the budget is [\d,]+: use a smaller"):
        store.fetch(["0", "1", "2", "0"])
    assert state_of(store) == (["3"], 1, 0)


def test_an_unknown_name_is_refused_and_changes_nothing():
    store = equal_adapters(budget=2)
    with pytest.raises(UserError, match="no adapter 'five' among the 4 in the store: add it first"):
        store.fetch(["0", "five"])
    assert state_of(store) == ([], 0, 0)


QUERY = "bert.encoder.layer.0.attention.self.query"


def changed(layers: dict | None = None, head: dict | None = None) -> Adapter:
    """BERT's adapter `one` with other tensors; None takes one away."""
    own = adapter("bert", "one")
    tensors = {**own.head, **(head or {})}
    return Adapter(own.layers | (layers or {}), own.scale, {k: t for k, t in tensors.items() if t is not None})


WRONG = {
    "adapts bert.encoder.layer.7.*which the backbone lacks": lambda: changed(
        {QUERY.replace("0", "7"): (torch.zeros(2, 32), torch.zeros(32, 2))}
    ),
    r"A \(2, 31\) and B \(32, 2\) for .*query, which takes \(r, 32\)": lambda: changed(
        {QUERY: (torch.zeros(2, 31), torch.zeros(32, 2))}
    ),
    r"A \(2, 32\) and B \(32, 3\)": lambda: changed({QUERY: (torch.zeros(2, 32), torch.zeros(32, 3))}),
    r"A \(2, 32\) and B \(2, 32\)": lambda: changed({QUERY: (torch.zeros(2, 32), torch.zeros(2, 32))}),
    "another head .*: bert.pooler.dense.bias is on one side only": lambda: changed(
        head={"bert.pooler.dense.bias": None}
    ),
    "another head .*: classifier.extra is on one side only": lambda: changed(head={"classifier.extra": torch.zeros(1)}),
    r"classifier.weight of shape \(3, 31\), where the head takes \(3, 32\)": lambda: changed(
        head={"classifier.weight": torch.zeros(3, 31)}
    ),
    r"classifier.bias of shape \(3,\), where the head takes \(4,\)": lambda: changed(
        head={"classifier.weight": torch.zeros(4, 32)}
    ),
    "bert.pooler.dense.weight of shape": lambda: changed(head={"bert.pooler.dense.weight": torch.zeros(31, 32)}),
}


@pytest.mark.parametrize("message", WRONG)
def test_an_adapter_of_another_backbone_is_refused(message):
    store = AdapterStore(tiny_model("bert"), PLENTY)
    with pytest.raises(UserError, match=f"adapter 'mine' .*{message}"):
        store.add("mine", WRONG[message]())
    assert not store.host


def test_an_adapters_name_can_be_used_only_once():
    store = equal_adapters(budget=2)
    with pytest.raises(UserError, match="there is an adapter '3' already"):
        store.add("3", adapter("bert", "two"))


@pytest.mark.parametrize("name", ["full", "vera", "dora"])
def test_states_of_other_methods_are_refused(name):
    model = tiny_model("bert")
    METHODS[name].apply(model)
    with pytest.raises(UserError, match="only adapters of an A and a B for each layer can be served"):
        from_state(trained_state(model), 1.0)


# The measurement


SMALL = ("backbone=tiny", "task=rte", "data.train_size=40", "data.eval_size=20", "batch=6", "rounds=2")


def serve_bench(folder, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts/serve_bench.py"), *SMALL, f"into={folder}", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_serves_four_ways_and_writes_a_record_and_a_table(tmp_path):
    done = serve_bench(tmp_path, "adapters=1,5")
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "records/serving").glob("tiny-rte-batch6-cpu-*.json")
    record = json.loads(file.read_text())
    one, five = record["steps"]
    assert (one["adapters"], five["adapters"]) == (1, 5)
    assert one["adapters_a_batch"] == [1, 1]
    assert five["adapter_bytes"] > 4 * one["adapter_bytes"]
    assert 1 < max(five["adapters_a_batch"]) <= 5
    assert all(len(seconds) == 2 for step in record["steps"] for seconds in step["seconds"].values())
    assert set(one["seconds"]) == set(WAYS)
    assert one["evictions"] == five["evictions"] == 0
    assert record["provenance"]["git"]["commit"]
    assert verdict(five) in done.stdout
    lines = table(tmp_path / "records/serving").cells
    assert list(lines["adapters"]) == ["1", "5"]
    assert (tmp_path / "serving.md").read_text().count("| tiny | ") == 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("adapters=1,none", "adapters is 'none'; give a whole number"),
        ("method=dora", "method is 'dora'; serving is measured with method=lora"),
        ("method.target_modules=qurey", "no linear layer matches 'qurey'"),
        ("backbone=tiney", "unknown backbone 'tiney'"),
    ],
)
def test_mistakes_are_one_sentence(word, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["serve_bench.py", *SMALL, f"into={tmp_path}", word])
    assert main() == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def step(**more) -> dict:
    seconds = {MIXED: [1.0, 3.0], SWITCHED: [4.0, 4.0], MERGED: [8.0, 8.0], BARE: [1.0, 1.0]}
    sizes = {"adapters": 100, "adapter_bytes": 10**9, "adapters_a_batch": [7, 9], "tokens": [64, 64]}
    return {"seconds": seconds, "loads": 3, "evictions": 0} | sizes | more


def made_up(*steps: dict) -> dict:
    hardware = {"device": "cpu", "cpu": "X", "threads": 2, "precision": "fp32"}
    record = {"serving": 1, "backbone": "minilm", "task": "rte", "settings": {"batch": 8}, "model_bytes": 2 * 10**8}
    return record | {"provenance": {"hardware": hardware}, "steps": list(steps)}


def test_the_figure_has_a_curve_for_each_way():
    assert throughput([]) is None
    [ax] = throughput([made_up(step(adapters=1), step())]).axes
    assert {curve.get_label(): list(curve.get_ydata()) for curve in ax.lines} == {
        MIXED: [4, 4],
        SWITCHED: [2, 2],
        LABELS[MERGED]: [1, 1],
        BARE: [8, 8],
    }
    assert ax.get_xscale() == "log"
    assert all(list(curve.get_xdata()) == [1, 100] for curve in ax.lines)


def test_the_table_shows_what_was_measured(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(made_up(step())))
    (tmp_path / "b.json").write_text(json.dumps({"schema": 2}))
    [line] = table(tmp_path).cells.to_dict("records")
    assert line["batch"] == "8 of RTE"
    assert (line[f"{MIXED}, requests/s"], line[f"{LABELS[MERGED]}, requests/s"]) == ("4", "1")
    assert (line[f"x {SWITCHED}"], line[f"x {LABELS[MERGED]}"], line[f"x {BARE}"]) == ("2.00", "4.00", "0.50")
    assert line[f"{MIXED}, ms"] == "2000 (2800)"
    assert (line["adapters a batch"], line["GB"], line["GB of models"], line["loads"]) == ("8", "1.20", "20.00", "3")


def test_the_verdict_says_where_we_are_slower():
    assert ratio(step(), SWITCHED) == 2
    assert verdict(step()).startswith("100 adapters: 2.00 times the requests/s of 'one at a time', 4.00 times")
    assert "NOT FASTER" not in verdict(step())
    slow = step()["seconds"] | {MIXED: [9.0, 9.0]}
    assert verdict(step(seconds=slow)).endswith("NOT FASTER")
    assert "NOT" not in verdict(step(seconds=slow, adapters=1))


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_adapters_of_runs_are_served_together(architecture, tmp_path):
    """Two tasks, two ranks, two numbers of outputs: as each run's own model answers."""
    save_encoder(tmp_path / "encoder", architecture)
    words = ("backbone=custom", f"backbone.source={tmp_path / 'encoder'}", f"output_dir={tmp_path}", "logger=none")
    sizes = ("data=generated", "data.train_size=24", "data.eval_size=12", "trainer.epochs=1", "task.max_length=32")
    rates = ("trainer.learning_rate=0.02", "trainer.batch_size=8")
    runs = {
        "rte": compose("method=lora", "method.rank=2", "task=rte", *words, *sizes, *rates),
        "mnli": compose("method=lora_fa", "method.rank=4", "method.rank_stabilized=true", "task=mnli", *words, *sizes),
    }
    for run in runs.values():
        train(run)
    alone = {name: restore(run.folder) for name, run in runs.items()}
    backbone = load_backbone(runs["rte"].backbone, GLUE["rte"], seed=5, texts=[])
    data = encode(load_splits(GLUE["rte"], runs["rte"].data)["validation"], backbone.tokenizer, 32)
    server = Server(backbone.model, PLENTY, data)
    server.store.add("rte", from_folder(runs["rte"].folder, backbone.provenance))
    server.store.add("mnli", from_folder(runs["mnli"].folder / "adapter", backbone.provenance))
    names = ["mnli", "rte", "rte", "mnli", "rte", "mnli"]
    answers = server.logits(data, list(range(6)), names)
    for i, (name, answer) in enumerate(zip(names, answers, strict=True)):
        with torch.no_grad():
            expected = Padded(alone[name].model)(collate(data, [i]))[0]
        torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="trained on a backbone with"):
        from_folder(runs["rte"].folder, backbone.provenance | {"sha256": "0"})


def test_random_backbones_of_two_tasks_say_why_they_are_not_one(tmp_path):
    quick = ("trainer.max_steps=1", "data.train_size=16", "data.eval_size=8", "logger=none", f"output_dir={tmp_path}")
    words = ("method=lora", "profile=offline", "backbone=tiny", *quick)
    first = compose("task=cola", *words)
    train(first)
    other = compose("task=rte", *words, f"init_from={first.folder}")
    why = r"sha256 '\w+'.*'\w+': random backbones differ by seed and, unless backbone.tokenizer is given, by task$"
    with pytest.raises(UserError, match=why):
        train(other)
    texts = load_splits(GLUE["rte"], other.data)["train"].texts
    backbone = load_backbone(other.backbone, GLUE["rte"], seed=0, texts=texts)
    with pytest.raises(UserError, match=why):
        from_folder(first.folder, backbone.provenance)
    with pytest.raises(UserError, match=r"this one's is '0'$"):
        from_folder(first.folder, backbone.provenance | {"source": "encoder", "sha256": "0"})


def test_other_kinds_of_adapters_are_not_served(tmp_path):
    save_encoder(tmp_path / "encoder")
    words = ("backbone=custom", f"backbone.source={tmp_path / 'encoder'}", f"output_dir={tmp_path}", "logger=none")
    quick = ("trainer.max_steps=1", "task.max_length=32", "data.train_size=16", "data.eval_size=8")
    for method in ("dora", "vera"):
        run = compose(f"method={method}", "method.rank=4", "task=rte", *words, "data=generated", *quick)
        train(run)
        provenance = read_record(run.folder)["provenance"]["backbone"]
        with pytest.raises(UserError, match=r"a DoRA adapter; only LoRA.s|no LoRA adapter"):
            from_folder(run.folder, provenance)


def test_a_run_without_an_adapter_is_reported_as_one(tmp_path):
    """It is a run, and the sentence must not say otherwise."""
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"is a run without an adapter; only LoRA's and LoRA-FA's can be served: export"
    ):
        from_folder(tmp_path, {})


def test_the_claim_on_2000_adapters_needs_half_the_speed_of_the_model_alone(tmp_path):
    def answer(mixed: list[float], adapters: int = 2000) -> tuple[bool | None, str]:
        each = step(adapters=adapters, seconds=dict.fromkeys(WAYS, [1.0] * 3) | {MIXED: mixed})
        (tmp_path / "a.json").write_text(json.dumps(made_up(each)))
        [(_, holds, figures)] = thousands(tmp_path)
        return holds, figures

    assert answer([1.25, 1.25, 1.25]) == (
        True,
        "X, 2 threads, fp32, 8 of RTE: 2,000 adapters, x 0.80 of the model alone (0.80 to 0.80 by batch, n = 3)",
    )
    assert answer([4.0, 4.0, 4.0])[0] is False
    assert answer([1.0, 2.0, 4.0])[0] is None
    assert answer([1.25, 1.25, 1.25], adapters=100)[0] is False
    [(_, cannot, figures)] = mixing(tmp_path)
    assert cannot is False
    assert "up to 9 adapters in one pass" in figures
