"""Figures from records: `python scripts/make_figures.py [FOLDER]`, as in `scripts/make_figures.py runs/subspace`.

Draws every figure that `paper_tables/records/` has runs for into `paper_tables/figures/`, as PNG and PDF. A folder with
runs of `experiment=subspace` has its adapters compared first: a record holds no weights.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis.figures import write_figures
from analysis.records import ROOT, load
from analysis.subspace import read_similarity, write_similarity
from core.errors import UserError, complain


def main() -> int:
    try:
        for word in sys.argv[1:]:
            print(write_similarity(Path(word)).relative_to(ROOT))
    except UserError as error:
        complain(f"error: {error}")
        return 2
    for path in write_figures(load(), read_similarity(), ROOT / "paper_tables" / "figures"):
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
