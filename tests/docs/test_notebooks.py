"""Every notebook runs from top to bottom on the committed records and is kept with its outputs."""

import re

import nbformat
import pytest
from support.command_line import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
@pytest.mark.filterwarnings("ignore")  # the kernel's own
def test_every_notebook_runs_and_shows_outputs(file):
    pytest.importorskip("nbclient", reason="nbclient is in requirements-dev.txt")
    from scripts.run_notebooks import run

    fresh = run(file)
    shown = [cell for cell in fresh.cells if cell["cell_type"] == "code" and cell["outputs"]]
    assert len(shown) >= 4
    assert "image/png" in str(shown)
    assert tables(fresh) == tables(nbformat.read(file, as_version=4)), "python scripts/run_notebooks.py runs it again"


def tables(notebook) -> list[str]:
    """What the cells show, apart from pictures."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return ["".join(output["data"]["text/html"]) for output in outputs if "text/html" in output.get("data", {})]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_notebook_is_committed_with_its_cells_run_in_order(file):
    cells = [cell for cell in nbformat.read(file, as_version=4).cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


def test_the_notebooks_method_is_the_documented_one():
    page = (ROOT / "docs/own_method.md").read_text(encoding="utf-8")
    notebook = nbformat.read(ROOT / "notebooks/your_method.ipynb", as_version=4)
    [file] = re.findall(r"`methods/ia3.py`:\n\n```python\n(.*?)```", page, flags=re.S)
    assert notebook.cells[1].source == file.strip()
