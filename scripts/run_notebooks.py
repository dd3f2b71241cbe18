"""Runs every notebook in `notebooks/` and keeps its output in it: `python scripts/run_notebooks.py`."""

import re
import sys
from pathlib import Path
from typing import Any

from core.errors import UserError
from scripts.cli import command, parse

FOLDER = Path(__file__).parent.parent / "notebooks"


def libraries() -> tuple[Any, Any]:
    """nbformat and nbclient.

    Raises:
        UserError: they are not installed.
    """
    try:
        import nbclient
        import nbformat
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install -r requirements-dev.txt") from error
    return nbformat, nbclient


def run(file: Path) -> Any:
    """The notebook with fresh outputs, without the times and counters that differ from run to run."""
    nbformat, nbclient = libraries()
    notebook = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    for cell in notebook.cells:  # libraries' warnings name the paths of this machine
        cell["outputs"] = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        for data in (output.get("data", {}) for output in cell["outputs"]):
            if "text/plain" in data:
                data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", data["text/plain"])  # an object's address
        if cell["cell_type"] != "code":
            del cell["outputs"]
    return notebook


@command
def main(words: list[str]) -> None:
    parse(words, {}, rest_are="none")
    for file in sorted(FOLDER.glob("*.ipynb")):
        libraries()[0].write(run(file), file)
        print(file)


if __name__ == "__main__":
    sys.exit(main())
