"""The benchmark: both sides train the same examples, turns are counted exactly, ratios are correct."""

import json

import pytest
from support.command_line import compose, run_script

from analysis.speed import GROUPED, LONGEST, MAXIMUM, OURS, RANDOM, THEIRS, ratio, ratios, table
from benchmarks.sides import SIDES, serve
from benchmarks.speed import require_equal
from core.errors import UserError
from experiments.inputs import load_inputs
from scripts.benchmark import verdicts

peft = pytest.importorskip("peft")
TINY = (
    "backbone=tiny",
    "data=generated",
    "task=rte",
    "data.train_size=48",
    "data.eval_size=20",
    "trainer.batch_size=8",
)


class Script:
    """A pipe whose incoming messages are given beforehand."""

    def __init__(self, *messages):
        self.messages, self.answers = list(messages), []

    def recv(self):
        return self.messages.pop(0)

    def send(self, answer):
        self.answers.append(answer)


def answers(side: str, *words: str) -> list[dict]:
    """What a side says: of itself, of two turns, and at the end."""
    pipe = Script(2, 4, None)
    run = compose("experiment=benchmark", *TINY, "trainer.epochs=1", *words)
    serve(run, side, pipe)
    assert not any("error" in answer for answer in pipe.answers), pipe.answers
    assert not pipe.messages
    return pipe.answers


@pytest.mark.parametrize("method", ["full", "lora", "dora", "lora_fa", "vera", "qlora"])
def test_both_sides_train_the_same_batches(method):
    rank = [] if method == "full" else ["method.rank=4"]
    ours, theirs = (answers(side, f"method={method}", *rank) for side in (RANDOM, LONGEST))
    for one, other, steps in zip(ours[1:3], theirs[1:3], (2, 4), strict=True):
        assert len(one["seconds"]) == len(other["seconds"]) == steps
        assert one["samples"] == other["samples"] == 8 * steps
        assert one["tokens"] == other["tokens"] == one["padded_tokens"] < other["padded_tokens"]
    assert ours[0]["first_loss"] == pytest.approx(theirs[0]["first_loss"], rel=1e-5)
    for end in (ours[-1], theirs[-1]):
        assert end["held"]["float32"] > 0
        assert end["flops_per_token"] > 0
        assert end["peak_bytes"] >= end["before"] > 0
    assert sum(ours[-1]["held"].values()) < sum(theirs[-1]["held"].values())


@pytest.mark.parametrize("side", SIDES)
def test_all_sides_train_on_the_same_examples(side):
    _, *turns, _ = answers(side, "method=lora", "method.rank=4")
    reference = answers(RANDOM, "method=lora", "method.rank=4")[1:3]
    for key in ("samples", "tokens"):
        assert sum(turn[key] for turn in turns) == sum(turn[key] for turn in reference)


def test_padding_to_the_maximum_pads_to_the_maximum():
    _, _, turn, _ = answers(MAXIMUM, "method=lora", "method.rank=4", "task.max_length=64")
    assert turn["padded_tokens"] == 4 * 8 * 64


def test_batches_of_similar_length_pad_as_little_as_on_a_large_data_set():
    """The Trainer sorts at most a quarter of the examples at once, on GLUE's sets 50 batches."""
    _, *turns, _ = answers(GROUPED, "method=lora", "method.rank=4")
    run = compose("experiment=benchmark", *TINY, "method=lora")
    lengths = sorted(load_inputs(run).encoded["train"].lengths)
    assert sum(turn["padded_tokens"] for turn in turns) == sum(8 * lengths[i + 7] for i in range(0, 48, 8))


def test_sides_that_hold_other_models_are_not_compared():
    require_equal({OURS: 0.7, LONGEST: 0.701})
    with pytest.raises(UserError, match="do not hold the same model"):
        require_equal({OURS: 0.7, LONGEST: 0.8})


def test_a_mistake_is_sent_back_as_the_sides_answer():
    pipe = Script()
    serve(compose("experiment=benchmark", *TINY, "method=lora", "method.rank=4000"), OURS, pipe)
    [answer] = pipe.answers
    assert answer["error"].startswith("method.rank is 4000")


