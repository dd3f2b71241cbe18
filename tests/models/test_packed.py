"""The packed path against the plain one: the same logits, gradients and training for every method."""

import math

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import TorchDynamoPlugin
from support.command_line import compose
from support.long import short
from support.tiny import LENGTHS, METHODS, TESTED, encoded, shake, tiny_model
from torch import nn

import train
from core.errors import UserError
from experiments.record import read_record
from methods.base import Method
from models.batches import Encoded
from models.cpu_dropout import Dropout
from models.packed import Packed, Padded, forward_path, pack
from training.accelerator import make_accelerator
from training.meters import activation_bytes
from training.trainer import Trainer


def both(model: nn.Module) -> tuple[Packed, Padded]:
    packed, padded = forward_path(model, "packed"), forward_path(model, "padded")
    assert (type(packed), type(padded)) == (Packed, Padded)
    return packed, padded


def paths(model: nn.Module, method: Method) -> tuple[Packed | Padded, Padded]:
    """That of a packed run and the plain one; a method that changes the model's own forward pass takes the plain one."""
    if not method.takes_plain_path:
        return both(model)
    packed, padded = forward_path(model, "packed"), forward_path(model, "padded")
    assert (type(packed), type(padded)) == (Padded, Padded)
    return packed, padded


def losses(path, data: Encoded, indices: list[int]) -> torch.Tensor:
    """Of each example."""
    batch = path.collate(data, indices)
    return F.cross_entropy(path(batch), batch.labels, reduction="none")


def test_losses_and_gradients_equal_those_of_the_plain_path(method, architecture):
    model = tiny_model(architecture)
    method.apply(model)
    shake(model)
    data, gradients = encoded(architecture), []
    each = []
    for path in paths(model, method):
        each.append(losses(path, data, list(range(len(LENGTHS)))))
        each[-1].sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
        model.zero_grad()
    torch.testing.assert_close(each[0], each[1], rtol=1e-5, atol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "indices", [[5], [5, 6, 7], [4, 9], [0, 1, 2], [9, 4, 0, 7, 2]], ids=["one", "equal", "two", "three", "unsorted"]
)
def test_packed_losses_equal_padded_ones_for_any_batch(indices, architecture):
    model, data = tiny_model(architecture), encoded(architecture)
    packed, padded = (losses(path, data, indices) for path in both(model))
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("cost", "grids"), [(0, 4), (29, 3), (50, 2), (math.inf, 1)])
def test_any_number_of_attention_grids_gives_the_same_losses(cost, grids, architecture):
    """Lengths 3 5 5 7 9 12 20 20 20 31: one grid has 310 places, two 200, three (of four examples) 170, four 142."""
    model, data = tiny_model(architecture), encoded(architecture)
    packed, padded = both(model)
    indices = list(range(len(LENGTHS)))
    batch = pack(data, indices, cost, padding_id=1 if architecture == "roberta" else None)
    assert len(batch.spans) == grids
    torch.testing.assert_close(packed(batch), padded(padded.collate(data, indices)), rtol=1e-5, atol=1e-5)


def test_an_example_does_not_see_its_neighbours(architecture):
    model, data = tiny_model(architecture), encoded(architecture)
    packed, _ = both(model)
    together = losses(packed, data, list(range(len(LENGTHS))))
    alone = torch.cat([losses(packed, data, [i]) for i in range(len(LENGTHS))])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_dropout_is_drawn_only_in_training(architecture):
    model, data = tiny_model(architecture, dropout=0.3), encoded(architecture)
    packed, padded = both(model)
    one, other, reference = (losses(path, data, [0, 1, 2]) for path in (packed, packed, padded))
    assert torch.equal(one, other)
    torch.testing.assert_close(one, reference, rtol=1e-5, atol=1e-5)
    model.train()
    assert not torch.equal(losses(packed, data, [0, 1, 2]), losses(packed, data, [0, 1, 2]))


def test_attention_drops_as_the_plain_path_does(architecture):
    """As often and as strongly: the losses scatter alike over many draws. Attention's own dropout alone."""
    model, data, spread = tiny_model(architecture), encoded(architecture), []
    for layer in model.base_model.encoder.layer:
        layer.attention.self.dropout.p = 0.4
    for path in both(model.train()):
        torch.manual_seed(0)
        with torch.no_grad():
            spread.append(torch.stack([losses(path, data, [2, 3, 8]) for _ in range(400)]).std(0))
    assert (spread[0] > 0).all()
    torch.testing.assert_close(spread[0], spread[1], rtol=0.25, atol=0)


def test_the_last_layer_keeps_only_the_first_tokens():
    """Batches without padding: of what full fine-tuning keeps, the feed-forward part of all other tokens is spared."""
    model, data = tiny_model("bert").train(), encoded("bert")
    packed, padded = (
        activation_bytes(model, lambda path=path: losses(path, data, [5, 6, 7]).sum()) for path in both(model)
    )
    spared = 3 * 19 * (2 * 48 + 2 * 32) * 4  # GELU's input and output, the two norms' inputs; attention's own besides
    assert packed < padded - spared


def test_the_packed_path_keeps_no_padding_for_backward(architecture):
    model, data = tiny_model(architecture).train(), encoded(architecture)
    METHODS["lora"].apply(model)
    packed, padded = (
        activation_bytes(model, lambda path=path: losses(path, data, list(range(10))).sum()) for path in both(model)
    )
    assert packed < 0.45 * padded


