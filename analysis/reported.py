"""Published numbers, as `paper_tables/reported/` keeps them."""

import pandas as pd

from analysis.records import ROOT

REPORTED = ROOT / "paper_tables" / "reported"


def read_reported(name: str) -> pd.DataFrame:
    """`paper_tables/reported/NAME.csv`: row, column, value, spread, source, protocol, all as they are printed."""
    return pd.read_csv(REPORTED / f"{name}.csv", dtype=str, keep_default_na=False)
