"""`train.py` as several processes that train together. What breaks a process is in faults/."""

import sys

import pytest
from faults.harness import TINY, call, run_folder
from support.architectures import save_base

from experiments.record import read_record
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


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_like_one(method, tmp_path):
    """Same batches, same sums: but for rounding, as dropout is off."""
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
    ended = call(tmp_path / "two", *words, tiny=tiny, launch=TWO)
    assert ended.status == 0, ended.err
    assert ended.out.count("result: ") == 1
    one, two = (read_record(run_folder(tmp_path / name)) for name in ("one", "two"))
    assert [run["provenance"]["hardware"]["processes"] for run in (one, two)] == [1, 2]
    assert len(one["history"]) == len(two["history"]) == 3
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["pearson"] == pytest.approx(b["pearson"], abs=5e-3)  # LST's first answers are all alike


@pytest.mark.parametrize(
    ("launch", "asked"),
    [
        ("python /bin/accelerate launch --cpu --num_processes 2 train.py task=cola", 2),
        ("/bin/python -m accelerate.commands.launch --cpu --num-processes=3 train.py", 3),
        ("accelerate-launch --cpu train.py", 1),
        ("bash", 1),
    ],
)
def test_fewer_processes_than_asked_for_are_told(launch, asked, monkeypatch, capsys):
    monkeypatch.setattr("psutil.Process.cmdline", lambda process: launch.split())
    assert make_accelerator(TrainerConfig(learning_rate=1e-3), deterministic=False).num_processes == 1
    assert (f"one process trains, not the {asked} of the command line" in capsys.readouterr().err) == (asked > 1)


@pytest.mark.parametrize("architecture", ["big_bird", "luke"])
def test_two_processes_train_an_encoder_with_parameters_that_get_no_gradient(architecture, tmp_path, only_long):
    """BigBird's pooler and LUKE's entity layers: processes that wait for each parameter's gradient would fail."""
    only_long()
    save_base(tmp_path / "backbone", architecture)
    words = ["task=cola", "backbone=custom", f"backbone.source={tmp_path / 'backbone'}"]
    words += ["task.max_length=60", "trainer.max_steps=4"]
    ended = call(tmp_path / "two", *words, launch=TWO)
    assert ended.status == 0, ended.err
    assert "frozen, since no gradient reaches them" in ended.out
    assert read_record(run_folder(tmp_path / "two"))["provenance"]["hardware"]["processes"] == 2
