"""Time of a forward pass with each method, as in LoRA's table 1: `python scripts/latency.py [overrides]`.

    python scripts/latency.py backbone=minilm                                       # on a CPU
    python scripts/latency.py backbone=roberta-base batches=1,16,32 lengths=128,256,512   # on a GPU

The variants are the plain model, LoRA merged into it, LoRA, DoRA and VeRA unmerged, and Houlsby, Lin and Pfeiffer adapters.
In each of `repeats=20` turns every variant does one pass over the same inputs, for each of `batches=1,8,32` and of
`lengths=16,64,128` (tokens). The backbone is its architecture with random weights, so nothing is downloaded. Precision,
device and threads are the trainer's (overrides as for `train.py`); methods have their own defaults.

Writes a record to `records/latency/`, and the table `latency` to `into=runs/measured` (with `into=paper_tables`,
`make_tables.py` writes it, too). Run nothing else on the machine meanwhile: processes share its caches and disturb each
other's times.
"""

import sys
from pathlib import Path

from analysis.latency import FOLDER, table, verdict
from analysis.records import describe_hardware
from benchmarks.latency import record
from core.errors import UserError
from core.io import write_json
from experiments.config import RunConfig, file_name
from experiments.sweep import compose
from scripts.cli import command, parse, whole

OWN = {"batches": "1,8,32", "lengths": "16,64,128", "repeats": "20", "into": "runs/measured"}


def settings(words: list[str]) -> RunConfig:
    """The settings that the overrides give.

    Raises:
        UserError: an override is one of the method's, which is measured at its defaults.
    """
    if odd := [word for word in words if word.partition("=")[0].partition(".")[0] == "method"]:
        raise UserError(f"{odd[0]}: every method is measured, at its own defaults; leave it out")
    return compose(words)


@command
def main(words: list[str]) -> None:
    own, overrides = parse(words, OWN)
    batches, lengths = ([whole(key, word) for word in own[key].split(",")] for key in ("batches", "lengths"))
    repeats = whole("repeats", own["repeats"])
    run = settings(overrides)
    records = Path(own["into"]) / "records" / FOLDER.name
    records.mkdir(parents=True, exist_ok=True)
    measured = record(run, batches, lengths, repeats)
    own_machine = measured["provenance"]["hardware"]
    parts = (run.backbone.name, describe_hardware(own_machine), own_machine["precision"])
    path = records / f"{'-'.join(map(file_name, parts))}.json"
    write_json(path, measured)
    holds, figures = verdict(measured)
    word = {True: "holds", False: "fails", None: "undecided"}[holds]
    print(f"adapters add latency where merged LoRA adds none: {word}; {figures}")
    print(f"record: {path}", *table(records).write(Path(own["into"])), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
