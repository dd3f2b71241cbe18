"""The settings of a run: its own, and those that tasks, models, methods and training declare in their own rooms.

`conf/` chooses among them. A key that no dataclass has is an error, in an override and in a YAML file alike.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import methods  # noqa: F401  (registers each method's schema)
from core.checks import check, generator_seed, one_of
from core.errors import USER_ERRORS, UserError, unknown
from core.mistakes import sentence
from core.redact import secrets
from methods.base import Method
from models.settings import BackboneConfig
from tasks.glue import GLUE
from tasks.settings import DataConfig, TaskConfig
from training.settings import TrainerConfig
from training.tracking import LoggerConfig

NOT_IDENTITY = ("experiment", "output_dir", "force", "retry", "reuse_records", "logger", "tags", "note")
# settings newer than some records: at these values they are not in the hash
HASH_NEUTRAL_DEFAULTS = {
    "init_from": None,
    "init_head": "fresh",
    "deterministic": False,
    "backbone.tokenizer": None,
    "method.activation": None,
    "trainer.patience": None,
    "task.columns": None,
    "task.labels": None,
    "task.metrics": None,
}


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that shape a run's result, out of those that `to_dict` or a record has."""
    config = {key: dict(part) if isinstance(part, dict) else part for key, part in config.items()}  # the caller's stays
    for key in NOT_IDENTITY:
        config.pop(key, None)
    for key, default in HASH_NEUTRAL_DEFAULTS.items():
        room, _, name = key.rpartition(".")
        part = config[room] if room else config
        if part.get(name) == default:
            part.pop(name, None)
    config["data"].pop("path", None)
    if tokenizer := config["backbone"].get("tokenizer"):  # wherever it lies; the record has its checksum
        config["backbone"]["tokenizer"] = Path(tokenizer).name
    for key in ("forward", "packed"):  # packed: what forward was called in old records
        config["trainer"].pop(key, None)
    for key in ("learning_rates", "head_learning_rates", "license"):  # the rates in force are the trainer's
        config["backbone"].pop(key, None)
    return config


def hash_of(config: dict[str, Any]) -> str:
    """The first 16 hexadecimal digits of a sha256 of the settings that shape the result."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:16]


def file_name(text: str) -> str:
    """`text` as the name of one folder."""
    return re.sub(r"[^A-Za-z0-9._-]|^\.+", "_", text) or "_"


def _folder_name(key: str, value: str) -> None:
    if file_name(value) != value:
        raise UserError(f"{key} '{value}' cannot name a folder: use letters, digits, '.', '_' and '-'")


def _folder(key: str, value: str) -> None:
    if not value:
        raise UserError(f"{key} is empty; name a folder")
    if not value.isprintable():  # the last line that a run prints names it
        raise UserError(f"{key} is {value!a}; name a folder without such characters")


def _path(key: str, value: str) -> None:
    if not value:
        raise UserError(f"{key} is empty; name the folder of a run or of an adapter")


def _refuse_secrets(config: dict[str, Any]) -> None:
    """Raises a UserError for a setting that holds one of the environment's tokens."""
    shown = json.dumps(config)
    for name, secret in secrets():
        if secret in shown:
            raise UserError(f"a setting holds {name}, and a record would show it: leave it to the environment")