def test_the_command_writes_a_record_and_a_table_and_prints_the_result(tmp_path):
    words = ("method=lora", "method.rank=4", "rounds=2", "steps=1", "maximum=false", f"into={tmp_path}")
    status, out, err = run_script("benchmark.py", *TINY, *words)
    assert status == 0, err
    [file] = (tmp_path / "records/benchmark").glob("*.json")
    record = json.loads(file.read_text())
    assert list(record["sides"]) == [side for side in SIDES if side != MAXIMUM]
    assert all(len(side["turns"]) == 2 for side in record["sides"].values())
    assert record["peak_flops"] > 1e9
    for side in (LONGEST, GROUPED):
        assert f"lora on rte: {ratio(record, OURS, side):.2f} times the samples/s of {side}" in out
    assert "| tiny | " in (tmp_path / "speed.md").read_text()


@pytest.mark.parametrize("word", ["rounds=0", "method=qlorra"])
def test_mistakes_are_one_sentence(word, tmp_path):
    method = [] if "method=" in word else ["method=lora"]
    status, _, err = run_script("benchmark.py", *TINY, *method, word, f"into={tmp_path}")
    assert (status, err.count("\n"), err[:7]) == (2, 1, "error: ")


def side(samples: list[int], seconds: list[float], **more) -> dict:
    turns = [
        {"samples": n, "tokens": 10 * n, "padded_tokens": 20 * n, "seconds": [s / 2, s / 2]}
        for n, s in zip(samples, seconds, strict=True)
    ]
    size = {"held": {"float32": 80, "bool": 20}, "flops_per_token": 5.0, "peak_bytes": 100, "before": 50}
    return {"turns": turns} | size | more


def made_up() -> dict:
    """A record in which they take 2, 4 and 8 times as long as we do over the same batches."""
    slow = dict.fromkeys(THEIRS.values(), side([10, 10, 10], [2, 4, 8], held={"float32": 200}, peak_bytes=400))
    record = {"benchmark": 1, "method": "lora", "task": "rte", "backbone": "minilm", "peak_flops": 4000.0}
    record |= {"sides": {OURS: side([10, 10, 10], [1, 2, 1]), RANDOM: side([10, 10, 10], [1, 1, 1])} | slow}
    record["provenance"] = {"hardware": {"device": "cpu", "cpu": "X", "threads": 1, "precision": "fp32"}}
    record["config"] = {"trainer": {"batch_size": 8, "forward": "packed"}, "task": {"max_length": 128}}
    return record | {"settings": {"rank": 2}}


def test_ratios_are_over_all_turns_and_per_turn_over_the_same_batches(tmp_path):
    record = made_up()
    full = record | {"method": "full", "settings": {}, "sides": record["sides"] | {OURS: side([10, 10, 10], [4, 2, 2])}}
    other = full | {"config": record["config"] | {"task": {"max_length": 64}}, "method": "dora", "settings": {}}
    assert ratios(record, RANDOM, LONGEST) == [2, 4, 8]
    for name, one in (("a", record), ("b", full), ("c", other), ("d", {"schema": 2})):
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    lines = table(tmp_path).cells
    assert list(lines["method"]) == ["Full FT", "LoRA, rank 2", "DoRA"]
    assert list(lines["x full FT"]) == ["1.00", "2.00", ""]
    ours = lines.iloc[1]
    assert ours["x random"] == ours["x max_length"] == "3.50"
    assert ours["random / random"] == "4.00 (2.00-8.00)"
    assert (ours["held"], ours["peak"]) == ("0.50", "0.25 (0.14)")
    assert ours["step ms"] == "500 (500-1000)"
    assert ours["of peak"] == "0.19, 0.05"


def test_the_verdict_says_where_we_are_slower():
    record = made_up()
    assert not any("NOT" in line for line in verdicts(record))
    record["sides"][OURS] = side([10, 10, 10], [9, 9, 9], held={"float32": 200}, peak_bytes=400)
    assert ["NOT" in line for line in verdicts(record)] == [True] * 5
    assert verdicts(record)[3] == f"lora on rte: 1.00 of the bytes held for backward of {LONGEST}, NOT SMALLER"
