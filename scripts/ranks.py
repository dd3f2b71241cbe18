"""A finished DyLoRA run at every rank from 1 to its own: `python scripts/ranks.py run=runs/default/RUN`

Evaluates the run's best state, without training, on the validation set and on what `data.holdout` kept from training, and
writes the metrics to `ranks.json` in the run's folder. The best state is the best at `method.eval_rank`.

into=paper_tables/records/ranks   writes them there too, as RUN.json: `make_figures.py` draws them beside LoRA's runs
data.path=DIR, backbone.source=DIR, backbone.tokenizer=DIR   the folders of the data and of the backbone, if they moved
"""

import sys
from pathlib import Path

from core.errors import UserError
from scripts.cli import command, parse

OPTIONS = {"run": None, "into": None, "data.path": None, "backbone.source": None, "backbone.tokenizer": None}


@command
def main(words: list[str]) -> None:
    options, rest = parse(words, OPTIONS, required=("run",))
    if rest:
        raise UserError(f"'{rest[0]}' is not an option; there are: {', '.join(OPTIONS)}")
    from experiments.ranks import FILE, by_rank, write  # seconds to import: a mistake should not wait for it
    from experiments.record import RECORD
    from experiments.restore import restore

    run = Path(options["run"].removesuffix(RECORD))
    restored = restore(run, options["data.path"], options["backbone.source"], options["backbone.tokenizer"])
    entries = by_rank(restored)
    names = [name for name in restored.run.task.row.metrics if name in entries[0]]
    for entry in entries:
        print(f"rank {entry['rank']}: " + ", ".join(f"{name} {entry[name]:.4f}" for name in names), flush=True)
    for file in [run / FILE, *([Path(options["into"]) / f"{run.name}.json"] if options["into"] else [])]:
        print(f"written: {write(file, restored, entries)}")


if __name__ == "__main__":
    sys.exit(main())
