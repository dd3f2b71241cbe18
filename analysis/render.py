"""A table of strings as Markdown, CSV and LaTeX."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from core.io import write_text

COLUMN = 6  # columns that fit one column of a paper


@dataclass
class Table:
    """A table's content.

    Attributes:
        name: of the files, without their endings.
        title: one line.
        cells: strings; an empty one is a blank.
        notes: lines below it.
        text_columns: how many columns, from the left, are words.
    """

    name: str
    title: str
    cells: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    text_columns: int = 1

    def write(self, folder: Path) -> list[Path]:
        """`folder/NAME.md`, `.csv` and `.tex`."""
        paths = [self.write_markdown(folder)]
        for ending, text in {"csv": self.cells.to_csv(index=False), "tex": self.latex()}.items():
            paths.append(folder / f"{self.name}.{ending}")
            write_text(paths[-1], text)
        return paths

    def write_markdown(self, folder: Path) -> Path:
        """`folder/NAME.md`; returns its path."""
        write_text(folder / f"{self.name}.md", self.markdown())
        return folder / f"{self.name}.md"

    def markdown(self) -> str:
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return f"# {self.title}\n\n{self.grid()}\n{notes}"

    def grid(self) -> str:
        """The cells alone, in Markdown."""
        lines = [self.cells.columns, ["---"] * self.text_columns + ["---:"] * (self.cells.shape[1] - self.text_columns)]
        lines += self.cells.to_numpy().tolist()
        return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)

    def latex(self) -> str:
        """A `tabular` with caption, label and notes, shrunk where it is wider than the column or higher than the page.

        A table of more than `COLUMN` columns is a `table*`, which spans both columns of a paper.
        """
        wide = "*" if self.cells.shape[1] > COLUMN else ""
        table = self.cells.to_latex(
            index=False,
            escape=True,
            column_format="l" * self.text_columns + "r" * (self.cells.shape[1] - self.text_columns),
        )
        notes = "".join(f"\\par\\footnotesize {latex_text(note)}\n" for note in self.notes)
        return (
            "% needs \\usepackage{booktabs,adjustbox}\n"
            f"\\begin{{table{wide}}}\n\\centering\n"
            f"\\caption{{{latex_text(self.title)}}}\n\\label{{tab:{self.name}}}\n"
            "\\begin{adjustbox}{max width=\\linewidth,max totalheight=0.8\\textheight}\n"
            f"{table}\\end{{adjustbox}}\n{notes}\\end{{table{wide}}}\n"
        )

    def insert(self, page: Path) -> Path:
        """Replaces what stands between the table's markers in a Markdown page, which must have them."""
        opening, closing = f"<!-- table: {self.name} -->", "<!-- end of table -->"
        before, rest = page.read_text(encoding="utf-8").split(opening)
        after = rest.split(closing, 1)[1]
        write_text(page, f"{before}{opening}\n{self.grid()}\n{closing}{after}")
        return page


def write_tables(tables: Iterable[Table], folder: Path) -> list[Path]:
    """Writes the tables below `folder`; returns the files."""
    return [path for table in tables for path in table.write(folder)]


def latex_text(text: str) -> str:
    """Escapes what LaTeX reads as commands; what stands between backticks is code."""
    escaped = "".join(f"\\{c}" if c in "&%$#_{}" else c for c in text)
    return re.sub("`([^`]*)`", r"\\texttt{\1}", escaped)
