"""Whole runs of `train.py`, in this process, with a tiny random RoBERTa on generated data."""

import itertools
import json
import math
import re
import signal

import pytest
import torch
from support.command_line import compose
from support.files import save_encoder
from support.runs import NAMES, outcome, run, settings, stop_at

from core.errors import Diverged, Interrupted, UserError
from experiments.record import read_record
from tasks.glue import GLUE
from training.curves import CsvTracker
from training.trainer import Trainer

WITHOUT_DROPOUT = ("delta_lora",)  # LoRA's setting, which these refuse


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(name, tmp_path, monkeypatch):
    more = ["deterministic=true"]
    if hasattr(compose(f"method={name}").method, "dropout") and name not in WITHOUT_DROPOUT:
        more += ["method.dropout=0.1"]
    whole, _ = run(tmp_path / "whole", name, "cola", *more)
    for step in (4, 13):  # within the first epoch's log window, and within the second epoch
        stop_at(monkeypatch, step)
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", name, "cola", *more)
        monkeypatch.undo()
        torch.manual_seed(99)  # a new process has other generator states
        folder = next((tmp_path / "parts/default").iterdir())
        assert read_record(folder)["status"] == "interrupted"
        assert (folder / "checkpoint.safetensors").exists()
    parts, record = run(tmp_path / "parts", name, "cola", *more)
    assert record["status"] == "complete"
    assert not (parts / "checkpoint.safetensors").exists()
    assert outcome(parts) == outcome(whole)


def test_a_resumed_run_drops_the_record_of_the_earlier_try(tmp_path, monkeypatch):
    """A kill leaves none; the old one would tell of an old step."""
    stop_at(monkeypatch, 4)
    with pytest.raises(Interrupted):
        run(tmp_path)
    monkeypatch.undo()
    [folder] = (tmp_path / "default").iterdir()
    step, seen = Trainer.train_step, []

    def watched(trainer, indices):
        seen.append((folder / "result.json").exists())
        step(trainer, indices)

    monkeypatch.setattr(Trainer, "train_step", watched)
    run(tmp_path)
    assert seen
    assert not any(seen)
    assert read_record(folder)["status"] == "complete"


@pytest.mark.parametrize("task", GLUE)
def test_every_task_leaves_a_complete_record(task, tmp_path):
    folder, record = run(tmp_path, "dora", task, "task.max_length=32")
    assert set(record) == {
        *("schema", "status", "reason", "method", "task", "backbone", "data", "seed", "experiment", "config"),
        *("config_hash", "metric", "best", "selected", "last", "history", "seconds", "parameters", "speed", "memory"),
        *("provenance", "sha256"),
    }
    assert (record["status"], record["method"], record["task"], record["data"]) == (
        "complete",
        "dora",
        task,
        "generated",
    )
    assert record["metric"] == GLUE[task].metrics[0]
    assert [entry["step"] for entry in record["history"]] == [9, 18]
    for entry in (record["best"], record["last"]):
        assert {"step", "epoch", "train_loss", "collapsed", *GLUE[task].metrics} == set(entry)
    assert record["best"][record["metric"]] == max(entry[record["metric"]] for entry in record["history"])
    assert [use["step"] for use in record["memory"]["over_training"]] == [9, 18]
    assert all(use["bytes"] > 0 for use in record["memory"]["over_training"])
    assert record["seconds"] > 0
    assert set(record["parameters"]) == {"total", "trained", "trained_without_head"}
    assert record["speed"]["steps"] == 15
    assert record["speed"]["padded_tokens_per_second"] >= record["speed"]["tokens_per_second"] > 0
    assert record["memory"]["optimizer"] >= 2 * record["memory"]["gradients"] > 0
    assert record["memory"]["peak_bytes"] > record["memory"]["activations"] > 0
    predictions = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 40 * len(GLUE[task].validation)
    if not GLUE[task].is_regression:
        right = sum(row["prediction"] == row["label"] for row in predictions) / len(predictions)
        assert right == pytest.approx(record["best"].get("accuracy", right))
    assert (folder / "config.yaml").exists()


