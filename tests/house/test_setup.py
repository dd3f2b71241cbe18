"""`make setup`: the Python that it takes, and requirements for all that the code imports."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions

from support.command_line import ROOT

OURS = {folder.name for folder in [*ROOT.iterdir(), *(ROOT / "tests").iterdir()]} | {"train", "support"}


def test_an_older_python_is_refused_in_a_sentence(tmp_path):
    older = tmp_path / "python3.10"
    older.write_text(f"""#!{sys.executable}\nimport sys\nsys.version_info = (3, 10)\nexec(sys.argv[2])\n""")
    older.chmod(0o755)
    command = ["make", f"{tmp_path}/venv/run.stamp", f"VENV={tmp_path}/venv", f"PYTHON={older}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode
    assert done.stderr.startswith("error: it takes Python 3.11 or newer: add PYTHON=python3.11\n")
    assert not (tmp_path / "venv").exists()


def test_every_imported_package_is_a_requirement_of_its_own():
    """Not only one that another package happens to bring."""
    files = [file for file in ROOT.rglob("*.py") if ".venv" not in file.parts and file.parent != ROOT / "notebooks"]
    imported = {name for file in files for name in imports(ast.parse(file.read_text(encoding="utf-8")))}
    required = "".join(file.read_text() for file in ROOT.glob("requirements*.txt")).lower().replace("_", "-")
    packages = packages_distributions()
    sources = {name: packages[name] for name in imported - OURS - set(sys.stdlib_module_names)}
    asked = {
        name: [f"\n{source.lower().replace('_', '-')}==" in required for source in sources[name]] for name in sources
    }
    assert [name for name, found in asked.items() if not any(found)] == []


def imports(tree: ast.Module) -> set[str]:
    """The first words of the names of imported modules."""
    nodes = list(ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names} - {""}
