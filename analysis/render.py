"""A table of strings as Markdown, CSV and LaTeX."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from core.io import write_text


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
        contents = {"md": self.markdown(), "csv": self.cells.to_csv(index=False), "tex": self.latex()}
        paths = []
        for ending, text in contents.items():
            paths.append(folder / f"{self.name}.{ending}")
            write_text(paths[-1], text)
        return paths

    def markdown(self) -> str:
        lines = [self.cells.columns, ["---"] * self.text_columns + ["---:"] * (self.cells.shape[1] - self.text_columns)]
        lines += self.cells.to_numpy().tolist()
        table = "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return f"# {self.title}\n\n{table}\n{notes}"

    def latex(self) -> str:
        """A `tabular` for booktabs, with caption, label and notes."""
        table = self.cells.to_latex(
            index=False,
            escape=True,
            caption=latex_text(self.title),
            label=f"tab:{self.name}",
            column_format="l" * self.text_columns + "r" * (self.cells.shape[1] - self.text_columns),
        )
        notes = "".join(f"\\par\\footnotesize {latex_text(note)}\n" for note in self.notes)
        return table.replace("\\end{table}", f"{notes}\\end{{table}}")


def write_tables(tables: Iterable[Table], folder: Path) -> list[Path]:
    """Writes the tables below `folder`; returns the files."""
    return [path for table in tables for path in table.write(folder)]


def latex_text(text: str) -> str:
    """Escapes what LaTeX reads as commands."""
    return "".join(f"\\{c}" if c in "&%$#_{}" else c for c in text)
