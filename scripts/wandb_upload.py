"""Sends finished runs to W&B from their records: `python scripts/wandb_upload.py runs/NAME [more folders or record files]`.

For runs trained with logger=none or csv, and for records of other machines, as in paper_tables/records/minilm. Each becomes
one W&B run with its settings, its evaluations and its summary; sent again, it stays one. Runs that logged offline have more
points in files of their own: they are left out, and the command that uploads those is printed.

Options: project=peft-glue, entity=NAME; mode=offline sends nothing and writes files for `wandb sync` into dir=wandb_upload.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from analysis.records import records_below
from core.checks import one_of
from core.console import counted, log
from core.errors import UserError
from experiments.run_folder import RECORD
from scripts.cli import command, parse
from tasks.settings import HELD_OUT
from training.tracking import sync_command, upload_line
from training.wandb_tracker import SETTINGS, about, begin, ended_service, has_key, quiet_wandb, summary

NOT_CURVES = ("step", "epoch", "train_loss", "collapsed", HELD_OUT)


def upload(record: dict[str, Any], name: str, mode: Any, options: dict[str, Any]) -> None:
    """Makes a W&B run of a record.

    Args:
        name: of the run's folder.
        mode: online or offline.
        options: for `wandb.init`: project, entity, dir.
    """
    wandb = quiet_wandb()
    given = about(record, name) | options | {"id": record["config_hash"], "settings": wandb.Settings(**SETTINGS)}
    run = begin(mode, given)
    for entry in record["history"]:
        curves = {"train/loss": entry["train_loss"], "train/epoch": entry["epoch"]}
        curves |= {f"eval/{name}": value for name, value in entry.items() if name not in NOT_CURVES}
        curves |= {f"held_out/{name}": value for name, value in entry.get(HELD_OUT, {}).items()}
        run.log(curves, step=entry["step"])
    run.summary.update(summary(record))
    run.finish(exit_code=0 if record["status"] == "complete" else 1)


@command
def main(words: list[str]) -> None:
    defaults = {"project": "peft-glue", "entity": None, "mode": "online", "dir": "wandb_upload"}
    options, paths = parse(words, defaults, rest_are="paths")
    mode = options.pop("mode")
    one_of("online", "offline")("mode", mode)
    if not paths:
        raise UserError("give folders of runs, as in runs/default, or records (.json)")
    found = records_below(map(Path, paths))
    if mode == "online" and not has_key():
        raise UserError("there is no W&B key: run `wandb login` first, or write files for later with mode=offline")
    own = {place.parent for place in found if place.name == RECORD and list(place.parent.glob("wandb/*run-*"))}
    kept = {place: record for place, record in found.items() if place.parent not in own}
    with tempfile.TemporaryDirectory() as scratch, ended_service():
        place = {"dir": options["dir"] if mode == "offline" else scratch}
        Path(place["dir"]).mkdir(parents=True, exist_ok=True)
        for number, (file, record) in enumerate(kept.items(), 1):
            name = file.parent.name if file.name == RECORD else file.stem
            upload(record, name, mode, options | place)
            print(f"[{number}/{len(kept)}] {name}", flush=True)
    if mode == "offline" and kept:
        print(f"to upload: {sync_command(Path(place['dir']))}")
    if own:
        log.info(f"{counted(len(own), 'run')} with curves of W&B's own: left out")
    for line in filter(None, map(upload_line, sorted({run.parent for run in own}))):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
