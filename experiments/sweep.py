"""The runs that a sweep's overrides expand to, which of them are pending, and what a run starts from."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from core.console import composing, log, sentence
from core.errors import USER_ERRORS, UserError
from core.habits import amend
from experiments.config import RunConfig, from_hydra
from experiments.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
exit_statuses: list[int] = []  # of this command's failed runs


def run_config(cfg: DictConfig) -> RunConfig:
    """The settings in a configuration that still contains Hydra's own part."""
    cfg = cfg.copy()
    with open_dict(cfg):
        hydra_part = cfg.pop("hydra")
    return from_hydra(cfg, hydra_part.runtime.choices.experiment)


def require_launcher(words: Sequence[str]) -> None:
    """Raises a UserError for a launcher of Hydra's or of another package: it would not give each run a folder of its own.

    Args:
        words: of the command line.
    """
    for name in [word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")]:
        Plugins.instance()  # registers launchers
        if (ROOT / "conf/hydra/launcher" / f"{name}.yaml").exists():
            continue
        if f"{name}.yaml" not in ConfigStore.instance().list("hydra/launcher"):
            continue  # Hydra's own sentence lists those that there are
        package = ConfigStore.instance().load(f"hydra/launcher/{name}.yaml").node._target_.split(".")[1]
        if not (ROOT / "hydra_plugins" / f"{package}.py").exists():
            raise UserError(
                f"hydra/launcher={name} does not skip finished runs or name failed ones: "
                "use processes, slurm or local, or add one to hydra_plugins/"
            )


def start_config(run: RunConfig, overrides: Sequence[str]) -> RunConfig | None:
    """The run that `run.start` names: the same command on that task, from the pretrained weights."""
    if run.start is None:
        return None
    kept = [word for word in overrides if word.lstrip("+").partition("=")[0] not in ("task", "start")]
    loader = GlobalHydra.instance().config_loader()
    return run_config(
        loader.load_configuration("config", [*kept, f"task={run.start}", "start=null", "force=false"], RunMode.RUN)
    )


def compose(overrides: Sequence[str]) -> RunConfig:
    """The run that `train.py` would train with these overrides.

    Raises:
        UserError: they do not make a run.
    """
    with composing(), initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return run_config(hydra.compose("config", amend(overrides, ROOT / "conf"), return_hydra_config=True))


def cells(overrides: Sequence[str]) -> list[RunConfig]:
    """Every run that `train.py -m` would train with these overrides; runs that others start from come first."""
    overrides = amend(overrides, ROOT / "conf")
    with composing(), initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)
        grid = [f"{key}={values}" for key, values in (master.hydra.sweeper.params or {}).items()]
        parsed = OverridesParser.create(loader).parse_overrides([*grid, *overrides])
        [jobs] = BasicSweeper.split_arguments(parsed, None)
        pairs = [(run_config(loader.load_sweep_config(master, job)), job) for job in jobs]
        starts = [start for run, job in pairs if (start := start_config(run, job))]
    return list({run.folder: run for run in [*starts, *(run for run, _ in pairs)]}.values())


def pending(config: DictConfig, jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The jobs of a sweep that have something to train; logs which failed before, and each mistake once.

    Args:
        config: the sweep's, with Hydra's own part.
        jobs: each job's overrides.
    """
    left, mistakes = [], defaultdict(list)
    for job in map(list, jobs):
        try:
            with composing():
                run = run_config(GlobalHydra.instance().config_loader().load_sweep_config(config, job))
        except USER_ERRORS as error:
            mistakes[sentence(error)].append(" ".join(job))
            exit_statuses.append(2)
            continue
        if has_work(run, job):
            left.append(job)
    for mistake, where in mistakes.items():
        log.error(f"{where[0]}: {mistake}" + (f" (and in {len(where) - 1} more runs)" if len(where) > 1 else ""))
    return left


def has_work(run: RunConfig, job: list[str]) -> bool:
    """Whether a run has something to train; logs why not if it failed before."""
    word, record = RunFolder.of(run).status()
    if record and word == "failed" and not (run.retry or run.force):
        log.error(f"failed before: {' '.join(job)}: {record['reason']} (retry=true trains it again)")
        exit_statuses.append(1)
        return False
    moved = record is not None and record["config"]["data"]["path"] not in (None, run.data.path)
    return run.force or word != "complete" or moved or run.init_from is not None  # other data or weights: the run looks