# a method sees of a task its number of outputs alone: three, one, or two, as for most tasks, which take turns
TWO = [task for task in GLUE if task not in ("mnli", "stsb")]
PAIRS = [(name, task) for place, name in enumerate(NAMES) for task in ("mnli", "stsb", TWO[place % len(TWO)])]


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_every_method_runs_on_tasks_of_each_kind(name, task, tmp_path):
    _, record = run(tmp_path, name, task, "trainer.max_steps=2", "data.train_size=16", "data.eval_size=8")
    assert record["status"] == "complete"
    assert set(GLUE[task].metrics) < set(record["best"])


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    first, again, other = (
        run(tmp_path / x, "dora", "mrpc", f"seed={seed}")[0] for x, seed in zip("abc", (1, 1, 2), strict=True)
    )
    assert outcome(first) == outcome(again)
    assert outcome(first) != outcome(other)


def test_methods_with_one_seed_share_their_batches_and_initial_head(tmp_path, monkeypatch):
    seen, heads = {}, {}
    step = Trainer.train_step

    def spy(trainer, indices):
        seen.setdefault(trainer.method.name, []).append(indices)
        heads.setdefault(trainer.method.name, trainer.model.classifier.out_proj.weight.detach().clone())
        step(trainer, indices)

    monkeypatch.setattr(Trainer, "train_step", spy)
    for name in ("full", "dora", "vera"):
        run(tmp_path, name)
    assert seen["full"] == seen["dora"] == seen["vera"]
    assert torch.equal(heads["full"], heads["dora"])
    assert torch.equal(heads["full"], heads["vera"])


def test_a_finished_run_is_not_trained_again(tmp_path, capsys, monkeypatch):
    folder, record = run(tmp_path)
    monkeypatch.setattr(Trainer, "fit", lambda trainer: pytest.fail("trained again"))
    run(tmp_path)
    assert "finished before" in capsys.readouterr().out
    monkeypatch.undo()
    stamp = (folder / "result.json").stat().st_mtime_ns
    _, forced = run(tmp_path, "lora", "cola", "force=true")
    assert (folder / "result.json").stat().st_mtime_ns > stamp
    assert forced["history"] == record["history"]


def test_a_finished_run_says_that_it_keeps_its_tags_and_note(tmp_path, capsys):
    again = "force=true to train it again"
    run(tmp_path, "lora", "cola", "tags=[a]", "note=one")
    for words, said in (
        (["tags=[a]", "note=one"], again),
        ([], again),  # nothing of the command is lost
        (["tags=[b]", "note=two"], "its tags and note stay: force=true trains it again"),
        (["tags=[b]", "note=one"], "its tags stay: force=true trains it again"),
        (["tags=[a]", "note=two"], "its note stays: force=true trains it again"),
    ):
        capsys.readouterr()
        _, record = run(tmp_path, "lora", "cola", *words)
        assert f"({said})\n" in capsys.readouterr().out
        assert (record["config"]["tags"], record["config"]["note"]) == (["a"], "one")


def test_a_diverging_loss_fails_the_run_with_a_reason(tmp_path):
    arguments = (
        tmp_path,
        "full",
        "stsb",
        "trainer.learning_rate=1e3",
        "trainer.optimizer=sgd",
        "trainer.max_grad_norm=null",
    )
    with pytest.raises(Diverged, match="lower"):
        run(*arguments)
    record = read_record(compose(*settings(*arguments)).folder)
    assert record["status"] == "failed"
    assert "loss" in record["reason"] or "logits" in record["reason"]
    with pytest.raises(Diverged, match="failed before"):
        run(*arguments)


def test_a_nan_fails_the_run(tmp_path, monkeypatch):
    loss = Trainer.loss
    monkeypatch.setattr(Trainer, "loss", lambda *a: loss(*a) * (float("nan") if a[0].progress.step == 4 else 1))
    with pytest.raises(Diverged, match="the loss is nan"):
        run(tmp_path)


def test_an_unexpected_error_leaves_a_record_and_the_checkpoint(tmp_path, monkeypatch):
    step = Trainer.train_step

    def broken(trainer, indices):
        if trainer.progress.step == 12:
            raise MemoryError("no more")
        step(trainer, indices)

    monkeypatch.setattr(Trainer, "train_step", broken)
    with pytest.raises(MemoryError):
        run(tmp_path / "a")
    monkeypatch.undo()
    folder = next((tmp_path / "a/default").iterdir())
    assert read_record(folder)["status"] == "interrupted"
    assert "MemoryError: no more" in read_record(folder)["reason"]
    run(tmp_path / "a")
    assert outcome(folder) == outcome(run(tmp_path / "b")[0])


