"""Requests to many LoRA adapters beside one backbone, served in four ways: `python scripts/serve_bench.py [overrides]`.

    python scripts/serve_bench.py                                                 # MiniLM, on short and on long texts
    python scripts/serve_bench.py backbone=roberta-base backbone.random_init=true # no download
    python scripts/serve_bench.py data=local data.path=DIR task=cola method.target_modules=. batch=8

Overrides are those of `train.py`, over `conf/experiment/serving.yaml`. Backbone, task and data give the requests; the method
gives the adapted layers. Adapters have random weights, ranks of 4, 8 and 16, and heads of one to three outputs. For each
number in `adapters=1,10,100,1000,2000` there are `rounds=20` batches of `batch=32` requests to random adapters. Each batch is
served in four ways, in turns: mixed in one pass, one adapter at a time, one at a time merged into the weights, and by the
backbone alone. At most `budget=4000` MB of adapters are on the device.

Writes a record to `records/serving/`, and the table `serving` to `into=runs/measured` (with `into=paper_tables`,
`make_tables.py` writes it, too); `make_figures.py` draws it.
"""

import sys
from pathlib import Path

from analysis.serving import FOLDER, table
from benchmarks.serving import measure
from core.io import write_json
from experiments.config import file_name
from experiments.sweep import cells
from scripts.cli import command, parse, whole

OWN = {
    **{"adapters": "1,10,100,1000,2000", "batch": "32", "rounds": "20", "budget": "4000"},
    "into": "runs/measured",
}


@command
def main(words: list[str]) -> None:
    own, overrides = parse(words, OWN)
    counts = sorted({whole("adapters", part) for part in own["adapters"].split(",")})
    batch, rounds, budget = (whole(key, own[key]) for key in ("batch", "rounds", "budget"))
    records = Path(own["into"]) / "records" / FOLDER.name
    runs = cells(["experiment=serving", *overrides])
    records.mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {run.backbone.name} on {run.task.name}", flush=True)
        record = measure(run, counts, batch, rounds, budget * 10**6)
        device = record["provenance"]["hardware"]["device"]
        parts = (run.backbone.name, run.task.name, f"batch{batch}", device, record["config_hash"][:8])
        path = records / f"{'-'.join(map(file_name, parts))}.json"
        write_json(path, record)
        print(f"record: {path}", flush=True)
    print(*table(records).write(Path(own["into"])), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
