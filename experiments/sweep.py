"""The runs that a sweep's overrides expand to, which of them are pending, and what a run starts from."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig

from core.console import counted, log, say
from core.errors import USER_ERRORS, UserError, no_folder
from core.habits import amend, for_each_cell
from core.io import require_writable
from core.mistakes import composing, sentence
from experiments.composer import Composer, run_config
from experiments.config import RunConfig
from experiments.run_folder import RunFolder
from tasks.glue import Task
from tasks.settings import HELD_OUT, DataConfig

ROOT = Path(__file__).parent.parent
exit_statuses: list[int] = []  # of this command's failed runs


FLAGS = ("config_path", "config_name", "config_dir")  # Hydra's, which choose the configuration to override
EXPECTED = "PEFT_GLUE_EXPECTED_HASH"  # of the run that a sweep starts in a process of its own


def flags(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The flags of a command line that choose the configuration, `{"config_name": "mine"}`, and its other words."""
    chosen = vars(get_args_parser().parse_known_args(list(words))[0])
    return {name: chosen[name] for name in FLAGS if chosen[name]}, chosen["overrides"]


def require_expected(run: RunConfig) -> None:
    """Raises a UserError if a sweep expects other settings of this process than it has composed."""
    if (expected := os.environ.get(EXPECTED, run.hash)) != run.hash:
        raise UserError(
            f"the sweep expects a run with hash {expected}, this process composes {run.hash}: files have changed"
        )


