"""Numbers in prose are those of the tables: an interval that new records have moved is found."""

import re

import pytest
from support.command_line import ROOT

NUMBER = r"(?<![\d.])[-+]?(\d+\.\d+)"  # prose says `8.3 below`, a table -8.3
TABLES = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "paper_tables").glob("*.md"))
KNOWN = {frozenset(pair) for pair in re.findall(f"{NUMBER} to {NUMBER}", TABLES)}


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_each_interval_over_seeds_is_in_a_table(page):
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    side = "(?: below| above)?"
    found = re.findall(rf"{NUMBER}{side} to {NUMBER}{side}, n = \d", text)
    assert len(found) > 5
    assert [pair for pair in found if frozenset(pair) not in KNOWN] == []
