"""Words from other tools: taken where they are clear, else pointed to the right setting."""

import re
import shlex
import sys

import pytest
from support.command_line import ROOT, compose

import train
from core.console import duration
from core.errors import UserError
from core.habits import amend, for_each_cell

CONF = ROOT / "conf"


def test_case_does_not_matter_in_a_choice_or_a_sweeps_list():
    assert amend(["method=LoRA,DoRA", "task=CoLA", "-m"], CONF) == ["method=lora,dora", "task=cola", "-m"]
    assert amend(["+experiment=minilm,own"], CONF) == ["experiment=minilm,own"]
    assert amend(["method=choice(LoRA,own)"], CONF) == ["method=choice(lora,own)"]
    own = ["method=own", "backbone.source=A/B", "note=LoRA", "note=a\\,b", "+trainer.x=Y", "method=[lora]"]
    assert amend(own, CONF) == own


def test_a_run_without_its_logger_logs_nothing():
    assert amend(["task=cola", "~logger"], CONF) == ["task=cola", "logger=none"]


@pytest.mark.parametrize("note", ["a,b", "a, b: c", 'say "a, b"', "it's a, b", "a\\b, c", 'a, b\\"', "a, b\\"])
def test_a_quoted_note_is_read_as_it_was_meant(note):
    with pytest.raises(UserError) as refusal:
        amend([f"note={note}"], CONF)
    [word] = shlex.split(str(refusal.value).partition("of its own: ")[2])
    assert amend([word], CONF) == [word]
    assert compose(word, "task=cola").note == note


def test_a_setting_of_the_method_waits_for_each_cell():
    words = ["method.rank=8", "method.target_modules='a,b'", "method.x=[1,2]"]
    assert for_each_cell(words) == [
        "method.rank=choice(8)",
        "method.target_modules=choice('a,b')",
        "method.x=choice([1,2])",
    ]
    others = [
        "method=lora",
        "method.rank=2,4",
        "method.rank=range(2)",
        "method.rank=a,'b",
        "method.rank=null",
        "seed=1",
        "-m",
    ]
    assert for_each_cell(others) == others


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "lora"], "settings have no dashes: write method=lora"),
        (["--method=lora"], "settings have no dashes: write method=lora"),
        (["--lr", "1e-3"], "settings have no dashes: write trainer.learning_rate=1e-3"),
        (["--task"], "settings have no dashes: write task=VALUE"),
        (["-method=lora"], "settings have no dashes: write method=lora"),
    ],
)
def test_a_setting_written_as_a_flag_is_pointed_out(words, message):
    with pytest.raises(UserError, match=message):
        amend(words, CONF)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr=1e-3", "unknown setting 'lr'; write trainer.learning_rate"),
        ("trainer.lr=1e-3", "unknown setting 'trainer.lr'; write trainer.learning_rate"),
        ("method.rank=four", "method.rank is 'four'; give a whole number$"),
        ("trainer.epochs=ten", "trainer.epochs is 'ten'; give a number$"),
        ("trainer.similar_length=maybe", "trainer.similar_length is 'maybe'; give true or false$"),
        ("method=", "method= chooses no file: leave it out, or name one of conf/method/"),
        ("batch_size=8", "unknown setting 'batch_size'; write trainer.batch_size"),
        ("rank=8", "unknown setting 'rank'; write method.rank"),
        ("resume=true", "unknown setting 'resume'; write nothing: the same command resumes a run"),
        ("note=a, b: c", "a note with a comma is written in quotes of its own: 'note=\"a, b: c\"'$"),
        ("output_dir=a,b", "add -m to train them all; as one text it is written 'output_dir=\"a,b\"'$"),
        ("experiment=null", "experiment=null chooses no file: leave it out, or name one of conf/experiment/"),
        ("seed=0,1", "seed=0,1 names several runs: add -m to train them all$"),
        ("seeds=0,1", "unknown setting 'seeds'; write seed=0,1, and add -m to train them all$"),
        ("trainer.lr=1,2", "unknown setting 'trainer.lr'; write trainer.learning_rate=1,2, and add -m"),
        ("methods=lora", "unknown setting 'methods'; write method"),
        ("method=lora,dora", "method=lora,dora names several runs: add -m to train them all"),
        ("method=[lora,dora]", "it takes one value; for several runs give method=lora,dora without brackets, and -m$"),
        ("seed=1.5", "seed is '1.5'; give a whole number$"),
        ("trainer.batch_size=null", "trainer.batch_size cannot be null: give a value, or leave it out$"),
        ("--learning_rate=1e-3", "settings have no dashes: write trainer.learning_rate=1e-3$"),
        ("--learning-rate 1e-3", "settings have no dashes: write trainer.learning_rate="),
        ("--seed 1", "settings have no dashes: write seed="),
        ("--num_train_epochs=3", "settings have no dashes: write trainer.epochs=3$"),
        ("--confg-name=x", "flags stand before all overrides, --hydra-help lists them$"),
        ("seed=[0,1]", "seed: it takes one value; for several runs give seed=0,1 without brackets, and -m$"),
        ("~task", "~task: a run has to have a task; choose one with task=NAME$"),
        ("+hydra.sweeper.params={seed:1}", "a grid on the command line is written as its settings, as in -m seed=0,1$"),
        ("-m --cfg job", "--cfg shows the settings of one run: leave out -m, and give each setting one value$"),
        (
            "-m task=cola,rte --help",
            "--help shows the settings of one run: leave out -m, and give each setting one value$",
        ),
        ("method=lorra", "unknown method 'lorra'; .*did you mean lora"),
        ("hydra/launcher=slrm", "unknown hydra/launcher 'slrm'; .*did you mean slurm"),
    ],
)
def test_a_setting_without_its_group_or_by_another_name_is_pointed_out(word, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", *(word.split() if word.startswith("-") else [word])])
    assert train.cli() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.search(message, err)


def test_durations_are_rounded_up():
    seconds = {
        0.2: "1 s",
        59: "59 s",
        59.5: "1 min",
        60.1: "1 min 1 s",
        601: "11 min",
        3600: "1 h 0 min",
        12001: "3 h 21 min",
    }
    assert {s: duration(s) for s in seconds} == seconds


FIRST = "# @package _global_\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {epochs: 3}\n", "experiment/x.yaml lacks its first line: '# @package _global_'$"),
        ("defaults: [override /method: dora]\n", "experiment/x.yaml lacks its first line: '# @package _global_'$"),
        (
            FIRST + "trainer: {epoch: 3}\n",
            r"experiment/x.yaml: unknown setting 'trainer.epoch'; .*did you mean epochs\?$",
        ),
        (
            FIRST + "hydra: {launcher: {partition: gpu}}\n",
            r"unknown setting 'hydra.launcher.partition'; .* a file conf/hydra/launcher/NAME.yaml, chosen by .*=NAME$",
        ),
        (FIRST + "epochs: 3\n", "experiment/x.yaml: unknown setting 'epochs'; write trainer.epochs$"),
        (FIRST + "trainer: {epochs: a}\n", "experiment/x.yaml: trainer.epochs is 'a'; give a number"),
        (FIRST + "hydra: {sweeper: {params: {seed: [0, 1]}}}\n", "params: seed is a list: write seed: 0,1$"),
        (FIRST + "hydra: {sweeper: {params: {method: [lora, vera]}}}\n", "method is a list: write method: lora,vera$"),
    ],
)
def test_a_mistake_in_an_experiments_file_is_one_sentence(text, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_text(text)
    words = ["--config-dir", str(tmp_path), *["-m"] * ("params" in text), "experiment=x", f"output_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    assert train.cli() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.search(message, err)
