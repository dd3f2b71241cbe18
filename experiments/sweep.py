"""The grid that a sweep's overrides stand for, how far each of its cells is, and what a run starts from."""

from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from core.console import composing, log, sentence
from core.errors import USER_ERRORS
from experiments.config import RunConfig, from_hydra
from experiments.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
exit_statuses: list[int] = []  # of the command line's runs, those that failed


def run_config(cfg: DictConfig) -> RunConfig:
    """The settings within a configuration that still has Hydra's own part."""
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return from_hydra(cfg)


def start_config(run: RunConfig, overrides: Sequence[str]) -> RunConfig | None:
    """The run that `run.start` names: the same command line on that task, itself from the pretrained weights."""
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
        UserError: they are no run's.
    """
    with composing(), initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return from_hydra(hydra.compose("config", list(overrides)))


def cells(overrides: Sequence[str]) -> list[RunConfig]:
    """Every run that `train.py -m` would train with these overrides, those that others start from first."""
    with composing(), initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", list(overrides), RunMode.MULTIRUN)
        grid = [f"{key}={values}" for key, values in (master.hydra.sweeper.params or {}).items()]
        parsed = OverridesParser.create(loader).parse_overrides([*grid, *overrides])
        [jobs] = BasicSweeper.split_arguments(parsed, None)
        pairs = [(run_config(loader.load_sweep_config(master, job)), job) for job in jobs]
        starts = [start for run, job in pairs if (start := start_config(run, job))]
    return list({run.folder: run for run in [*starts, *(run for run, _ in pairs)]}.values())


def is_pending(config: DictConfig, job: Sequence[str]) -> bool:
    """Whether a job of a sweep has something to train; says what failed before, or cannot be.

    Args:
        config: the sweep's, with Hydra's own part.
        job: its overrides.
    """
    try:
        with composing():
            run = run_config(GlobalHydra.instance().config_loader().load_sweep_config(config, list(job)))
    except USER_ERRORS as error:
        log.error(f"{' '.join(job)}: {sentence(error)}")
        exit_statuses.append(2)
        return False
    word, record = RunFolder.of(run).status()
    if record and word == "failed" and not (run.retry or run.force):
        log.error(f"failed before: {' '.join(job)}: {record['reason']} (retry=true trains it again)")
        exit_statuses.append(1)
        return False
    moved = record is not None and record["config"]["data"]["path"] not in (None, run.data.path)
    return run.force or word != "complete" or moved or run.init_from is not None  # other data or weights: the run looks
