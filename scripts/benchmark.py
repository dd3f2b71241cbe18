"""Our training step against peft's under transformers.Trainer, side by side: `python scripts/benchmark.py [overrides]`.

    python scripts/benchmark.py backbone=minilm data=local data.path=DIR              # on a CPU, MiniLM on real text
    # on a GPU, at true lengths: no weights are downloaded, only FOLDER has the tokenizer
    python scripts/benchmark.py backbone=roberta-base backbone.random_init=true backbone.tokenizer=FOLDER \\
        data=local data.path=DIR

For each cell of `conf/experiment/benchmark.yaml` (methods by tasks; overrides as for `train.py -m`) five sides load the same
model, method, data and settings, each in its own process. They train in turns: `rounds=6` turns of `steps=4` steps, over the
same rounds x steps x trainer.batch_size examples, once. So other load on the machine disturbs all of them alike.
`maximum=false` leaves out the side that pads to the maximum, which takes most of the time.

Writes a record for each cell to `records/benchmark/`, and the table `speed` to `into=runs/measured` (with
`into=paper_tables`, `make_tables.py` writes it, too), and prints where a method is not faster or not smaller. Five copies
of a model take memory: 15 GB for MiniLM on MRPC, most of it for the copy that pads to the maximum.
"""

import sys
from pathlib import Path
from typing import Any

from analysis.speed import FOLDER, LONGEST, MAXIMUM, OURS, RANDOM, THEIRS, bytes_held, ratio, table
from benchmarks.speed import measure
from core.checks import one_of
from core.io import write_json
from experiments.config import file_name
from experiments.sweep import cells, require_folders
from scripts.cli import command, parse, whole

OWN = {"rounds": "6", "steps": "4", "maximum": "true", "into": "runs/measured"}


def verdicts(record: dict[str, Any]) -> list[str]:
    """The result in words; in capitals where we are behind."""
    cell, sides, lines = f"{record['method']} on {record['task']}", record["sides"], []
    for side in filter(sides.__contains__, THEIRS.values()):
        speed = ratio(record, OURS, side)
        lines.append(f"{cell}: {speed:.2f} times the samples/s of {side}" + (", NOT FASTER" if speed <= 1 else ""))
    for what, size in (("bytes held for backward", bytes_held), ("peak memory", lambda side: side["peak_bytes"])):
        share = size(sides[OURS]) / size(sides[LONGEST])
        lines.append(f"{cell}: {share:.2f} of the {what} of {LONGEST}" + (", NOT SMALLER" if share >= 1 else ""))
    return lines


@command
def main(words: list[str]) -> None:
    own, overrides = parse(words, OWN)
    rounds, steps = (whole(key, own[key]) for key in ("rounds", "steps"))
    one_of("true", "false")("maximum", own["maximum"])
    names = [side for side in (OURS, RANDOM, *THEIRS.values()) if side != MAXIMUM or own["maximum"] == "true"]
    records = Path(own["into"]) / "records" / FOLDER.name
    runs = cells(["experiment=benchmark", *overrides])
    for run in runs:
        require_folders(run)
    records.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {run.method.name} on {run.task.name}", flush=True)
        record = measure(run, rounds, steps, names)
        device = record["provenance"]["hardware"]["device"]
        parts = (run.backbone.name, run.task.name, run.method.name, device, record["config_hash"][:8])
        path = records / f"{'-'.join(map(file_name, parts))}.json"
        write_json(path, record)
        print("\n".join(verdicts(record)), f"record: {path}", sep="\n", flush=True)
    print(*table(records).write(Path(own["into"])), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
