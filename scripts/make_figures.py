"""Figures from records: `python scripts/make_figures.py [FOLDER]`, as in `scripts/make_figures.py runs/subspace`.

Draws every figure that `paper_tables/records/` has runs for into `paper_tables/figures/`, as PNG and PDF. A folder with
runs of `experiment=subspace` has its adapters compared first: a record holds no weights.
"""

import sys
from pathlib import Path

from analysis.figures import write_figures
from analysis.records import ROOT, load
from analysis.subspace import read_similarity, write_similarity
from scripts.cli import command


@command
def main(folders: list[str]) -> None:
    for folder in folders:
        print(write_similarity(Path(folder)).relative_to(ROOT))
    for path in write_figures(load(), read_similarity(), ROOT / "paper_tables" / "figures"):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