@pytest.mark.parametrize("task", ["cola", "mnli"])
def test_an_epoch_is_also_chosen_on_the_held_out_split(task, tmp_path):
    _, record = run(tmp_path, "full", task, "data.holdout=0.3", "trainer.epochs=4", "trainer.learning_rate=3e-3")
    name = record["metric"]
    held_out = [entry["held_out"][name] for entry in record["history"]]
    assert record["selected"] == record["history"][held_out.index(max(held_out))]
    scores = [entry[name] for entry in record["history"]]
    assert record["best"] == record["history"][scores.index(max(scores))]
    assert run(tmp_path, "full", task)[1]["selected"] is None


def test_gradient_accumulation_changes_only_rounding(tmp_path):
    quiet = ("+backbone.architecture.hidden_dropout_prob=0", "+backbone.architecture.attention_probs_dropout_prob=0")
    _, whole = run(tmp_path, "lora", "stsb", *quiet)
    _, pieces = run(tmp_path, "lora", "stsb", "trainer.micro_batch_size=3", *quiet)
    for one, other in zip(whole["history"], pieces["history"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
    assert pieces["memory"]["activations"] < whole["memory"]["activations"]


@pytest.mark.parametrize(
    "more",
    [
        ("trainer.optimizer=sgd", "trainer.schedule=cosine"),
        ("trainer.schedule=constant", "trainer.max_grad_norm=null", "trainer.similar_length=false"),
        ("trainer.eval_every=5", "trainer.max_steps=12"),
        ("trainer.precision=bf16",),
    ],
)
def test_every_setting_of_the_trainer_runs(more, tmp_path):
    _, record = run(tmp_path, "lora", "cola", *more)
    assert record["status"] == "complete"
    if "trainer.max_steps=12" in more:
        assert [entry["step"] for entry in record["history"]] == [5, 10, 12]


def test_a_signal_is_passed_to_its_earlier_handler_after_the_checkpoint(tmp_path, monkeypatch):
    """As with submitit, whose handler of SIGUSR2 puts a Slurm job back into the queue."""
    step, kept = Trainer.train_step, []

    def warned(trainer, indices):
        step(trainer, indices)
        if trainer.progress.step == 4:
            signal.raise_signal(signal.SIGUSR2)

    def queue_again(number, frame):
        folder = next((tmp_path / "default").iterdir())
        kept.append((read_record(folder)["status"], (folder / "checkpoint.safetensors").exists()))
        raise SystemExit(-1)

    monkeypatch.setattr(Trainer, "train_step", warned)
    before = signal.signal(signal.SIGUSR2, queue_again)
    try:
        with pytest.raises(SystemExit):
            run(tmp_path)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert kept == [("interrupted", True)]


def test_nonfinite_weights_are_never_written_to_a_checkpoint(tmp_path, monkeypatch):
    """The loss of the step is finite, and a signal comes before the next."""
    step = Trainer.train_step

    def broken(trainer, indices):
        step(trainer, indices)
        if trainer.progress.step == 4:
            trainer.trained[0].data.fill_(float("nan"))
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_step", broken)
    with pytest.raises(Diverged, match="not finite at step 4"):
        run(tmp_path)
    assert not list(tmp_path.rglob("checkpoint.safetensors"))


def test_a_checkpoint_of_other_data_is_refused_and_the_record_kept(tmp_path, monkeypatch):
    stop_at(monkeypatch, 13)
    with pytest.raises(Interrupted):
        run(tmp_path)
    monkeypatch.undo()
    file = next(tmp_path.rglob("result.json"))
    before = file.read_text()
    assert len(json.loads(before)["history"]) == 1
    monkeypatch.setattr("tasks.loading.fingerprint", lambda splits: "other")
    with pytest.raises(UserError, match="was written by a run whose data differs: resume"):
        run(tmp_path)
    assert file.read_text() == before


@pytest.mark.parametrize("status", ["complete", "interrupted"])
def test_a_started_run_refuses_other_backbone_weights(status, tmp_path, monkeypatch):

    words = (
        tmp_path / "runs",
        "lora",
        "cola",
        "backbone=custom",
        f"backbone.source={tmp_path / 'weights'}",
        "task.max_length=32",
    )
    save_encoder(tmp_path / "weights", seed=1)
    if status == "interrupted":
        stop_at(monkeypatch, 13)
        with pytest.raises(Interrupted):
            run(*words)
        monkeypatch.undo()
    else:
        run(*words)
    save_encoder(tmp_path / "weights", seed=2)
    with pytest.raises(UserError, match="whose backbone differs"):
        run(*words)


def test_release_memory_frees_what_an_earlier_run_held(tmp_path):
    from training.meters import MemoryMeter, release_memory

    release_memory()
    meter = MemoryMeter(torch.device("cpu"))
    before = meter.current_bytes()
    earlier = [torch.ones(1000) for _ in range(50_000)]  # many small pieces, which an allocator likes to keep
    assert meter.current_bytes() - before > 150 * 2**20
    del earlier
    release_memory()
    assert meter.current_bytes() - before < 50 * 2**20


def test_half_an_epoch_is_half_the_steps_and_whole_epochs_keep_their_names(tmp_path):
    _, record = run(tmp_path, "lora", "cola", "trainer.epochs=1.5", "data.train_size=80")
    assert [entry["epoch"] for entry in record["history"]] == [1, 1.5]
    words = ("method=lora", "task=cola", "profile=offline")
    assert compose(*words, "trainer.epochs=3").hash == compose(*words, "trainer.epochs=3.0").hash


def best_first(monkeypatch) -> None:
    """Evaluations whose scores fall."""
    scores = itertools.count(0, -1)
    monkeypatch.setattr("tasks.metrics.score", lambda task, outputs: dict.fromkeys(task.metrics, next(scores) / 100))


def test_patience_ends_a_run_whose_evaluations_get_no_better(tmp_path, monkeypatch, capsys):
    best_first(monkeypatch)
    folder, record = run(tmp_path, "lora", "cola", "trainer.epochs=20", "trainer.patience=3")
    assert record["status"] == "complete"
    assert [entry["epoch"] for entry in record["history"]] == [1, 2, 3, 4]
    assert record["best"]["epoch"] == 1
    assert (folder / "last.safetensors").exists()
    assert "no better evaluation for 3 in a row: the run ends before its last step" in capsys.readouterr().out


def test_patience_keeps_the_schedule_and_its_default_the_runs_name(tmp_path):
    words = ("method=lora", "task=cola", "profile=offline")

    assert compose(*words).hash != compose(*words, "trainer.patience=2").hash
    assert compose(*words).hash == compose(*words, "tags=[a]", "note=b").hash


def test_csv_curves_continue_in_a_resumed_run_and_repeat_no_step(tmp_path, monkeypatch):
    words = ("logger=csv", "trainer.log_every=2", "deterministic=true")
    whole, _ = run(tmp_path / "whole", "lora", "cola", *words)
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", "lora", "cola", *words)
    [there] = (tmp_path / "parts").glob("default/*/curves.csv")
    with there.open("a") as file:
        file.write("6,train/loss,9\n6,tr")  # written by a killed process, after the checkpoint
    parts, _ = run(tmp_path / "parts", "lora", "cola", *words)

    def curve(folder, name):
        return [line for line in (folder / "curves.csv").read_text().splitlines() if f",{name}," in line]

    assert len(curve(whole, "train/loss")) > 3
    for name in ("train/loss", "train/head_learning_rate", "eval/matthews_correlation"):
        assert curve(parts, name) == curve(whole, name)
    assert all(re.fullmatch(r"\d+,memory/bytes,\d+", line) for line in curve(whole, "memory/bytes"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (536944640, "536944640"),
        (536944640.0, "536944640"),
        (2.0, "2"),
        (0.00012345678, "0.000123457"),
        (math.nan, "nan"),
    ],
)
def test_csv_curves_have_whole_numbers_in_full(value, text, tmp_path):
    CsvTracker(tmp_path).log({"x": value, "y": None}, 3)
    assert (tmp_path / "curves.csv").read_text() == f"step,name,value\n3,x,{text}\n"


def test_a_run_prints_its_settings_at_its_start_and_its_result_at_its_end(tmp_path, capsys):
    folder, record = run(tmp_path, "lora", "cola", "trainer.head_learning_rate=2e-3", "tags=[a,b]", "note=why")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lora on cola: 1,024 parameters train, without the head; cpu, fp32; learning rate ")
    assert "(the head's 0.002); " in lines[0]
    best = record["best"]
    assert lines[-2].startswith(
        f"best matthews_correlation {best['matthews_correlation']:.4f} at epoch {best['epoch']:g}"
    )
    assert lines[-1] == f"result: {folder / 'result.json'}"
    assert (record["config"]["tags"], record["config"]["note"]) == (["a", "b"], "why")


def test_a_log_file_gets_a_line_a_minute(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.lines.EVERY", -1.0)
    run(tmp_path, "lora", "cola", "trainer.log_every=2")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) > 3
    assert re.fullmatch(r"step 2 of \d+: loss 0\.\d{3}(, .+)?, about \d+ s left", lines[0])
