"""Tables from records: `python scripts/make_tables.py [FOLDER ...]`, as in `scripts/make_tables.py runs/parikh_wu_table1`.

Takes the ended runs in the folders over into `paper_tables/records/`, then writes every table into `paper_tables/` as
Markdown, CSV and LaTeX, from those records and the published numbers in `paper_tables/reported/` alone, and `claims.md`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis.claims import write_claims
from analysis.records import ROOT, collect, load
from analysis.tables import write_tables
from core.errors import UserError, complain


def main() -> int:
    try:
        for word in sys.argv[1:]:
            print(f"{len(collect(Path(word)))} runs taken over from {word}")
        runs, folder = load(), ROOT / "paper_tables"
        for path in [*write_tables(runs, folder), write_claims(runs, folder)]:
            print(path.relative_to(ROOT))
    except (OSError, UserError) as error:
        complain(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