def test_packed_and_padded_agree_under_autocast(method, architecture):
    model, data = tiny_model(architecture), encoded(architecture)
    method.apply(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        packed, padded = (losses(path, data, [0, 3, 9]) for path in paths(model, method))
    torch.testing.assert_close(packed, padded, rtol=0.1, atol=0.1)


def stood_in(model: nn.Module) -> list[nn.Module]:
    """Every module whose own forward pass the fast path leaves out."""
    layer = model.base_model.encoder.layer[1]
    return [model, model.base_model, model.base_model.encoder, layer, layer.attention, layer.attention.self]


CHANGES = {
    "hook": lambda module: module.register_forward_hook(lambda *_: None),
    "pre-hook": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda module: module.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
    "patch": lambda module: setattr(module, "forward", module.forward),
    "subclass": lambda module: setattr(module, "__class__", type("Own", (type(module),), {})),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", range(6))
def test_a_model_that_a_method_rebuilt_takes_the_plain_path(change, place, architecture):
    model = tiny_model(architecture)
    assert isinstance(forward_path(model, "packed"), Packed)
    CHANGES[change](stood_in(model)[place])
    assert isinstance(forward_path(model, "packed"), Padded)


def test_models_with_changed_layers_take_the_plain_path(architecture):
    changed = [tiny_model(architecture) for _ in range(4)]
    encoders = [model.base_model.encoder for model in changed]
    encoders[0].layer[0] = nn.Sequential(encoders[0].layer[0])
    encoders[1].layer[0].attention.self.dropout = nn.AlphaDropout(0.1)
    encoders[2].layer[0].gradient_checkpointing = True
    encoders[3].layer = nn.ModuleList()
    assert all(isinstance(forward_path(model, "packed"), Padded) for model in changed)


def test_other_encoders_take_the_plain_path():
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        "distilbert", vocab_size=99, dim=16, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=32
    )
    assert isinstance(forward_path(AutoModelForSequenceClassification.from_config(config), "packed"), Padded)


def dropouts(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules() if isinstance(module, nn.Dropout)}


LOW_RANK = ["lora", "dora", "lora_fa", "lora_fa_corrected", "vera", "qlora"]


@pytest.mark.parametrize("name", ["full", *LOW_RANK, "bitfit", "houlsby", "lin", "pfeiffer"])
def test_the_training_curves_of_both_paths_coincide(name, tmp_path, monkeypatch):
    """Through train.py: same seed, same batches, no dropout; 24 steps and four evaluations."""
    words = ["profile=offline", "backbone=tiny", "logger=none", "task=mrpc", f"method={name}", "trainer.epochs=2"]
    words += ["data.train_size=96", "data.eval_size=40", "trainer.batch_size=8", "trainer.micro_batch_size=4"]
    words += ["+backbone.architecture.hidden_dropout_prob=0", "+backbone.architecture.attention_probs_dropout_prob=0"]
    words += ["trainer.eval_every=6", "trainer.similar_length=false", "data.holdout=0.2"]
    histories, paths = [], []
    fit = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda t, *a: (fit(t, *a), paths.append((type(t.path), dropouts(t.model)))))
    for forward in ("packed", "padded"):
        run = compose(*words, f"trainer.forward={forward}", f"output_dir={tmp_path / forward}")
        train.train(run)
        histories.append(read_record(run.folder)["history"])
    assert paths == [(Packed, {Dropout}), (Padded, {Dropout})]
    assert len(histories[0]) == 4
    for fast, plain in zip(*histories, strict=True):
        assert fast["train_loss"] == pytest.approx(plain["train_loss"], rel=2e-4)
        assert fast["accuracy"] == plain["accuracy"]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of bitsandbytes, by dynamo
@pytest.mark.parametrize("name", short(["dora"], of=sorted(TESTED)))
def test_a_compiled_path_trains_as_the_plain_one_does(name, tmp_path):
    """What accelerate compiles, on a CPU: one graph for all lengths, and the same weights after four steps."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    words, weights = ["task=mnli", "trainer.optimizer=sgd", "trainer.learning_rate=0.01"], []
    for forward, backend in (("padded", "no"), ("compiled", "aot_eager")):
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=True, dynamo_plugin=TorchDynamoPlugin(backend=backend, dynamic=True))
        model, data = tiny_model("bert"), encoded("bert")
        METHODS[name].apply(model)
        shake(model)
        run = compose(*words, "backbone=tiny", f"trainer.forward={forward}", "trainer.batch_size=3")
        trainer = Trainer(model, METHODS[name], run.trainer, run.task.row, {"train": data}, run.seed, accelerator)
        if forward == "compiled":
            before = torch.get_rng_state()
            trainer.record_graphs()
            assert torch.equal(torch.get_rng_state(), before)
            assert all(p.grad is None for p in model.parameters())
        for indices in [[0, 1, 2], [5, 6, 7], [3, 4, 8], [0, 8, 9]]:
            trainer.train_step(indices)
        weights.append({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})
    counters = torch._dynamo.utils.counters
    graphs = 2  # for all lengths, and for a batch of one example; DyLoRA has its own for each rank that it draws
    assert counters["stats"]["unique_graphs"] == graphs or name == "dylora"
    assert not counters["graph_break"]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_a_compiled_path_pads_to_few_lengths():
    model, data = tiny_model(), encoded("roberta")
    path = forward_path(model, "compiled")
    padded_to = [path.collate(data, [i]).padded_tokens for i in (0, 2, 5, 9)]
    assert padded_to == [8, 16, 24, 31]  # never above the longest
    each = [losses(own, data, [0, 3, 9]) for own in (path, forward_path(model, "padded"))]
    torch.testing.assert_close(*each, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("words", "named"), [([], "for a GPU"), (["trainer.micro_batch_size=4"], "micro_batch_size")])
def test_the_compiled_path_says_what_it_needs(words, named):
    with pytest.raises(UserError, match=named):
        make_accelerator(compose("task=cola", "backbone=tiny", "trainer.forward=compiled", *words).trainer, False)
