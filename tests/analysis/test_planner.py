"""The planner, checked against closed forms and against the bytes of real models."""

import math
import re

import pytest
import torch
from support.command_line import compose
from support.tiny import METHODS, tiny_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from analysis.planner import plan, quantized_bytes, table
from analysis.render import Table
from core.errors import UserError
from methods.adapter import Houlsby, Lin, Pfeiffer
from methods.adapterdrop import AdapterDrop
from methods.base import head_parameters, head_prefixes, trained_state
from methods.bitfit import BitFit
from methods.dora import DoRA
from methods.lora import LoRA
from methods.lora_fa import LoRAFA
from methods.qlora import Linear4bit, QLoRA
from methods.top_layers import TopLayers
from methods.vera import VeRA
from models.settings import BackboneConfig
from scripts.plan import main

GB = 10**9
LLAMA = 6_607_343_616


def backbone_of(model: torch.nn.Module) -> BackboneConfig:
    return BackboneConfig(name="built", random_init=True, architecture=model.config.to_dict())


def adapter_bytes(model: torch.nn.Module) -> int:
    """Of the tensors that a run saves, the head's left out."""
    return sum(t.nbytes for name, t in trained_state(model).items() if not name.startswith(head_prefixes(model)))


def base_bytes(model: torch.nn.Module) -> int:
    """Of a model to which no method was applied, below the head."""
    return sum(p.nbytes for p in model.parameters()) - sum(p.nbytes for p in head_parameters(model))


@pytest.mark.parametrize(
    ("name", "method", "base", "trained", "saved"),
    [
        ("roberta-base", LoRA(rank=8), 124_055_040, 294_912, 294_912),
        ("roberta-base", LoRAFA(rank=8), 124_055_040, 147_456, 294_912),
        ("roberta-base", DoRA(rank=8), 124_055_040, 313_344, 313_344),
        ("roberta-base", VeRA(rank=1024), 124_055_040, 43_008, 43_008),
        ("roberta-large", LoRA(rank=8), 354_310_144, 786_432, 786_432),
        ("llama-7b", LoRA(rank=8), LLAMA, 4_194_304, 4_194_304),
        ("llama-7b", LoRA(rank=8, target_modules="."), LLAMA, 19_988_480, 19_988_480),
        ("llama-7b", DoRA(rank=8), LLAMA, 4_456_448, 4_456_448),
        ("roberta-base", BitFit(), 124_055_040, 102_144, 102_144),
        ("roberta-base", TopLayers(layers=2), 124_055_040, 14_175_744, 14_175_744),
        ("roberta-base", Houlsby(bottleneck=64), 124_055_040, 2_417_664, 2_417_664),
        ("roberta-base", Lin(bottleneck=64), 124_055_040, 1_208_064, 1_208_064),
        ("roberta-base", Pfeiffer(bottleneck=48), 124_055_040, 894_528, 894_528),
        ("roberta-base", AdapterDrop(dropped_layers=5), 124_055_040, 521_808, 521_808),
        ("llama-7b", TopLayers(layers=2), LLAMA, 404_766_720, 404_766_720),
    ],
)
def test_adapter_counts_have_their_closed_form(name, method, base, trained, saved):
    counted = plan(compose(f"backbone={name}").backbone, method, 40 * GB, 16, 2)
    assert (counted.base_parameters, counted.trained, counted.adapter_parameters) == (base, trained, saved)
    assert (counted.base_bytes, counted.adapter_bytes) == (2 * base, 2 * saved)
    assert counted.share == trained / base


def test_the_counted_llama_lacks_only_its_language_model_head():
    """The quoted 6,738,415,616 include a head over the vocabulary; a classifier has its own head instead."""
    assert LLAMA + 32_000 * 4_096 == 6_738_415_616


def test_the_plan_equals_the_bytes_of_a_built_model(method, architecture):
    model = tiny_model(architecture)
    if method.name == "head":
        with pytest.raises(UserError, match="no adapter to plan for"):
            plan(backbone_of(model), method, GB, 32, 4)
        return
    counted = plan(backbone_of(model), method, GB, 32, 4)
    assert counted.base_bytes == base_bytes(model)
    own = {name for name, _ in model.named_buffers()}
    method.apply(model)
    assert counted.adapter_bytes == adapter_bytes(model)
    saved = trained_state(model)
    added = {name: b.nbytes for name, b in model.named_buffers() if name not in own and name not in saved}
    packed = tuple(f"{name}." for name, layer in model.named_modules() if isinstance(layer, Linear4bit))
    assert counted.shared_bytes == sum(
        size for name, size in added.items() if not packed or not name.startswith(packed)
    )


