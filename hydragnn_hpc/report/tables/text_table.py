"""Formatted tables, and their output as csv, Markdown and LaTeX, and on a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results.rows import CsvRow

COUNTED = "n of N: n of N members are finished; diverged and failed members are excluded from the means."
SPREAD = "± is the standard deviation over members (ddof = 1)"


@dataclass(frozen=True)
class TextTable:
    """A formatted table: text in every cell, notes below."""

    title: str
    header: tuple[str, ...]
    cells: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def tidy(title: str, content: list[CsvRow]) -> TextTable:
    """Return the rows of a csv file, with all of its columns; numbers are rounded to five digits."""
    return TextTable(title, tuple(content[0]), [tuple(map(_rounded, row.values())) for row in content])


def notes_on(counts: list[int]) -> tuple[str, ...]:
    """Return the notes below a table of means over members, from the numbers of members averaged."""
    few = f"; {text.MISSING} where fewer than two have finished" if min(counts, default=0) < 2 else ""
    return COUNTED, f"{SPREAD}{few}."


def as_csv(content: list[CsvRow]) -> str:
    """Return rows as csv: floats with every digit, an empty cell for a missing value."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(content[0])
    writer.writerows(["" if v is None else repr(v) if isinstance(v, float) else v for v in r.values()] for r in content)
    return stream.getvalue()


def as_markdown(table: TextTable) -> str:
    """Return a table as Markdown."""
    lines = [f"**{text.markdown(table.title)}**", ""]
    lines.append("| " + " | ".join(text.markdown(h) for h in table.header) + " |")
    lines.append("|" + "---|" * len(table.header))
    lines += ["| " + " | ".join(text.markdown(c) for c in cells) + " |" for cells in table.cells]
    lines += [f"\n{text.markdown(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def as_latex(table: TextTable) -> str:
    """Return a table as a LaTeX ``tabular`` that needs no package."""
    lines = [
        f"% {text.line(table.title)}",
        r"\begin{tabular}{" + "l" * len(table.header) + "}",
        r"\hline",
        " & ".join(text.latex(h) for h in table.header) + r" \\",
        r"\hline",
        *(" & ".join(text.latex(c) for c in cells) + r" \\" for cells in table.cells),
        r"\hline",
        r"\end{tabular}",
    ]
    lines += [f"% {text.line(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def as_rich(table: TextTable) -> Any:
    """Return a table for a terminal (``rich``)."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for k, name in enumerate(table.header):
        shown.add_column(Text(text.line(name)), justify="left" if k == 0 else "right", no_wrap=k == 0)
    for cells in table.cells:
        shown.add_row(*(Text(text.line(cell)) for cell in cells))
    # Title and notes stay outside the table, so that a narrow one does not fold them.
    return Group(Text(text.line(table.title), "bold"), shown, *(Text(text.line(note), "dim") for note in table.notes))


def _rounded(value: Any) -> str:
    if value is None:
        return text.MISSING
    return text.plain(value, 5) if isinstance(value, float) else str(value)
