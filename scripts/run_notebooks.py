"""Runs every notebook in `notebooks/` and keeps its output in it: `python scripts/run_notebooks.py`."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from scripts.cli import command

FOLDER = Path(__file__).parent.parent / "notebooks"


def run(file: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, without the times and counters that differ from run to run."""
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(FOLDER)}}).execute()
    for cell in notebook.cells:  # libraries' warnings name the paths of this machine
        cell["outputs"] = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        if cell["cell_type"] != "code":
            del cell["outputs"]
    return notebook


@command
def main(_: list[str]) -> None:
    for file in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(run(file), file)
        print(file)


if __name__ == "__main__":
    sys.exit(main())
