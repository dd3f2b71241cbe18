"""Tables of your own runs, or of the repository's records: `python scripts/make_tables.py [runs/NAME ...] [into=DIR]`.

With folders: statistics over seeds, speed and memory, as Markdown, CSV and LaTeX into `into` (by default `tables/` in the
first folder). Without: every table and `claims.md` into `paper_tables/`, from `paper_tables/records/` and the published
numbers in `paper_tables/reported/`, and the headline table into the README.

`take_over=true` first copies the folders' ended runs to `paper_tables/records/`: all of them or, if no tables can be made of
the result, none.
"""

import os
import sys
from pathlib import Path

import pandas as pd

from analysis import own_study, study
from analysis.claims import markdown, write_claims
from analysis.records import ROOT, collect, load, read_runs
from analysis.render import write_tables
from analysis.tables import all_tables, index
from core.checks import one_of
from core.errors import UserError
from scripts.cli import command, new_folder, parse


def check(runs: pd.DataFrame) -> None:
    """Raises a UserError if the repository's tables cannot be made of these runs."""
    all_tables(runs)
    markdown(runs)


@command
def main(words: list[str]) -> None:
    options, folders = parse(words, {"into": None, "take_over": "false"}, rest_are="paths")
    one_of("true", "false")("take_over", options["take_over"])
    if options["into"]:
        new_folder("into", options["into"])
    paths = [Path(folder) for folder in folders]
    if paths and options["take_over"] == "false":
        for path in write_tables(own_study.tables(read_runs(paths)), Path(options["into"] or paths[0] / "tables")):
            print(path)
        return
    taken = {folder: len(collect(folder, check=check)) for folder in paths}
    for folder, count in taken.items():
        print(f"{count} runs taken over from {folder}")
    if paths and not any(taken.values()):
        raise UserError("no run was taken over: the tables stay as they are")
    runs, into = load(), Path(options["into"] or ROOT / "paper_tables")
    tables = all_tables(runs)
    written = [*write_tables(tables, into), write_claims(runs, into), index(tables).write_markdown(into)]
    if options["into"] is None:
        written.append(study.table(runs).insert(ROOT / "README.md"))
    for path in written:
        print(os.path.relpath(path))


if __name__ == "__main__":
    sys.exit(main())
