"""The tables that are files of the report. A new one is a file in this folder and a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from hydragnn_hpc.atomic import storage_errors, write_text
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import CsvRow, Snapshot
from hydragnn_hpc.report.tables import calibration, members, spread, sweep, table1, timing
from hydragnn_hpc.report.tables.text_table import TextTable, as_csv, as_latex, as_markdown

SUFFIXES = ("csv", "md", "tex")
T = TypeVar("T")


@dataclass(frozen=True)
class TableFile(Generic[T]):
    """A table written as ``NAME.csv``, ``NAME.md`` and ``NAME.tex``, if it has any rows.

    Attributes
    ----------
    name : str
        The files' name without suffix.
    content : callable
        Takes a snapshot; returns a record for each row.
    columns : callable
        Takes the snapshot and a record; returns its row of the csv file.
    tables : callable
        Takes the snapshot, the records and the rows of the csv file; returns the tables that the other files show.
    """

    name: str
    content: Callable[[Snapshot], Sequence[T]]
    columns: Callable[[Snapshot, T], CsvRow]
    tables: Callable[[Snapshot, Sequence[T], list[CsvRow]], list[TextTable]]


TABLES: tuple[TableFile[Any], ...] = (
    TableFile("table1", rows.table1_rows, rows.columns, table1.tables),
    TableFile("timing", rows.timing_rows, rows.columns, timing.tables),
    TableFile(
        "members", lambda snapshot: snapshot.members, rows.member_columns, lambda s, *_: [members.members_table(s)]
    ),
    TableFile("sweep", sweep.points, sweep.point_columns, sweep.tables),
    TableFile("training_samples", sweep.laws, sweep.law_columns, sweep.law_tables),
    TableFile("calibration", lambda snapshot: snapshot.coverages, calibration.columns, calibration.tables),
    TableFile("spread", spread.spreads_of, spread.columns, spread.tables),
)


def write_tables(out: Path | str | Snapshot) -> list[Path]:
    """Write those of :data:`TABLES` that have rows into the folder ``report/``; return the files.

    ``out`` is a campaign's folder, or a snapshot of it. The same results give the same bytes.

    Raises
    ------
    UserError
        If the folder holds no campaign or cannot be written.
    """
    snapshot = out if isinstance(out, Snapshot) else rows.read(out)
    make_folder(snapshot.folder)
    written = []
    for table in TABLES:
        content = table.content(snapshot)
        if not content:
            continue
        csv = [table.columns(snapshot, record) for record in content]
        shown = table.tables(snapshot, content, csv)
        texts = (
            as_csv(csv),
            "\n".join(as_markdown(t) for t in shown),
            "\n\\bigskip\n\n".join(as_latex(t) for t in shown),
        )
        for suffix, made in zip(SUFFIXES, texts, strict=True):
            path = snapshot.folder.table(table.name, suffix)
            write_text(path, made)
            written.append(path)
    return written


def make_folder(folder: CampaignFolder) -> None:
    """Create the folder ``report/figures/``.

    Raises
    ------
    UserError
        If it cannot be created.
    """
    with storage_errors(folder.figures):
        folder.figures.mkdir(parents=True, exist_ok=True)
