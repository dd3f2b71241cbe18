"""Imports run down the rooms and never in a circle, so that a reader can start at the bottom and stop anywhere."""

import ast
from graphlib import TopologicalSorter

from support.command_line import ROOT

FLOORS = (
    ("core",),
    ("methods", "tasks"),
    ("models",),
    ("training",),
    ("experiments", "adapters"),
    ("analysis", "serving"),
    ("scripts", "hydra_plugins", "train"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports() -> dict[str, set[str]]:
    """The modules of ours that each module imports, within functions too."""
    files = [ROOT / "train.py", *(file for room in FLOOR for file in sorted((ROOT / room).glob("*.py")))]
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files}
    found = {}
    for file, name in names.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                targets = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
            else:
                continue
            found[name] |= {
                target for target in targets if (target in names.values() and "." in target) or target == "train"
            }
    return found


def test_imports_run_down():
    upward = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if FLOOR[module.partition(".")[0]] < FLOOR[other.partition(".")[0]]
    ]
    assert not upward


def test_no_modules_import_each_other():
    TopologicalSorter(imports()).prepare()


def test_every_room_stands_on_a_floor():
    rooms = {file.parent.name for file in ROOT.glob("*/*.py")} - {"tests"}
    assert rooms == set(FLOOR) - {"train"}
