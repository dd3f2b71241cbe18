"""`train.py` as several processes that train together. What breaks a process is in faults/."""

import socket
import sys
from pathlib import Path

import pytest
from faults.harness import TINY, Ended, call, finish, run_folder, start
from safetensors.torch import load_file
from support.architectures import save_base
from support.tiny import tiny_model
from support.trainers import tiny_trainer
from torch.testing import assert_close

from experiments.record import read_record
from methods.full import Full
from training.accelerator import make_accelerator
from training.settings import TrainerConfig

# accelerate starts several processes of a CPU through its multi-GPU launcher alone; they find no GPU and meet over gloo
FLAGS = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
TWO = (sys.executable, "-m", "accelerate.commands.launch", *FLAGS.split())


# a step trains a part; a probe comes before, and layers share a pair; what trains is beside the encoder
METHODS = {
    "dora": ["method.rank=4"],
    "dylora": ["method.rank=4"],
    "lora_drop": ["method.rank=4", "method.probe_steps=5", "method.threshold=0.3"],
    "ladder_side": ["method.reduction=4"],
}


def call_two(output: Path, *words: str, tiny: tuple[str, ...]) -> Ended:
    """As the launcher starts two processes, but forked; what the first one ends with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [
        start(output, *words, tiny=tiny, environment=shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")
    ]
    first, second = map(finish, both)
    assert (second.status, second.out) == (first.status, ""), second
    return first


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_like_one(method, tmp_path):
    """Same batches and sums, up to rounding: dropout is off."""
    quiet = [f"+backbone.architecture.{name}_probs_dropout_prob=0" for name in ("attention",)]
    words = [
        f"method={method}",
        *METHODS[method],
        "task=stsb",
        "+backbone.architecture.hidden_dropout_prob=0",
        *quiet,
        "data.train_size=97",
    ]
    tiny = tuple(word for word in TINY if word != "method.rank=4")
    ended = call(tmp_path / "one", *words, tiny=tiny)
    assert ended.status == 0, ended.err
    if method == "dora":
        ended = call(tmp_path / "two", *words, tiny=tiny, launch=TWO)
    else:
        ended = call_two(tmp_path / "two", *words, tiny=tiny)
    assert ended.status == 0, ended.err
    assert ended.out.count("result: ") == 1
    one, two = (read_record(run_folder(tmp_path / name)) for name in ("one", "two"))
    assert [run["provenance"]["hardware"]["processes"] for run in (one, two)] == [1, 2]
    assert len(one["history"]) == len(two["history"]) == 3
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
    one, two = (load_file(run_folder(tmp_path / name) / "last.safetensors") for name in ("one", "two"))
    assert_close(one, two, rtol=0, atol=1e-5)  # 36 steps of 1e-3 or more


@pytest.mark.parametrize(
    ("launch", "asked"),
    [
        ("python /bin/accelerate launch --cpu --num_processes 2 train.py task=cola", 2),
        ("/bin/python -m accelerate.commands.launch --cpu --num-processes=3 train.py", 3),
        ("accelerate-launch --cpu train.py", 1),
        ("bash", 1),
    ],
)
def test_fewer_processes_than_asked_for_are_reported(launch, asked, monkeypatch, capsys):
    monkeypatch.setattr("psutil.Process.cmdline", lambda process: launch.split())
    assert make_accelerator(TrainerConfig(learning_rate=1e-3), deterministic=False).num_processes == 1
    assert (f"one process trains, not the {asked} of the command line" in capsys.readouterr().err) == (asked > 1)


@pytest.mark.parametrize("setting", ["layerdrop", "encoder_layerdrop", "decoder_layerdrop"])
def test_processes_wait_for_no_gradient_of_a_layer_that_a_step_drops(setting):
    def waits(share: float) -> bool:
        model = tiny_model()
        setattr(model.config, setting, share)
        handler = tiny_trainer(model, Full(), "padded").accelerator.ddp_handler
        return handler is None or not handler.find_unused_parameters

    assert not waits(0.1)
    assert waits(0.0)


LAYERDROP = {"flaubert": {"layerdrop": 0.5}, "bart": {"encoder_layerdrop": 0.5}}


@pytest.mark.long
@pytest.mark.parametrize("architecture", LAYERDROP)
def test_two_processes_train_an_encoder_that_drops_layers(architecture, tmp_path):
    save_base(tmp_path / "backbone", architecture, **LAYERDROP[architecture])
    words = ["task=cola", "backbone=custom", f"backbone.source={tmp_path / 'backbone'}", "method=full"]
    words += ["task.max_length=60", "trainer.max_steps=12", "trainer.micro_batch_size=3"]
    ended = call_two(tmp_path / "two", *words, tiny=tuple(word for word in TINY if word != "method.rank=4"))
    assert ended.status == 0, ended.err
    assert read_record(run_folder(tmp_path / "two"))["provenance"]["hardware"]["processes"] == 2


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["big_bird", "luke"])
def test_two_processes_train_an_encoder_with_parameters_that_get_no_gradient(architecture, tmp_path):
    """BigBird's pooler and LUKE's entity layers: processes that wait for each parameter's gradient would fail."""
    save_base(tmp_path / "backbone", architecture)
    words = ["task=cola", "backbone=custom", f"backbone.source={tmp_path / 'backbone'}"]
    words += ["task.max_length=60", "trainer.max_steps=4"]
    ended = call(tmp_path / "two", *words, launch=TWO)
    assert ended.status == 0, ended.err
    assert "frozen, since no gradient reaches them" in ended.out
    assert read_record(run_folder(tmp_path / "two"))["provenance"]["hardware"]["processes"] == 2
