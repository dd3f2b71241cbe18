"""Writes `docs/architecture.md` from the code: `python scripts/architecture.py`. A test fails while the two disagree."""

import ast
import sys
from pathlib import Path

from scripts.cli import command, parse

ROOT = Path(__file__).parent.parent
FLOORS = (  # a room imports from lower floors alone
    ("core",),
    ("methods", "tasks"),
    ("models",),
    ("training",),
    ("adapters",),
    ("experiments",),
    ("analysis", "serving"),
    ("benchmarks",),
    ("scripts", "hydra_plugins", "train"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PURPOSE = {
    "scripts": "Command lines beside train.py: tables, figures, status, predictions, exports, benchmarks.",
    "hydra_plugins": "Launchers of sweeps: a process a run, Slurm, submitit's local one.",
    "train": "`train.py`: one run, read from top to bottom.",
}


def modules() -> dict[str, Path]:
    """Every module of ours, by its dotted name."""
    files = [ROOT / "train.py", *(file for room in FLOOR for file in sorted((ROOT / room).glob("*.py")))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports() -> dict[str, set[str]]:
    """The modules of ours that each module imports, within functions too."""
    ours = {name for name in modules() if "." in name or name == "train"}
    found: dict[str, set[str]] = {}
    for name, file in modules().items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= ours & {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found[name] |= ours & {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def first_line(file: Path) -> str:
    """The first sentence of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def arrows() -> list[tuple[str, str]]:
    """Which room imports from which; arrows that a longer way implies are left out."""
    pairs = {(room(name), room(other)) for name, others in imports().items() for other in others}
    below = {name: {b for a, b in pairs if a == name != b} for name in FLOOR}

    def reach(name: str) -> set[str]:
        return below[name].union(*map(reach, below[name]))

    return sorted((a, b) for a in below for b in below[a] if not any(b in reach(c) for c in below[a] - {b}))


def markdown() -> str:
    """The whole page."""
    lines = [
        "# The house",
        "",
        "Written by `python scripts/architecture.py` from the code's own imports and docstrings.",
        "",
    ]
    lines += [
        "Arrows run down, never in a circle: a room imports only from rooms below it.",
        "An arrow that a longer way implies is left out.",
        "",
    ]
    lines += ["```mermaid", "flowchart TD"]
    for floor in reversed(FLOORS):
        lines += [f"    {name}" for name in floor]
    lines += [f"    {a} --> {b}" for a, b in arrows()] + ["```", "", WAY]
    for floor in reversed(FLOORS):
        for name in floor:
            files = {module: file for module, file in modules().items() if room(module) == name}
            package = files.pop(name, None)
            purpose = PURPOSE.get(name) or first_line(package)
            lines += [f"## {name}", "", purpose, ""]
            lines += [f"- `{file.relative_to(ROOT)}`: {first_line(file)}" for file in files.values()] + [""] * bool(
                files
            )
    return "\n".join(lines).rstrip() + "\n"


WAY = """## The way of a run

1. Hydra composes `conf/`; `experiments/config.py` turns it into typed, checked settings. Their hash is the run's name.
2. A run whose record is committed is finished: nothing is loaded.
3. `experiments/inputs.py` loads the splits, the encoder and its tokenizer; `experiments/record.py` notes where they are from.
4. `experiments/run_folder.py` locks the run's folder. Under the lock it decides by the folder's record and checkpoint:
   finished, resumed, or started.
5. The method's `apply` changes the model in place; `requires_grad` alone then says what trains.
6. `training/trainer.py` trains. After each evaluation it passes on its whole state, and `RunFolder.save` keeps it as one
   file: the checkpoint, with the best state so far in it.
7. At the end the checkpoint is unpacked (`best.safetensors`, `predictions.jsonl`, `adapter/`), the record is written last,
   and the checkpoint is removed.
"""


@command
def main(words: list[str]) -> None:
    parse(words, {}, rest_are="none")
    file = ROOT / "docs" / "architecture.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text(markdown(), encoding="utf-8")
    print(file.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
