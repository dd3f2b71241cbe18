"""The settings of a run as dataclasses: the one place of every default, type and check that is not a method's.

`conf/` chooses among them; a key that is not here is an error, in an override as in a YAML file.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

import methods  # noqa: F401  (registers each method's schema)
from core.errors import USER_ERRORS, UserError, sentence, unknown
from core.redact import secrets
from methods.base import Method
from tasks.glue import GLUE, Task

SIZES = dict.fromkeys(  # of an architecture; beyond them building one takes for ever, or more than int64
    ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings"), 2**24
) | {"num_hidden_layers": 1000}
GENERATED_MOST = 100_000  # examples; some tasks' grammars have not many more


def choose(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a UserError that lists the choices."""
    if value not in choices:
        raise UserError(f"{key} is '{value}'; choose one of: {', '.join(choices)}")


def at_least(key: str, value: float | None, least: float) -> None:
    """Raises a UserError for a number below `least`, or not finite; None passes."""
    if value is not None and not least <= value < math.inf:
        raise UserError(f"{key} is {value}; it must be at least {least} and finite")


def above_zero(key: str, value: float | None) -> None:
    """Raises a UserError for a number that is not positive, or not finite; None passes."""
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"{key} is {value}; it must be above 0 and finite")


def fraction(key: str, value: float) -> None:
    """Raises a UserError for a number outside [0, 1)."""
    if not 0 <= value < 1:
        raise UserError(f"{key} is {value}; it must be at least 0 and below 1")


def check_seed(key: str, value: int) -> None:
    """Raises a UserError for what no generator takes."""
    at_least(key, value, 0)
    if value >= 2**63:
        raise UserError(f"{key} is {value}; it must be below 2**63")


def require_mappings(config: Any, path: str = "") -> None:
    """Raises a UserError where `${...}` put something else in the place of settings or of a mapping."""
    for known in dataclasses.fields(config):
        kind, value = get_origin(known.type) or known.type, getattr(config, known.name)
        if (kind is dict or dataclasses.is_dataclass(kind)) and not isinstance(value, kind):
            raise UserError(f"{path}{known.name} is '{value}'; it must be a mapping of settings")


@dataclass
class TaskConfig:
    """A row of `tasks/glue.py` and how long its examples may be, in tokens."""

    name: str = MISSING
    max_length: int = 128

    def __post_init__(self) -> None:
        if self.name not in GLUE:
            raise UserError(unknown("task", self.name, GLUE))
        at_least("task.max_length", self.max_length, 4)

    @property
    def row(self) -> Task:
        """The task's row in the table."""
        return GLUE[self.name]


@dataclass
class DataConfig:
    """Where the examples come from.

    Attributes:
        name: hub, local or generated.
        repository, revision: of the hub's data set.
        path: a folder in the hub's layout, `PATH/TASK/SPLIT-*.parquet`.
        train_size, eval_size: so many examples of a split, drawn with `seed`; null: all.
        holdout: this fraction of the training set is held out of training; an epoch can be chosen on it, without a look at
            the validation set.
        seed: of the generated data, of the draw, and of what is held out.
    """

    name: str = MISSING
    repository: str = "nyu-mll/glue"
    revision: str = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
    path: str | None = None
    train_size: int | None = None
    eval_size: int | None = None
    holdout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        fraction("data.holdout", self.holdout)
        choose("data.name", self.name, ("hub", "local", "generated"))
        at_least("data.train_size", self.train_size, 1)
        at_least("data.eval_size", self.eval_size, 2)
        check_seed("data.seed", self.seed)
        for key in ("train_size", "eval_size"):
            if self.name == "generated" and (size := getattr(self, key) or 0) > GENERATED_MOST:
                raise UserError(f"data.{key} is {size}; generated data have at most {GENERATED_MOST} examples a split")
        if self.name == "local" and not self.path:
            raise UserError("data=local needs data.path=DIR, a folder that holds TASK/train-*.parquet")


