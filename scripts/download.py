"""Downloads backbones and GLUE tasks at their pinned revisions, for machines without a network.

    python scripts/download.py                                            roberta-base and all nine tasks
    python scripts/download.py backbones=roberta-large tasks=cola,mrpc    names, separated by commas

Both go into the Hugging Face cache (HF_HOME moves it); `train.py` then needs no network.
"""

import sys
from pathlib import Path

from omegaconf import OmegaConf

from core.errors import UserError, unknown
from models.backbone import find
from models.settings import BackboneConfig
from scripts.cli import command, parse
from tasks.glue import GLUE
from tasks.loading import hub_folder
from tasks.settings import DataConfig

ROOT = Path(__file__).parent.parent
YAMLS = {path.stem: OmegaConf.load(path) for path in sorted((ROOT / "conf/backbone").glob("*.yaml"))}
BACKBONES = [name for name, yaml in YAMLS.items() if yaml.get("source")]


def backbone(name: str) -> BackboneConfig:
    """The settings of `conf/backbone/NAME.yaml`."""
    if name not in BACKBONES:
        raise UserError(unknown("backbone", name, BACKBONES))
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BackboneConfig), YAMLS[name]))


@command
def main(words: list[str]) -> None:
    defaults = {"backbones": "roberta-base", "tasks": ",".join(GLUE)}
    backbones, tasks = (value.split(",") for value in parse(words, defaults, rest_are="none")[0].values())
    if strange := [name for name in tasks if name not in GLUE]:
        raise UserError(unknown("task", strange[0], GLUE))
    for config in [backbone(name) for name in backbones]:
        print(f"{config.name}: {find(config)}", flush=True)
    for name in tasks:
        print(f"{name}: {hub_folder(GLUE[name], DataConfig(name='hub'))}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