@pytest.mark.parametrize(("name", "expected"), [("lora", 0), ("vera", 2 * 48 * 32 * 4), ("dora", 2 * 2 * 32 * 4)])
def test_tensors_that_all_adapters_share_are_counted_once(name, expected):
    model = tiny_model()
    counted = plan(backbone_of(model), METHODS[name], GB, 32, 4)
    assert counted.shared_bytes == expected
    memory = counted.base_bytes + expected + 10 * counted.adapter_bytes
    assert plan(backbone_of(model), METHODS[name], memory, 32, 4).adapters == 10
    assert plan(backbone_of(model), METHODS[name], memory - 1, 32, 4).adapters == 9


@pytest.mark.parametrize("double_quant", [True, False])
def test_the_plan_for_4_bits_equals_the_bytes_of_a_quantized_model(double_quant, architecture):
    method = QLoRA(rank=4, double_quant=double_quant)
    model = tiny_model(architecture).half()
    counted = plan(backbone_of(model), method, GB, 4, 4)
    method.apply(model)
    assert counted.adapter_bytes == adapter_bytes(model)
    layers = [layer for layer in model.modules() if isinstance(layer, Linear4bit)]
    storages = {b.data_ptr(): b.nbytes for layer in layers for b in layer.buffers(recurse=False)}
    adapter = trained_state(model)
    rest = [p for name, p in model.named_parameters() if name not in adapter]
    assert counted.base_bytes == sum(storages.values()) + sum(p.nbytes for p in rest)


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("shape", [(7, 9), (300, 333), (128, 128)])
def test_the_bytes_of_a_quantized_layer_equal_those_of_bitsandbytes(shape, double_quant):
    layer = Linear4bit(torch.nn.Linear(*shape), QLoRA(double_quant=double_quant))
    assert quantized_bytes(math.prod(shape), double_quant) == sum(b.nbytes for b in layer.buffers())


def test_a_small_llama_takes_the_planned_bytes():
    shape = compose("backbone=llama-7b").backbone.architecture
    shape |= {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**shape | {"intermediate_size": 48}))
    counted = plan(backbone_of(model), LoRA(rank=4), GB, 32, 4)
    assert counted.base_bytes == base_bytes(model)
    LoRA(rank=4, target_modules="(q_proj|v_proj)$").apply(model)
    assert counted.adapter_bytes == adapter_bytes(model)


def test_a_base_model_larger_than_the_memory_is_refused():
    model = tiny_model()
    size = base_bytes(model)
    assert plan(backbone_of(model), LoRA(rank=4), size, 32, 4).adapters == 0
    with pytest.raises(UserError, match=r"built takes .* GB in 32 bits: .* GB do not hold it"):
        plan(backbone_of(model), LoRA(rank=4), size - 1, 32, 4)


@pytest.fixture(scope="module")
def llama_table() -> Table:
    return table()


def test_the_table_shows_the_plan_beside_the_published_numbers(llama_table):
    rows = {row[0]: row[1:] for row in llama_table.cells.to_numpy().tolist()}
    assert len(rows) == 8
    assert rows["base model"] == ["", "", "", "", "15.5GB", "13.21GB", "", "", "0.439"]
    assert rows["LoRA r = 8, q v"] == ["~4M", "4.2M", "0.1%", "0.06%", "~8MB", "8.4MB", "", "3,193", "0.432"]
    assert rows["QLoRA r = 256, all"] == ["~640M", "639.6M", "9%", "9.68%", "~1.6GB", "1.28GB", "~15", "20", "0.459"]
    fit = (40 * GB - 2 * LLAMA) // (2 * 128 * 32 * 2 * 2 * 4096)
    assert rows["QLoRA r = 128, q v"][-3:] == ["~180", str(fit), ""]