@dataclass
class BackboneConfig:
    """The pretrained encoder.

    Attributes:
        name: what records call it; empty: the last part of `source`.
        source: a hub name, a local folder, or `package:NAME`, a Python package that carries the checkpoint in `model/`.
        revision: the hub's commit; null for folders and packages.
        sha256: of `model.safetensors`; null: not checked.
        architecture: keyword arguments of its transformers config, `model_type` among them, for `random_init`.
        random_init: the architecture with random weights, no download; its tokenizer is trained on the task's text.
        learning_rates: rates that suit a method on this backbone better than the method's own default.
        head_learning_rates: likewise for the head that a method trains.
    """

    name: str = ""
    source: str | None = None
    revision: str | None = None
    sha256: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    random_init: bool = False
    learning_rates: dict[str, float] = field(default_factory=dict)
    head_learning_rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_mappings(self, "backbone.")
        if not self.source and not self.random_init:
            raise UserError(
                "backbone.source is empty: give a hub name or a folder, as in backbone.source=distilroberta-base"
            )
        if self.random_init and "model_type" not in self.architecture:
            raise UserError(
                f"backbone.random_init needs an architecture; backbone '{self.name or self.source}' has none in its YAML"
            )
        for key, most in SIZES.items():
            size = self.architecture.get(key, 1)
            if not isinstance(size, int) or not 1 <= size <= most:
                raise UserError(f"backbone.architecture.{key} is {size}; it must be a whole number from 1 to {most}")
        for key in ("architecture", "learning_rates", "head_learning_rates"):
            try:
                json.dumps(getattr(self, key), allow_nan=False)
            except (TypeError, ValueError) as error:
                raise UserError(f"backbone.{key} cannot be kept in a record: {error}") from error
        self.name = self.name or Path(self.source).name


@dataclass
class TrainerConfig:
    """How every method is trained.

    Attributes:
        epochs: passes over the training set.
        max_steps: ends the run sooner; null: never.
        batch_size: examples in an optimizer step, over all devices.
        micro_batch_size: examples in a forward pass on a device, gradients accumulated over a step; null: all of them.
        eval_batch_size: examples in a forward pass of an evaluation.
        similar_length: batches of examples of similar length; false: random batches.
        forward: packed: examples end to end, without padding, on encoders that models/packed.py knows; padded: to their
            longest, through transformers' own forward pass; compiled: that pass through torch.compile and CUDA graphs, for
            short steps on a GPU. The mathematics is the same, and so is the run's name.
        optimizer: adamw or sgd.
        learning_rate: of the method's parameters; null: what suits method and backbone.
        head_learning_rate: of the head; null: what suits the backbone or the method (VeRA), or else `learning_rate`.
        weight_decay: of matrices; biases, norms and other vectors are spared.
        schedule: linear, cosine or constant, after a warm-up over `warmup_ratio` of all steps.
        max_grad_norm: gradients are clipped to it; null: never.
        precision: fp32, bf16 (autocast), or auto: bf16 where the GPU has it.
        device: auto, cpu or cuda.
        eval_every: steps between evaluations; null: at the end of each epoch. A checkpoint goes with each.
        log_every: steps between log lines; the loss is looked at, and can end the run, as often.
        threads: of the CPU; null: torch's choice.
    """

    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 32
    micro_batch_size: int | None = None
    eval_batch_size: int = 64
    similar_length: bool = True
    forward: str = "packed"
    optimizer: str = "adamw"
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.1
    schedule: str = "linear"
    warmup_ratio: float = 0.06
    max_grad_norm: float | None = 1.0
    precision: str = "auto"
    device: str = "auto"
    eval_every: int | None = None
    log_every: int = 10
    threads: int | None = None

    def __post_init__(self) -> None:
        choose("trainer.forward", self.forward, ("packed", "padded", "compiled"))
        choose("trainer.optimizer", self.optimizer, ("adamw", "sgd"))
        choose("trainer.schedule", self.schedule, ("linear", "cosine", "constant"))
        choose("trainer.precision", self.precision, ("auto", "fp32", "bf16"))
        choose("trainer.device", self.device, ("auto", "cpu", "cuda"))
        for key in (
            "epochs",
            "max_steps",
            "batch_size",
            "micro_batch_size",
            "eval_batch_size",
            "eval_every",
            "log_every",
            "threads",
        ):
            at_least(f"trainer.{key}", getattr(self, key), 1)
        for key in ("epsilon", "max_grad_norm"):
            above_zero(f"trainer.{key}", getattr(self, key))
        for key in ("beta1", "beta2", "momentum", "warmup_ratio"):
            fraction(f"trainer.{key}", getattr(self, key))
        at_least("trainer.weight_decay", self.weight_decay, 0)
        if self.forward == "compiled" and self.micro_batch_size:  # a graph's next replay would overwrite its gradients
            raise UserError("trainer.forward=compiled takes a step at once: leave out trainer.micro_batch_size")
        if self.threads and self.threads > (cores := os.cpu_count() or 1):
            raise UserError(f"trainer.threads is {self.threads}; this machine has {cores} cores")


