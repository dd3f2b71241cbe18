"""Fetches backbones and GLUE tasks at their pinned revisions, for machines that will have no network.

    python scripts/download.py                                  roberta-base and all nine tasks
    python scripts/download.py --backbones roberta-large --tasks cola mrpc

Both land in the Hugging Face cache (HF_HOME moves it), from which `train.py` then runs without asking anybody.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from omegaconf import OmegaConf  # noqa: E402

from core.errors import USER_ERRORS, UserError, complain, sentence, unknown  # noqa: E402
from models.backbone import find  # noqa: E402
from models.settings import BackboneConfig  # noqa: E402
from tasks.glue import GLUE  # noqa: E402
from tasks.loading import hub_folder  # noqa: E402
from tasks.settings import DataConfig  # noqa: E402

YAMLS = {path.stem: OmegaConf.load(path) for path in sorted((ROOT / "conf/backbone").glob("*.yaml"))}
BACKBONES = [name for name, yaml in YAMLS.items() if yaml.get("source")]


def backbone(name: str) -> BackboneConfig:
    """The settings of `conf/backbone/NAME.yaml`."""
    if name not in BACKBONES:
        raise UserError(unknown("backbone", name, BACKBONES))
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BackboneConfig), YAMLS[name]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="*", default=["roberta-base"], metavar="NAME", help=", ".join(BACKBONES))
    parser.add_argument("--tasks", nargs="*", default=list(GLUE), metavar="NAME", help=", ".join(GLUE))
    wanted = parser.parse_args()
    try:
        if strange := [name for name in wanted.tasks if name not in GLUE]:
            raise UserError(unknown("task", strange[0], GLUE))
        for config in [backbone(name) for name in wanted.backbones]:
            print(f"{config.name}: {find(config)}", flush=True)
        for name in wanted.tasks:
            print(f"{name}: {hub_folder(GLUE[name], DataConfig(name='hub'))}", flush=True)
    except USER_ERRORS as error:
        complain(f"error: {sentence(error)}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
