"""Figures of your own runs, or of the repository's records: `python scripts/make_figures.py [runs/NAME ...] [into=DIR]`.

With folders: curves, trade-offs and learning rates for each backbone and task, as PNG and PDF into `into` (by default
`figures/` in the first folder). Without: all figures that `paper_tables/records/` has runs for, into `paper_tables/figures/`.

`take_over=true` is for runs of `experiment=subspace`: it compares their adapters, which records lack, and keeps the
result among the records, for the figure `subspace`.
"""

import os
import sys
from pathlib import Path

from analysis import own_study
from analysis.drawing import write_figures
from analysis.figures import all_figures
from analysis.records import ROOT, load, read_runs
from analysis.subspace import read_similarity, write_similarity
from core.checks import one_of
from core.errors import UserError
from scripts.cli import command, new_folder, parse


@command
def main(words: list[str]) -> None:
    options, folders = parse(words, {"into": None, "take_over": "false"}, rest_are="paths")
    one_of("true", "false")("take_over", options["take_over"])
    if options["into"]:
        new_folder("into", options["into"])
    paths = [Path(folder) for folder in folders]
    if options["take_over"] == "true":
        if len(paths) != 1:
            raise UserError("take_over=true takes one folder, that of experiment=subspace")
        print(write_similarity(paths[0]).relative_to(ROOT))
    elif paths:
        runs = read_runs(paths)
        for path in write_figures(lambda: own_study.figures(runs), Path(options["into"] or paths[0] / "figures")):
            print(path)
        return
    records, into = load(), Path(options["into"] or ROOT / "paper_tables" / "figures")
    for path in write_figures(lambda: all_figures(records, read_similarity()), into):
        print(os.path.relpath(path))


if __name__ == "__main__":
    sys.exit(main())
