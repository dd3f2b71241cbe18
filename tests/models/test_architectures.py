"""Every method on encoders of many architectures: right, or refused in a sentence; docs/encoders.md is the table."""

import copy
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from support.architectures import ARCHITECTURES, TEXTS, save_base
from support.command_line import ROOT, compose
from support.long import short
from support.tiny import METHODS, shake
from transformers import AutoModelForSequenceClassification

from core.errors import UserError
from experiments.export import require_plain
from experiments.inputs import apply_method
from methods.base import QUERY_AND_VALUE, AdaptedLinear, Method, adapt, load_trained_state, merge, trained_state
from methods.lora import LoRA
from models.backbone import Backbone, load_backbone, samples
from models.batches import Batch, collate
from serving.adapters import from_state
from serving.mixed import Server
from tasks.glue import GLUE
from training.optimizers import build_optimizer
from training.settings import TrainerConfig

TASK = GLUE["mrpc"]
ADAPTERS = ("houlsby", "lin", "pfeiffer", "adapterdrop")
BESIDE = ("prefix_embed", "prefix_layer", "ladder_side")  # what they add stays beside the weights
LOW_RANK = {"lora": "lora_gaussian_all", "dora": "dora_all", "vera": "vera_all", "qlora": "qlora"}
COLUMNS = {name: METHODS[name] for name in ("head", "full", "bitfit", "top_layers", *ADAPTERS, *BESIDE)}
COLUMNS |= {name: METHODS[kind] for name, kind in LOW_RANK.items()}
COLUMNS["lora_fa"] = replace(METHODS["lora_fa"], target_modules=".")
TABLE = ROOT / "docs" / "encoders.md"


def load(folder: Path, architecture: str) -> Backbone:
    save_base(folder, architecture)
    config = compose("backbone=custom", f"backbone.source={folder}", f"backbone.name={architecture}").backbone
    return load_backbone(config, TASK, 0, TEXTS)


@pytest.fixture
def backbone(tmp_path, request) -> Backbone:
    return load(tmp_path, request.param)


def applied(backbone: Backbone, method, accelerator=None) -> Backbone:
    own = replace(backbone, model=copy.deepcopy(backbone.model))
    run = compose("profile=offline", "task=mrpc")
    apply_method(replace(run, method=method), own, accelerator)
    return own


def batch_of(backbone: Backbone) -> Batch:
    return collate(samples(backbone.tokenizer, TASK, 64), [0, 1])


@torch.no_grad()
def logits(model, batch: Batch) -> torch.Tensor:
    return model.eval()(**batch.inputs).logits


def step(model, method, batch: Batch) -> None:
    """One step of AdamW, as the trainer takes it."""
    optimizer = build_optimizer(model, method, TrainerConfig(learning_rate=1e-3, head_learning_rate=1e-3))
    model.train()(**batch.inputs).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    method.after_step(model, 1)
    model.eval()


def check(backbone: Backbone, method, folder) -> None:
    """One method through its life; raises a UserError for what is refused, an AssertionError for what is wrong."""
    own, batch = applied(backbone, method), batch_of(backbone)
    step(own.model, method, batch)
    shake(own.model)
    expected = logits(own.model, batch)
    assert expected.isfinite().all()
    again = applied(backbone, method)
    load_trained_state(again.model, {name: tensor.clone() for name, tensor in trained_state(own.model).items()})
    assert torch.equal(logits(again.model, batch), expected)
    merged = merge(copy.deepcopy(own.model))
    close = {"rtol": 1e-3, "atol": 1e-3 * float(expected.abs().max())}
    torch.testing.assert_close(logits(merged, batch), expected, **close)
    if method.name in (*ADAPTERS, *BESIDE):
        with pytest.raises(UserError, match="does not merge into a plain model"):
            require_plain(merged, method.name)
        return
    require_plain(merged, method.name)
    merged.save_pretrained(folder)
    exported = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(exported, batch), expected, **close)


class Mixing(AdaptedLinear):
    """Adds the mean over a batch's places, padding among them."""

    def forward(self, x):
        return F.linear(x, self.base.weight, self.base.bias) + x.mean(1, keepdim=True).sum()


@dataclass
class Mixes(Method):
    learning_rate: ClassVar[float] = 1e-3

    name: str = "mixes"

    def apply(self, model) -> None:
        adapt(model, QUERY_AND_VALUE, Mixing)


@dataclass
class Freezes(Method):
    learning_rate: ClassVar[float] = 1e-3

    name: str = "freezes"

    def apply(self, model) -> None:
        model.requires_grad_(False)


@pytest.mark.parametrize("backbone", ["roberta"], indirect=True)
def test_a_method_that_trains_nothing_is_refused(backbone):
    with pytest.raises(UserError, match="method=freezes trains nothing on RobertaForSequenceClassification"):
        applied(backbone, Freezes())