def test_the_table_notes_say_where_the_published_numbers_are_off(llama_table):
    notes = "\n".join(llama_table.notes)
    assert "Published trained off by more than a tenth of ours and its rounding: none." in notes
    assert (
        "Published share off by more than a tenth of ours and its rounding: none." in notes
    )  # 0.1% is 0.06% in one digit
    [memory] = re.findall(r"Published memory off .*?: (.*)\.", notes)
    assert memory.split("; ") == [
        "base model: 15.5GB against 13.21GB",
        "QLoRA r = 8, all: ~50MB against 40.0MB",
        "QLoRA r = 256, all: ~1.6GB against 1.28GB",
    ]
    assert "r = 8, q v: ~2k against 3,193" in notes
    assert "3,062 for ~2k, 188 for ~180" in notes
    assert f"{int((40 * GB - 2 * 6_738_415_616) / (2 * 4_194_304)):,} of the smallest adapters would fit" in notes


@pytest.fixture
def cli(monkeypatch, capsys):
    """Calls the script in this process; gives exit status, and what it printed to the two streams."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["plan.py", *words])
        return main(), *capsys.readouterr()

    return call


def test_the_script_prints_the_plan(cli):
    status, out, _ = cli("backbone=llama-7b", "method=lora", "method.rank=8", "memory=40")
    assert status == 0
    *lines, last = out.splitlines()
    assert dict(re.split(" {2,}", line) for line in lines) == {
        "backbone": "llama-7b, 16 bits",
        "base parameters": "6,607,343,616",
        "base bytes": "13,214,687,232",
        "method": "lora, 16 bits",
        "trained parameters": "4,194,304",
        "share of the base": "0.063%",
        "adapter parameters": "4,194,304",
        "adapter bytes": "8,388,608",
        "bytes shared by all": "0",
        "adapters in 40 GB": "3,193",
    }
    assert "no KV cache" in last


@pytest.mark.parametrize(
    ("words", "base", "adapter"),
    [
        (("method=lora",), "16 bits", "16 bits"),
        (("method=qlora",), "4 bits", "16 bits"),
        (("method=qlora", "base_bits=16"), "16 bits", "16 bits"),
        (("method=lora", "base_bits=32", "adapter_bits=32"), "32 bits", "32 bits"),
    ],
)
def test_the_script_prints_the_bits_of_the_base_model(cli, words, base, adapter):
    status, out, _ = cli("backbone=tiny", "memory=0.5", *words)
    assert status == 0
    assert re.search(rf"^backbone +tiny, {base}$", out, flags=re.M)
    assert re.search(rf"^method +q?lora, {adapter}$", out, flags=re.M)
    parameters, size = re.findall(r"^adapter (?:parameters|bytes) +([\d,]+)$", out, flags=re.M)
    assert int(size.replace(",", "")) == int(parameters.replace(",", "")) * int(adapter.split()[0]) // 8


MISTAKES = {
    "memory=": "memory= is empty: give a value",
    "memory=abc": "memory is 'abc'; give GB",
    "memory=-1": "memory is -1.0; it must be above 0",
    "memory=nan": "memory is nan",
    "memory=0.000001": "tiny takes .* GB in 16 bits: 1e-06 GB do not hold it",
    "base_bits=8": "base_bits is '8'; choose one of: 4, 16, 32",
    "adapter_bits=4": "adapter_bits is '4'; choose one of: 16, 32",
    "method=lorra": "unknown method 'lorra'; .*did you mean lora",
    "method.rank=99": "method.rank is 99; an adapted layer has 32",
    "method.target_modules=qurey": "no linear layer matches 'qurey'",
    "backbone=llama-7b method=pfeiffer memory=40": "adapters need layers laid out as BERT's; LlamaDecoderLayer is not",
    "backbone=llama-7b method=bitfit memory=40": "method=bitfit trains biases; LlamaModel has none",
    "backbone=lama": "unknown backbone 'lama'; .*llama-7b",
    "backbone=custom backbone.source=x": "backbone 'x' has no architecture in its YAML",
    "backbone.architecture.model_type=rob": "backbone.architecture builds no classifier: Unrecognized model identifier: rob",
    "backbone.architecture.hidden_size=31": "backbone.architecture builds no classifier: The hidden size",
    "backbone.architecture.vocab_size=abc": "vocab_size is abc; it must be a whole number from 1 to",
    "memry=3": "unknown option 'memry'",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(cli, mistake):
    status, out, err = cli("backbone=tiny", "memory=1", *mistake.split())
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"error: .*{MISTAKES[mistake]}.*\n", err), err
    assert len(err) < 400