@dataclass
class LoggerConfig:
    """Where the curves go: W&B online (offline without a key), offline, or nowhere."""

    name: str = "wandb"
    project: str = "peft-glue"
    entity: str | None = None

    def __post_init__(self) -> None:
        choose("logger.name", self.name, ("wandb", "offline", "none"))


LATER = {"init_from": None, "init_head": "fresh", "deterministic": False}  # runs keep the names that they had before


@dataclass
class RunConfig:
    """One run.

    Attributes:
        seed: of data order, head, adapter and dropout, each through a stream of its own.
        experiment: the folder under `output_dir` that the run belongs to, and its group in W&B; on the command line
            `experiment=NAME` chooses `conf/experiment/NAME.yaml`, which sets it.
        output_dir: where runs are kept.
        start: a task; the run begins at what the same command trained on it (LoRA's MNLI start), with a fresh head, and
            trains that first if it is missing. null: at the pretrained weights.
        init_from: a folder; the run begins at the adapter that PEFT saved there, or at another run's best state.
        init_head: of `init_from`: fresh, or kept, for the same task.
        deterministic: only algorithms of torch's that give the same bits each time, on a GPU too, where they are slower.
        force: train again what is finished.
        retry: train again what failed.
    """

    method: Method = MISSING
    task: TaskConfig = MISSING
    backbone: BackboneConfig = MISSING
    data: DataConfig = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = 0
    experiment: str = "default"
    output_dir: str = "runs"
    start: str | None = None
    init_from: str | None = None
    init_head: str = "fresh"
    deterministic: bool = False
    force: bool = False
    retry: bool = False

    def __post_init__(self) -> None:
        require_mappings(self)
        if self.start is not None and (self.start not in GLUE or self.start == self.task.name):
            others = [name for name in GLUE if name != self.task.name]
            raise UserError(f"start is '{self.start}'; choose another task to start from: {', '.join(others)}")
        if self.init_from == "":
            raise UserError("init_from is empty; name the folder of a run or of an adapter")
        if self.start is not None and self.init_from is not None:
            raise UserError("start and init_from are both given; a run begins at one of them")
        choose("init_head", self.init_head, ("fresh", "kept"))
        if self.init_head == "kept" and self.init_from is None:
            raise UserError("init_head=kept needs init_from=FOLDER, whose head it is")
        check_seed("seed", self.seed)
        if not self.output_dir:
            raise UserError("output_dir is empty; name a folder")
        if not self.output_dir.isprintable():  # the last line that a run prints names it
            raise UserError(f"output_dir is {self.output_dir!a}; name a folder without such characters")
        if file_name(self.experiment) != self.experiment:
            raise UserError(
                f"experiment '{self.experiment}' cannot name a folder: use letters, digits, '.', '_' and '-'"
            )
        shown = json.dumps(to_dict(self))
        for name, secret in secrets():
            if secret in shown:
                raise UserError(f"a setting holds {name}, and a record would show it: leave it to the environment")
        trainer, method = self.trainer, self.method
        if trainer.learning_rate is None:
            trainer.learning_rate = self.backbone.learning_rates.get(method.name, method.learning_rate)
        if trainer.head_learning_rate is None:
            own = self.backbone.head_learning_rates.get(method.name, method.head_learning_rate)
            trainer.head_learning_rate = own or trainer.learning_rate
        above_zero("trainer.learning_rate", trainer.learning_rate)
        above_zero("trainer.head_learning_rate", trainer.head_learning_rate)

    @property
    def hash(self) -> str:
        """Of all that shapes the result: neither where it is written nor where the same data lie."""
        config = to_dict(self)
        for key in ("experiment", "output_dir", "force", "retry", "logger"):
            del config[key]
        for key, default in LATER.items():
            if config[key] == default:
                del config[key]
        del config["data"]["path"], config["trainer"]["forward"]
        for key in ("learning_rates", "head_learning_rates"):  # the rates in force are the trainer's
            del config["backbone"][key]
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Of this run: a function of its settings alone, so that the same command finds it again, on every rank."""
        parts = (
            self.method.name,
            self.task.name,
            self.backbone.name,
            self.data.name,
            f"seed{self.seed}",
            self.hash[:8],
        )
        return Path(self.output_dir) / self.experiment / "-".join(map(file_name, parts))


def file_name(text: str) -> str:
    """`text` as a single part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]|^\.+", "_", text) or "_"


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dicts of a dataclass."""
    return dataclasses.asdict(config)


def from_dict(config: dict[str, Any]) -> RunConfig:
    """The settings that `to_dict` made a record of.

    Raises:
        UserError: they are not this version's.
    """
    try:
        method = ConfigStore.instance().load(f"schema/method/{config['method']['name']}.yaml").node
        return from_hydra(OmegaConf.merge(OmegaConf.structured(RunConfig), {"method": method}, config))
    except (*USER_ERRORS, KeyError, TypeError) as error:
        raise UserError(f"the run's settings are not this version's: {sentence(error)}") from error


def from_hydra(cfg: DictConfig) -> RunConfig:
    """The typed, checked settings.

    Raises:
        UserError: a value is out of range, a required one missing, or one added that nothing reads.
    """
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        raise UserError(f"{', '.join(sorted(missing))} must be given")
    run = OmegaConf.to_object(cfg)
    _refuse_extras(run)
    return run


def _refuse_extras(config: Any, path: str = "") -> None:
    """`+key=value` adds what no schema knows; OmegaConf hands it on as an attribute."""
    names = [field.name for field in dataclasses.fields(config)]
    for name, value in vars(config).items():
        if name not in names:
            raise UserError(unknown("setting", path + name, names))
        if dataclasses.is_dataclass(value):
            _refuse_extras(value, f"{path}{name}.")


def pick(key: str, table: DictConfig) -> Any:
    """`${pick:${task.name},{mrpc:4e-4,rte:5e-4}}` in a YAML: the value for the task (or method, ...) of this run."""
    if key not in table:
        raise UserError(f"this experiment has no settings for '{key}'; it has them for: {', '.join(map(str, table))}")
    return table[key]


def share(budget: int, pattern: str) -> int:
    """`${share:8,'query|value'}` in a YAML: 4, an equal share of the budget for each alternative of the pattern."""
    return budget // len(pattern.split("|"))


OmegaConf.register_new_resolver("pick", pick)
OmegaConf.register_new_resolver("share", share)
ConfigStore.instance().store(name="run_schema", node=RunConfig)
