"""Tables from records: `python scripts/make_tables.py [FOLDER ...]`, as in `scripts/make_tables.py runs/parikh_wu_table1`.

Takes the ended runs in the folders over into `paper_tables/records/`, then writes every table into `paper_tables/` as
Markdown, CSV and LaTeX, from those records and the published numbers in `paper_tables/reported/` alone, and `claims.md`.
"""

import sys
from pathlib import Path

from analysis.claims import write_claims
from analysis.records import ROOT, collect, load
from analysis.tables import write_tables
from scripts.cli import command


@command
def main(folders: list[str]) -> None:
    for folder in folders:
        print(f"{len(collect(Path(folder)))} runs taken over from {folder}")
    runs, tables = load(), ROOT / "paper_tables"
    for path in [*write_tables(runs, tables), write_claims(runs, tables)]:
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
