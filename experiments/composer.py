"""The settings of a command line, as Hydra composes them."""

import copy
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, open_dict

from experiments.config import RunConfig, from_hydra, named_by


def run_config(cfg: DictConfig) -> RunConfig:
    """The settings in a configuration that still contains Hydra's own part."""
    cfg = cfg.copy()
    with open_dict(cfg):
        hydra_part = cfg.pop("hydra")
    return from_hydra(named_by(cfg, hydra_part.runtime.choices.experiment))


class Files(ConfigRepository):
    """Hydra's repository of YAML files, which reads each once; Hydra itself reads all of them again for each job.

    A pickled job carries these files: it trains what its sweep asked for, even if files change while it waits.
    """

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        self.read: dict[str, ConfigResult | None] = {}
        super().initialize_sources(config_search_path)

    def __deepcopy__(self, memo: Any) -> "Files":
        """Shares what is read: Hydra copies it for each job. A copy with another search path reads its own files."""
        return copy.copy(self)

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self.read:
            self.read[config_path] = super().load_config(config_path)
        return copy.deepcopy(self.read[config_path])


class Composer:
    """Composes a sweep's jobs. Hydra takes a tenth of a second for each; what cells share is read and composed once."""

    def __init__(self, loader: Any, master: DictConfig):
        """
        Args:
            loader: Hydra's.
            master: the sweep's configuration, with Hydra's own part.
        """
        self.loader, self.master = loader, master
        loader.repository = Files(loader.get_search_path())
        self.bases: dict[tuple[str, ...], DictConfig] = {}  # by the words that choose files
        self.parsed: dict[str, Override] = {}

    def run(self, job: Sequence[str]) -> RunConfig:
        """The settings of a job. Composes the words that choose files, then applies those that change values."""
        parsed = [self.parse(word) for word in job]
        changes = [override for override in parsed if self.is_change(override)]
        rest = tuple(word for word, override in zip(job, parsed, strict=True) if override not in changes)
        if rest not in self.bases:
            base = self.loader.load_sweep_config(self.master, list(rest))
            with open_dict(base):
                choice = base.pop("hydra").runtime.choices.experiment
            self.bases[rest] = named_by(base, choice)
        cfg = self.bases[rest].copy()
        self.loader._apply_overrides_to_config(changes, cfg)
        return from_hydra(cfg)

    def parse(self, word: str) -> Override:
        """A parsed word; each is parsed once for all jobs."""
        if word not in self.parsed:
            [self.parsed[word]] = OverridesParser.create(self.loader).parse_overrides([word])
        return self.parsed[word]

    def is_change(self, word: Override) -> bool:
        """Whether it sets a value that the configuration has, and chooses no file."""
        plain = not (word.is_add() or word.is_force_add() or word.is_delete() or word.is_hydra_override())
        return plain and not self.loader.repository.group_exists(word.key_or_group)