@dataclass
class RunConfig:
    """One run.

    Attributes:
        seed: it decides data order, head, adapter and dropout, each through a stream of its own.
        experiment: the folder under `output_dir` that the run belongs to, and its group in W&B; on the command line
            `experiment=NAME` chooses `conf/experiment/NAME.yaml`, which sets it.
        output_dir: where runs are kept.
        start: a task; the run begins with what the same command trained on it (LoRA's MNLI start), and with a fresh head.
            If that run is missing, it is trained first. null: the pretrained weights.
        init_from: a folder; the run begins with the adapter that PEFT saved there, or with another run's best state.
        init_head: fresh, or kept: the head of `init_from`, for the same task.
        deterministic: use only torch algorithms that give the same bits each time; on a GPU they are slower.
        force: train finished runs again.
        retry: train failed runs again.
        reuse_records: a run whose record is committed under `paper_tables/records/` is finished, on every machine.
        tags, note: words of the user's own, kept in the record and in W&B; they do not change the run's name.
    """

    method: Method = MISSING
    task: TaskConfig = MISSING
    backbone: BackboneConfig = MISSING
    data: DataConfig = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: Annotated[int, generator_seed] = 0
    experiment: Annotated[str, _folder_name] = "default"
    output_dir: Annotated[str, _folder] = "runs"
    start: str | None = None
    init_from: Annotated[str | None, _path] = None
    init_head: Annotated[str, one_of("fresh", "kept")] = "fresh"
    deterministic: bool = False
    force: bool = False
    retry: bool = False
    reuse_records: bool = True
    tags: list[str] = field(default_factory=list)
    note: str | None = None

    def __post_init__(self) -> None:
        check(self)
        self._check_start()
        if self.trainer.forward == "compiled" and self.method.trains_parts:  # each part would be a graph of its own
            raise UserError(
                f"method={self.method.name} trains other parts in each step: leave out trainer.forward=compiled"
            )
        _refuse_secrets(to_dict(self))
        self._settle_rates()

    def _check_start(self) -> None:
        """Raises a UserError if the settings contradict each other on what the run begins with."""
        if self.start is not None and (self.start not in GLUE or self.start == self.task.name):
            others = [name for name in GLUE if name != self.task.name]
            raise UserError(f"start is '{self.start}'; choose another task to start from: {', '.join(others)}")
        if self.start is not None and self.init_from is not None:
            raise UserError("start and init_from are both given; a run begins at one of them")
        if self.init_head == "kept" and self.init_from is None:
            raise UserError("init_head=kept needs init_from=FOLDER, whose head it is")

    def _settle_rates(self) -> None:
        """Fills in rates that are not given: the backbone's for the method, or else the method's own."""
        trainer, backbone, method = self.trainer, self.backbone, self.method
        if not hasattr(method, "learning_rate"):
            raise UserError(f"method {method.name} has no rate: give its class `learning_rate: ClassVar[float] = 1e-3`")
        if trainer.learning_rate is None:
            trainer.learning_rate = backbone.learning_rates.get(method.name, method.learning_rate)
        if trainer.head_learning_rate is None:
            own = backbone.head_learning_rates.get(method.name, method.head_learning_rate)
            trainer.head_learning_rate = own or trainer.learning_rate
        check(trainer, "trainer.")  # a YAML's rates too

    @property
    def hash(self) -> str:
        """Hash of the settings that shape the result; where data and results are stored does not count."""
        return hash_of(to_dict(self))

    @property
    def folder(self) -> Path:
        """The run's folder. It follows from the settings, so that the same command finds it again, on every rank."""
        parts = (
            self.method.name,
            self.task.name,
            self.backbone.name,
            self.data.name,
            f"seed{self.seed}",
            self.hash[:8],
        )
        return Path(self.output_dir) / self.experiment / "-".join(map(file_name, parts))


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain nested dicts."""
    return dataclasses.asdict(config)


def from_dict(config: dict[str, Any]) -> RunConfig:
    """The settings that a record holds, as `to_dict` wrote them.

    Raises:
        UserError: another version of the code wrote them.
    """
    try:
        method = ConfigStore.instance().load(f"schema/method/{config['method']['name']}.yaml").node
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), {"method": method}, config)
        assert isinstance(merged, DictConfig)
        return from_hydra(merged)
    except (*USER_ERRORS, KeyError, TypeError) as error:
        raise UserError(f"the run's settings are not this version's: {sentence(error)}") from error


def named_by(cfg: DictConfig, choice: str | None) -> DictConfig:
    """The settings; the chosen `conf/experiment/NAME.yaml` names the experiment unless it sets another name."""
    if choice and cfg.experiment == "default":
        cfg.experiment = choice
    return cfg


def from_hydra(cfg: DictConfig) -> RunConfig:
    """The typed, checked settings.

    Raises:
        UserError: a value is out of range, a required one missing, or one added that nothing reads.
    """
    try:
        run: Any = OmegaConf.to_object(cfg)  # RunConfig, by its schema
    except OmegaConfBaseException as error:
        if missing := OmegaConf.missing_keys(cfg):
            raise UserError(f"{', '.join(sorted(missing))} must be given") from error
        raise
    _refuse_extras(run)
    return run


def _refuse_extras(config: Any, path: str = "") -> None:
    """The keys that `+key=value` added and no schema has; OmegaConf sets them as attributes."""
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
