"""Every YAML composes, and every mistake is one sentence before any work starts."""

import hashlib
import json
from pathlib import Path

import pytest
import transformers
from hydra.core.global_hydra import GlobalHydra
from support.command_line import ROOT, compose

import train
from core.errors import UserError
from core.mistakes import sentence
from experiments.config import file_name, to_dict
from experiments.sweep import cells
from methods.base import REGISTERED
from tasks.glue import GLUE
from training.optimizers import schedule

GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in (ROOT / "conf").iterdir()
    if folder.is_dir()
}
HASHES = json.loads(Path(__file__).with_name("hashes.json").read_text())  # of each experiment's cells at seed 0


def is_local(experiment):
    """Whether an experiment, or one that it builds on, is on `data=local`."""
    text = (ROOT / "conf/experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    return "/data: local" in text or any(is_local(name) for name in GROUPS["experiment"] if f"\n  - {name}\n" in text)


CHOICES = [(group, choice) for group, choices in GROUPS.items() for choice in choices]
MUST = {
    ("backbone", "custom"): ("backbone.source=somewhere/else",),
    ("data", "local"): ("data.path=somewhere",),
    ("task", "custom"): ("task.labels=[a,b]",),
    **{("experiment", name): ("data.path=somewhere",) for name in GROUPS["experiment"] if is_local(name)},
}


NAMES = {
    "backbone=custom": "else",
    "method=lora_all": "lora",
    "method=lora_plus_a0": "lora_plus",
    "method=lora_plus_script": "lora_plus",
    "method=dora_all": "dora",
    "method=qlora_fp4": "qlora",
}


@pytest.mark.parametrize(("group", "choice"), [pair for pair in CHOICES if pair[0] != "experiment"])
def test_every_yaml_composes(group, choice):
    config = compose(f"{group}={choice}", *MUST.get((group, choice), ()))
    if group in ("method", "task", "backbone", "data", "logger"):
        assert getattr(config, group).name == NAMES.get(f"{group}={choice}", choice)


@pytest.mark.parametrize("experiment", GROUPS["experiment"])
def test_every_cell_of_every_experiment_composes(experiment):
    words = (f"experiment={experiment}", "seed=0", *MUST.get(("experiment", experiment), ()))
    runs = cells(words)
    assert len(runs) >= 2
    assert {run.experiment for run in runs} == {experiment}
    hashes = {run.hash for run in runs}
    assert len(hashes) == len(runs)
    digest = hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()[:16]
    kept = HASHES.get(experiment, digest)  # a user's own experiment has no line; ours all have
    assert digest == kept, "finished runs of this experiment are orphaned"
    one = () if "adapter" in experiment else ("method=lora",)  # an adapter's size is no setting of LoRA's
    cell = (*words, *one, f"task={runs[0].task.name}")
    offline = compose(*cell, "profile=offline", "data=local", "data.path=x")  # the command line wins over both
    assert (offline.backbone.name, offline.data.name) == ("minilm", "local")


@pytest.mark.parametrize("words", [("experiment=minilm", "data.path=x"), ("experiment=lora_table2_base",)])
def test_the_offline_profile_wins_over_an_experiment(words):
    config = compose(*words, "method=lora", "task=cola", "profile=offline")
    assert (config.backbone.name, config.data.name) == ("minilm", "generated")
    assert compose(*words, "method=lora", "task=cola", "backbone=roberta-large").backbone.name == "roberta-large"


def test_an_experiments_settings_match_the_paper():
    table = {run.task.name: run for run in cells(("experiment=lora_table2_large", "seed=3"))}
    assert (table["qqp"].trainer.learning_rate, table["qqp"].trainer.epochs, table["qqp"].task.max_length) == (
        3e-4,
        20,
        512,
    )
    assert (table["rte"].start, table["cola"].start, table["rte"].trainer.batch_size) == ("mnli", None, 8)
    vera = {run.task.name: run.trainer for run in cells(("experiment=vera_table2_large", "seed=0"))}
    assert (vera["qnli"].learning_rate, vera["qnli"].head_learning_rate) == (1e-2, 2e-4)
    adapters = {run.task.name: run for run in cells(("experiment=lora_table2_large_adapter_p", "seed=0"))}
    assert (adapters["sst2"].trainer.learning_rate, adapters["sst2"].trainer.epochs) == (3e-5, 20)
    assert (adapters["rte"].trainer.learning_rate, adapters["rte"].trainer.batch_size) == (3e-4, 32)
    small = {run.task.name: run for run in cells(("experiment=lora_table2_large_adapter_h_small", "seed=0"))}
    assert (small["mnli"].trainer.learning_rate, small["mnli"].trainer.epochs) == (3e-4, 10)
    assert (small["sst2"].trainer.epochs, small["sst2"].task.max_length, small["sst2"].start) == (5, 128, None)
    ranks = {run.method.target_modules: run.method.rank for run in cells(("experiment=lora_table5", "seed=0"))}
    assert ranks["query"] == 8
    assert ranks["query|value"] == 4
    assert ranks["query|key|value|attention.output.dense"] == 2


def test_every_task_of_the_table_has_its_yaml():
    assert GROUPS["task"] == sorted([*GLUE, "custom"])


def test_overrides_of_the_trainer_reach_the_settings():
    config = compose(
        "trainer.epochs=2", "trainer.max_steps=5", "trainer.batch_size=4", "trainer.learning_rate=0.5", "seed=7"
    )
    assert (config.trainer.epochs, config.trainer.max_steps, config.trainer.batch_size) == (2, 5, 4)
    assert (config.trainer.learning_rate, config.trainer.head_learning_rate, config.seed) == (0.5, 0.5, 7)


def test_the_command_line_wins_over_the_profile():
    config = compose("profile=offline", "backbone=tiny", "data=hub", "trainer.epochs=9")
    assert (config.backbone.name, config.data.name, config.logger.name, config.trainer.epochs) == (
        "tiny",
        "hub",
        "offline",
        9,
    )


def test_a_method_sets_its_own_learning_rates():
    vera = compose("method=vera")
    assert (vera.trainer.learning_rate, vera.trainer.head_learning_rate) == (1e-2, 4e-3)
    assert compose("method=vera", "trainer.head_learning_rate=1").trainer.head_learning_rate == 1
    vera = compose("method=vera", "trainer.learning_rate=3e-2").trainer
    assert (vera.learning_rate, vera.head_learning_rate) == (3e-2, 4e-3)  # a sweep over the one leaves the other
    minilm = compose("method=vera", "backbone=minilm")
    assert (minilm.trainer.learning_rate, minilm.trainer.head_learning_rate) == (1e-2, 1e-3)
    large = compose("method=full", "backbone=roberta-large")
    assert large.trainer.learning_rate == 1e-5


def test_veras_projections_follow_the_runs_seed():
    assert compose("method=vera", "seed=5").method.projection_seed == 5


def test_the_hash_covers_only_what_shapes_the_result():
    base = compose()
    for same in ("output_dir=elsewhere", "logger=none", "force=true"):
        assert compose(same).hash == base.hash, same
    assert compose("data=local", "data.path=x").hash == compose("data=local", "data.path=y").hash
    for other in (
        "seed=1",
        "method.rank=4",
        "trainer.epochs=1",
        "task=rte",
        "backbone=roberta-large",
        "data.train_size=9",
    ):
        assert compose(other).hash != base.hash, other


def test_a_runs_folder_stays_below_the_output_folder():
    config = compose("method.name=../../etc", "backbone=custom", "backbone.source=a/b", "backbone.name=../x")
    assert len(config.folder.parts) == 3
    for name in ("..", ".", "a/b", "", "\0", "ü"):
        assert "/" not in file_name(name)
        assert not file_name(name).startswith(".")


def test_the_record_of_a_config_is_plain_data():
    import json

    assert json.loads(json.dumps(to_dict(compose()))) == to_dict(compose())


OFFLINE = ("profile=offline", "backbone=tiny", "logger=none", "trainer.max_steps=2")
MISTAKES = {
    "method=dorra": "unknown method 'dorra'; there are: adapterdrop, bitfit, delta_lora, dora, .*did you mean dora",
    "task=colla": "unknown task 'colla'; there are: cola, custom, mnli, .*did you mean cola",
    "backbone=roberta": "unknown backbone 'roberta'; there are: custom, deberta",
    "profile=online": "unknown profile 'online'; there are: offline",
    "experiment=nope": "unknown experiment 'nope'",
    "task.name=foo": "unknown task 'foo'",
    "method.rank=0": "method.rank is 0",
    "method.rank=99": "method.rank is 99; an adapted layer has 32",
    "method.dropout=1": "method.dropout is 1.0",
    "method.init_A=zeros": "method.init_A is 'zeros'; choose one of: kaiming, gaussian",
    "method.target_modules=qurey": "no linear layer matches 'qurey'; there are: attention.self.query",
    "method=qlora method.quant_type=int3": "method.quant_type is 'int3'",
    "method.learning_rate=1e-3": "unknown setting 'method.learning_rate'",
    "method.alpha=nan": "method.alpha is nan",
    "method.target_modules=''": "method.target_modules is empty",
    "method=pfeiffer method.bottleneck=0": "method.bottleneck is 0; it must be at least 1",
    "method=top_layers method.layers=3": "method.layers is 3; the encoder has 2",
    "method=adapterdrop": "method.dropped_layers is 5, of 2 layers",
    "method=vera method.d_initial=0": "method.d_initial is 0",
    "trainer.head_learning_rate=-1": "trainer.head_learning_rate is -1",
    "+backbone.learning_rates.lora=-1": "trainer.learning_rate is -1",
    "trainer.threads=100000": "trainer.threads is 100000; this machine has",
    "seed=99999999999999999999": "seed is 99999999999999999999; it must be at least 0 and below",
    "trainer.epoch=3": "unknown setting 'trainer.epoch'; there are: .*did you mean epochs",
    "method.rnk=3": "unknown setting 'method.rnk'; .*did you mean rank",
    "sed=3": "unknown setting 'sed'; .*did you mean seed",
    "+foo=3": "unknown setting 'foo'",
    "+trainer.epoch=3": "unknown setting 'trainer.epoch'",
    "trainer.batch_size=abc": "trainer.batch_size is 'abc'; give a whole number",
    "trainer.batch_size=0": "trainer.batch_size is 0",
    "trainer.learning_rate=-1": "trainer.learning_rate is -1",
    "trainer.learning_rate=nan": "trainer.learning_rate is nan",
    "trainer.learning_rate=inf": "trainer.learning_rate is inf",
    "trainer.schedule=lin": "trainer.schedule is 'lin'; choose one of: linear, cosine, constant",
    "trainer.optimizer=adam": "trainer.optimizer is 'adam'",
    "trainer.warmup_ratio=2": "trainer.warmup_ratio is 2",
    "trainer.device=cuda": "torch sees no GPU",
    "task.max_length=4000": "task.max_length is 4000; tiny takes at most 128",
    "seed=-1": "seed is -1",
    "data=local": "data=local needs data.path",
    "data=hub data.path=/tmp": "data.path is /tmp, and data=hub reads no folder: add data=local",
    "data=local data.path=/nonexistent": "there is no folder /nonexistent",
    "data=hub": "'nyu-mll/glue' is not in the cache.*profile=offline.*data=local",
    "backbone=roberta-base": "'FacebookAI/roberta-base' is not in the cache.*profile=offline",
    "backbone=custom": "backbone.source is empty",
    "backbone=custom backbone.source=/nonexistent": "there is no folder /nonexistent",
    "backbone=custom backbone.source=no/such/model/x": "neither a folder nor the name of a model",
    "backbone.tokenizer=/nonexistent": "backbone.tokenizer: there is no folder /nonexistent",
    "backbone.architecture=null": "backbone.architecture",
    "backbone.architecture.hidden_size=31": "backbone",
    "backbone.architecture.model_type=rowberta": "backbone",
    "output_dir=/proc/nothing": "cannot be written",
    "output_dir=/dev/null": "is not a folder",
    "experiment=../up": "unknown experiment",
    "experiment=mnli_start": "this experiment has no settings for 'cola'; it has them for: mnli, mrpc",
    "start=cola": "start is 'cola'; choose another task to start from: mnli, sst2",
    "method": "method: a setting is written with =, as in method=lora",
    "+method": "method: a setting is written with =, as in method=lora",
    "experiment=7": "the settings cannot be read: Config group override must be a string",
    "backbone.learning_rates=${seed}": "backbone.learning_rates is '0'; it must be a mapping",
    "backbone.architecture.num_hidden_layers=999999999": "num_hidden_layers is 999999999; .*from 1 to 1000",
    "backbone.architecture.hidden_size=16000000": "backbone.architecture takes .* GB; this machine has",
    "+backbone.architecture.hidden_act=foo": "backbone.architecture builds no classifier",
    "+backbone.architecture.problem_type=nan": "backbone.architecture cannot be kept in a record",
    "backbone.architecture.pad_token_id=null": "backbone.architecture suits no tokenizer",
    "backbone.architecture.type_vocab_size=0": "backbone tiny takes no text",
    "method=dora method.alpha=1e300": "method.alpha is 1e\\+300; it must be above 0 and at most 1e\\+18",
    "method=vera method.rank=999999999999": "method.rank is 999999999999; .*at most 65536",
    "data.train_size=999999999999": "generated data have at most 100000 examples",
    "data.seed=-1": "data.seed is -1",
    "--resolve-all": "unrecognized arguments: --resolve-all; flags stand before all overrides",
}


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs the command line in this process; gives exit status, and what it printed to the two streams."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["train.py", *words])
        GlobalHydra.instance().clear()
        status = train.cli()
        return status, *capsys.readouterr()

    yield call
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(mistake, cli, tmp_path, monkeypatch):
    if mistake == "trainer.device=cuda":
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    import re

    status, out, err = cli(*OFFLINE, f"output_dir={tmp_path / 'runs'}", *mistake.split())
    assert status == 2
    assert re.fullmatch(rf"error: .*{MISTAKES[mistake]}.*\n", err), err
    assert out == ""
    assert not (tmp_path / "runs").exists()


def test_the_message_of_the_outermost_error_is_shown():
    error = UserError("init_from=x: it was damaged")
    error.__cause__ = UserError("it was damaged")
    assert sentence(error) == "init_from=x: it was damaged"


def test_the_last_printed_line_names_the_record(cli, tmp_path):
    status, out, _ = cli(*OFFLINE, f"output_dir={tmp_path}")
    assert status == 0
    *_, last = out.splitlines()
    assert last.startswith("result: ")
    assert (ROOT / last.removeprefix("result: ")).is_file()


def test_missing_bitsandbytes_is_reported(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    status, _, err = cli(*OFFLINE, f"output_dir={tmp_path}", "method=qlora")
    assert status == 2
    assert "method=qlora needs bitsandbytes" in err


@pytest.mark.parametrize(
    ("ours", "theirs"), [("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup")]
)
def test_the_learning_rate_schedules_are_those_of_transformers(ours, theirs):
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = transformers.get_scheduler(theirs, optimizer, num_warmup_steps=6, num_training_steps=100)
    for step in range(100):
        assert schedule(ours, step, 100, 0.06) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_an_experiment_names_its_folder_and_the_command_line_overrides_it():
    config = compose("experiment=minilm", "data.path=x", "trainer.epochs=1")
    assert (config.experiment, config.backbone.name, config.trainer.epochs) == ("minilm", "minilm", 1)
    assert config.folder.parent.name == "minilm"


def test_a_users_experiment_is_named_after_its_file_unless_it_sets_a_name(tmp_path):
    """Otherwise its runs would go to runs/default, where tables ignore them."""
    (tmp_path / "experiment").mkdir()
    for name, line in (("mine", ""), ("yours", "experiment: ours")):
        (tmp_path / f"experiment/{name}.yaml").write_text(f"# @package _global_\nseed: 3\n{line}\n")
    words = [f"hydra.searchpath=[{tmp_path}]", "profile=offline"]
    assert [compose(f"experiment={name}", *words).experiment for name in ("mine", "yours")] == ["mine", "ours"]
    assert compose(*words).experiment == "default"


def test_a_method_without_a_rate_is_refused(monkeypatch):
    monkeypatch.delattr(REGISTERED["head"], "learning_rate")
    with pytest.raises(UserError, match="method head has no rate: give its class"):
        compose("method=head")