@pytest.mark.parametrize("backbone", ["roberta"], indirect=True)
def test_a_method_that_reads_padding_is_refused(backbone):
    with pytest.raises(UserError, match="method=mixes: a text's logits depend on the padding beside it"):
        applied(backbone, Mixes())


def check_bf16(backbone: Backbone) -> None:
    autocast = SimpleNamespace(mixed_precision="bf16", autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    applied(backbone, COLUMNS["full"], autocast)


def check_serving(backbone: Backbone) -> None:
    """Two adapters on one backbone answer a mixed batch as each does alone."""
    method, adapters, expected = LoRA(rank=2, target_modules="."), {}, {}
    data = samples(backbone.tokenizer, TASK, 64)
    for seed, name in enumerate(("one", "two")):
        model = applied(backbone, method).model
        shake(model, seed)
        adapters[name] = from_state({key: t.clone() for key, t in trained_state(model).items()}, method.scale)
        expected[name] = logits(model, collate(data, [0, 1]))
    server = Server(copy.deepcopy(backbone.model), 10**9, data)
    for name, adapter in adapters.items():
        server.store.add(name, adapter)
    answers = server.logits(data, [0, 0, 1, 1], ["one", "two", "one", "two"])
    for place, answer in enumerate(answers):
        name = ("one", "two")[place % 2]
        torch.testing.assert_close(answer, expected[name][place // 2], rtol=1e-3, atol=1e-3)


def outcome(work) -> str:
    """Empty if it is right; else the refusal."""
    try:
        work()
    except UserError as error:
        return str(error)
    return ""


def outcomes(backbone: Backbone, folder) -> dict[str, str]:
    table = {name: outcome(lambda m=method: check(backbone, m, folder)) for name, method in COLUMNS.items()}
    table["bf16"] = outcome(lambda: check_bf16(backbone))
    return table | {"served": outcome(lambda: check_serving(backbone))}


REASONS = {  # a letter in the table: what the message says, and what the note says
    "a": ("laid out as BERT's", "adapters need layers laid out as BERT's"),
    "b": ("has no list of", "the layers share their weights, or a list holds only a part of each layer"),
    "c": ("has no nn.Linear", "its linear layers are of another class than `nn.Linear`"),
    "d": ("trains biases", "it has no biases"),
    "e": ("in bf16", "its code does not run under autocast: `trainer.precision=fp32`"),
    "f": ("a row for each example", "some layers take more than a row for each example; the run is served merged"),
    "h": (
        "the positions and the attention of",
        "prefixes know the positions and the attention of BERT and RoBERTa alone",
    ),
    "i": ("the layers of BERT and RoBERTa", "the side network is built of BERT's and RoBERTa's layers alone"),
}
ALWAYS = {"albert", "bart", "bert", "big_bird", "deberta", "distilbert", "gpt2", "longformer", "t5", "xlm"}  # each kind
PAGE = """# Encoders

What each method does on a small random encoder of each architecture: apply, one step, save and load, merge, export and
load again with transformers; `bf16`: a step of full fine-tuning under autocast; `served`: two LoRA adapters in one batch.
LoRA and its variants adapt every linear layer here (`method.target_modules=.`). Their default, query and value, is a
pattern over names: where an encoder has other names, the message lists them.

{table}

+: right, as the tests check it. A letter: refused in a sentence, because
{notes}

XLNet is refused altogether: it reads a text's last place, which is padding here. FNet takes no attention mask: a text's
logits depend on the padding beside it, and a warning says so.

`python tests/models/test_architectures.py` writes this page.
"""


def row(name: str, found: dict[str, str]) -> str:
    """The architecture's line of the table."""
    letters = [next(k for k, (said, _) in REASONS.items() if said in text) if text else "+" for text in found.values()]
    return f"| {name} | " + " | ".join(letters) + " |"


@pytest.mark.parametrize("backbone", short(ALWAYS, of=sorted(ARCHITECTURES.keys() - {"xlnet"})), indirect=True)
def test_each_method_is_right_or_refused_as_the_table_says(backbone, tmp_path):
    assert row(backbone.name, outcomes(backbone, tmp_path / "exported")) in TABLE.read_text(encoding="utf-8")


def test_an_encoder_that_reads_the_padding_is_refused(tmp_path):
    with pytest.raises(UserError, match="depend on the padding beside it"):
        load(tmp_path, "xlnet")


def write() -> None:
    lines = []
    for name in sorted(ARCHITECTURES.keys() - {"xlnet"}):
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(name, outcomes(load(Path(folder), name), Path(folder) / "exported")))
    columns = [*COLUMNS, "bf16", "served"]
    table = [f"| encoder | {' | '.join(columns)} |", "| --- |" + " :-: |" * len(columns), *lines]
    notes = "\n".join(f"- {letter}: {note}." for letter, (_, note) in REASONS.items())
    TABLE.write_text(PAGE.format(table="\n".join(table), notes=notes), encoding="utf-8")


if __name__ == "__main__":
    write()
