"""`hydra/sweeper=cells`, the default for `-m`: Hydra's grid; `experiments.sweep.pending` names the cells with a mistake."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from core.errors import UserError
from core.io import require_writable
from experiments.config import named_by
from experiments.sweep import grid


@dataclass
class CellSweeperConfig(BasicSweeperConf):
    """`hydra/sweeper=cells`: settings as for Hydra's own."""

    _target_: str = "hydra_plugins.cell_sweeper.CellSweeper"


class CellSweeper(BasicSweeper):
    """Reads `params` as status.py does, and leaves out Hydra's check, which ends a sweep and does not name the cell."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        named_by(config, config.hydra.runtime.choices.experiment)  # whose folder gets multirun.yaml
        folder = Path(config.hydra.sweep.dir)
        require_writable(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}") from error
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def _parse_config(self) -> list[str]:
        return grid(self.params)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: the launcher checks."""


ConfigStore.instance().store(group="hydra/sweeper", name="cells", node=CellSweeperConfig)
