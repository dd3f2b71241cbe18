"""Imports go down the layers and never in a circle, so that a reader can start at the bottom and stop anywhere."""

import re
from graphlib import TopologicalSorter

from support.command_line import ROOT

from scripts.architecture import FLOOR, imports, markdown, room


def test_rooms_import_only_from_rooms_below():
    pairs = [(module, other) for module, others in imports().items() for other in others]
    assert [f"{a} imports {b}" for a, b in pairs if room(a) != room(b) and FLOOR[room(a)] <= FLOOR[room(b)]] == []


def test_no_modules_import_each_other():
    TopologicalSorter(imports()).prepare()


def test_every_room_has_a_layer():
    rooms = {file.parent.name for file in ROOT.glob("*/*.py")} - {"tests"}
    assert rooms == set(FLOOR) - {"train"}


def test_architecture_md_matches_the_code():
    """`python scripts/architecture.py` draws it again. A method that is not listed yet does not count."""
    page, drawn = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines(), markdown().splitlines()
    assert page == [line for line in drawn if line in page or not line.startswith("- `methods/")]


def test_train_py_stays_short():
    assert len((ROOT / "train.py").read_text(encoding="utf-8").splitlines()) <= 165


def test_no_tests_name_is_longer_than_a_line_of_a_report():
    names = [name for file in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", file.read_text())]
    assert [name for name in names if len(name) >= 80] == []
