"""A page to look at the results in a browser: `python scripts/make_page.py [runs/NAME ...] [into=page]`.

Writes a folder that opens from disk without a network (`into/index.html`) and can be published as it is. It shows the
repository's committed records and, with folders, their runs too: methods by tasks, trade-offs, learning rates, training
curves, rank and layers, memory, paired differences, claims, published tables, and each run with the command that repeats it.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis import study
from analysis.page import Records, page_data, write_page
from analysis.records import RECORDS, ended, frame, on_glue, read_all
from analysis.tables import all_tables
from core.console import counted, log
from core.errors import UserError, no_folder
from experiments.record import RECORD
from scripts.cli import command, new_folder, parse


def keyed(files: Iterable[tuple[Path, dict[str, Any]]]) -> Records:
    return {(record["experiment"], record["config_hash"]): (file, record) for file, record in files}


@command
def main(words: list[str]) -> None:
    options, folders = parse(words, {"into": "page"}, rest_are="paths")
    into = new_folder("into", options["into"] or "")
    found, experiments = keyed(read_all(RECORDS)), []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"{no_folder(folder)}; give a folder of runs, as in runs/default")
        own = keyed(ended(sorted(folder.rglob(RECORD)))) or keyed(read_all(folder))
        found |= own
        experiments += [experiment for experiment, _ in own]
    runs = frame(record for _, record in found.values())
    log.info(f"the page of {counted(len(runs), 'run')}: half a minute, more on a busy machine")
    shown = [table for table in all_tables(on_glue(runs)) if not table.name.endswith("_statistics")]
    first = next(iter(experiments), study.EXPERIMENT)
    print(write_page(page_data(runs, found, shown, first), into))


if __name__ == "__main__":
    sys.exit(main())
