"""Downloads backbones and GLUE tasks at their pinned revisions, for machines without a network.

    python scripts/download.py                                  roberta-base and all nine tasks
    python scripts/download.py --backbones roberta-large --tasks cola mrpc

Both go into the Hugging Face cache (HF_HOME moves it); `train.py` then needs no network.
"""

import argparse
import sys
from pathlib import Path

from omegaconf import OmegaConf

from core.errors import UserError, unknown
from models.backbone import find
from models.settings import BackboneConfig
from scripts.cli import command
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="*", default=["roberta-base"], metavar="NAME", help=", ".join(BACKBONES))
    parser.add_argument("--tasks", nargs="*", default=list(GLUE), metavar="NAME", help=", ".join(GLUE))
    wanted = parser.parse_args(words)
    if strange := [name for name in wanted.tasks if name not in GLUE]:
        raise UserError(unknown("task", strange[0], GLUE))
    for config in [backbone(name) for name in wanted.backbones]:
        print(f"{config.name}: {find(config)}", flush=True)
    for name in wanted.tasks:
        print(f"{name}: {hub_folder(GLUE[name], DataConfig(name='hub'))}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