def require_sweep(words: Sequence[str]) -> None:
    """Raises a UserError for several experiments at once, whose grids would be lost, or for a launcher that does not suit.

    A launcher of Hydra's or of another package would not give each run a folder of its own.

    Args:
        words: of the command line.
    """
    experiments = [word for word in words if word.startswith("experiment=")]
    if len(experiments) > 1 or any(
        re.search(r"[,(]", word) for word in experiments
    ):  # a list, or glob(...), choice(...)
        raise UserError(
            f"{' '.join(experiments)}: a command trains the grid of one experiment; give one command for each"
        )
    for name in [word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")]:
        Plugins.instance()  # registers launchers
        if (ROOT / "conf/hydra/launcher" / f"{name}.yaml").exists():
            continue
        if f"{name}.yaml" not in ConfigStore.instance().list("hydra/launcher"):
            continue  # Hydra's own sentence lists the launchers
        package = ConfigStore.instance().load(f"hydra/launcher/{name}.yaml").node._target_.split(".")[1]
        if not (ROOT / "hydra_plugins" / f"{package}.py").exists():
            raise UserError(
                f"hydra/launcher={name} does not skip finished runs or name failed ones: "
                "use processes, slurm or local, or add one to hydra_plugins/"
            )


def warn_of_grid(config: Any) -> None:
    """Warns where a command trains one run of an experiment's grid and does not say which one.

    Args:
        config: the `hydra` part of the run's configuration.
    """
    given = {word.lstrip("+").partition("=")[0] for word in config.overrides.task}
    left = [key for key in config.sweeper.get("params") or {} if key not in given]
    if left and config.mode == RunMode.RUN:
        log.warning(
            f"experiment={config.runtime.choices['experiment']} is a grid; this trains one run of it: "
            f"add -m for all, or choose {', '.join(left)}"
        )


def start_words(run: RunConfig, overrides: Sequence[str]) -> list[str] | None:
    """The overrides of the run that `run.start` names: the same command on that task, from the pretrained weights."""
    if run.start is None:
        return None
    kept = [word for word in overrides if word.lstrip("+").partition("=")[0] not in ("task", "start")]
    return [*kept, f"task={run.start}", "start=null", "force=false"]


def start_config(run: RunConfig, overrides: Sequence[str], name: str = "config") -> RunConfig | None:
    """The run that `run.start` names.

    Args:
        overrides: the run's own.
        name: of the configuration that they are over.
    """
    if (words := start_words(run, overrides)) is None:
        return None
    return run_config(GlobalHydra.instance().config_loader().load_configuration(name, words, RunMode.RUN))


def compose(overrides: Sequence[str]) -> RunConfig:
    """The run that `train.py` would train with these overrides.

    Raises:
        UserError: they do not make a run.
    """
    with composing(), initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return run_config(hydra.compose("config", amend(overrides, ROOT / "conf"), return_hydra_config=True))


@cache
def composer() -> Composer:
    """Composes many command lines, as a sweep does its jobs, but without `amend`."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


def grid(params: Mapping[str, Any] | None) -> list[str]:
    """The overrides that `hydra.sweeper.params` gives.

    Raises:
        UserError: values are a YAML list, which would be one value.
    """
    for key, values in (params or {}).items():
        if isinstance(values, list | ListConfig):
            raise UserError(f"hydra.sweeper.params: {key} is a list: write {key}: {','.join(map(str, values))}")
    return [f"{key}={values}" for key, values in (params or {}).items()]


def cells(overrides: Sequence[str]) -> list[RunConfig]:
    """Every run that `train.py -m` would train with these overrides; runs that others start from come first."""
    require_sweep(overrides)
    chosen, overrides = flags(overrides)
    overrides = for_each_cell(amend(overrides, ROOT / "conf"))
    folder, name = Path(chosen.get("config_path", ROOT / "conf")), chosen.get("config_name", "config")
    with composing(), initialize_config_dir(str((ROOT / folder).resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        if more := chosen.get("config_dir"):
            place = f"file://{Path(more).resolve()}"
            loader.get_search_path().prepend("command-line", place, SearchPathQuery(provider="schema"))
            loader.repository = ConfigRepository(loader.get_search_path())  # type: ignore[attr-defined]  # has read it
        master = loader.load_configuration(name, list(overrides), RunMode.MULTIRUN)
        parsed = OverridesParser.create(loader).parse_overrides([*grid(master.hydra.sweeper.params), *overrides])
        [jobs] = BasicSweeper.split_arguments(parsed, None)
        composer = Composer(loader, master)
        pairs = [(cell(composer, job), job) for job in jobs]
        starts = [composer.run(words) for run, job in pairs if (words := start_words(run, job))]
    return list({run.folder: run for run in [*starts, *(run for run, _ in pairs)]}.values())


def cell(composer: Composer, job: list[str]) -> RunConfig:
    """One run of a sweep.

    Raises:
        UserError: its overrides do not make a run; the sentence begins with them.
    """
    try:
        with composing():
            return composer.run(job)
    except USER_ERRORS as error:
        raise UserError(f"{' '.join(job)}: {sentence(error)}") from error


def pending(config: DictConfig, jobs: Sequence[Sequence[str]], is_here: bool = True) -> list[list[str]]:
    """The jobs of a sweep that have something to train. Says how many, which failed before, and each mistake once.

    Args:
        config: the sweep's, with Hydra's own part.
        jobs: each job's overrides.
        is_here: the jobs run on this machine, which must have the folders that they read.

    Raises:
        UserError: each job would have its own working folder, which lacks the folders in its settings.
    """
    if config.hydra.job.chdir:
        raise UserError("hydra.job.chdir=true: settings name folders from where the command is given; leave it out")
    left, committed, mistakes = [], 0, defaultdict(list)
    composer = Composer(GlobalHydra.instance().config_loader(), config)
    for job in map(list, jobs):
        try:
            with composing():
                run = composer.run(job)
            if has_work(run, job):
                if is_here:
                    require_folders(run)
                left.append(job)
            elif RunFolder.of(run).committed_record():
                committed += 1
        except USER_ERRORS as error:
            mistakes[sentence(error)].append(" ".join(job))
            exit_statuses.append(2)
    if committed:
        log.info(f"{counted(committed, 'run')} with a record in paper_tables/records (reuse_records=false trains here)")
    for mistake, where in mistakes.items():
        log.error(
            f"{where[0]}: {mistake}" + (f" (and in {counted(len(where) - 1, 'more run')})" if len(where) > 1 else "")
        )
    refused = sum(map(len, mistakes.values()))
    say(f"sweep: {counted(len(jobs), 'run')}, {len(left)} of them to train" + f", {refused} refused" * (refused > 0))
    return left


def returns(config: DictConfig, jobs: Sequence[Sequence[str]]) -> list[JobReturn]:
    """What a launcher returns: for a sweeper that searches, such as optuna's, with each run's score.

    The score is the main metric at the chosen epoch, on held-out data if there are any; None without a record.
    """
    words = [list(job) for job in jobs]
    if config.hydra.sweeper._target_.endswith(".CellSweeper"):  # a grid needs no scores
        return [JobReturn(overrides=job, status=JobStatus.COMPLETED) for job in words]
    composer = Composer(GlobalHydra.instance().config_loader(), config)
    records = [RunFolder.of(composer.run(job)).status()[1] for job in words]
    return [
        JobReturn(overrides=job, status=JobStatus.COMPLETED, _return_value=record and score(record))
        for job, record in zip(words, records, strict=True)
    ]


def score(record: dict[str, Any]) -> float | None:
    """The main metric at the chosen epoch, on held-out data if there are any; None for a run that is not complete."""
    if record["status"] != "complete":
        return None
    chosen = record["selected"] or record["best"]
    return chosen.get(HELD_OUT, chosen)[record["metric"]]


def require_folders(run: RunConfig) -> None:
    """Raises a UserError if the run's folder cannot be written, or one that it reads is not there, or has no such task.

    What is in them the run checks itself.
    """
    require_writable(run.folder)
    run.data.require_folder()
    if run.data.name == "local":
        require_splits(run.task.row, run.data.path or "")
    if run.init_from and not Path(run.init_from).is_dir() and (run.force or not RunFolder.of(run).start()):
        raise UserError(f"init_from: {no_folder(Path(run.init_from))}")


@cache
def require_splits(task: Task, folder: str) -> None:
    """Raises a UserError if the folder does not have the task's files: told once, before any run begins."""
    from tasks.loading import layout_name  # seconds to import

    layout_name(task, DataConfig(name="local", path=folder))


def has_work(run: RunConfig, job: list[str]) -> bool:
    """Whether a run has something to train; logs why not if it failed before."""
    word, record = RunFolder.of(run).status()
    if record and word == "failed" and not (run.retry or run.force):
        log.error(f"failed before: {' '.join(job)}: {record['reason']} (retry=true trains it again)")
        exit_statuses.append(1)
        return False
    moved = record is not None and record["config"]["data"]["path"] not in (None, run.data.path)
    return run.force or word != "complete" or moved or run.init_from is not None  # other data or weights: the run looks
