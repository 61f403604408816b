"""The tables that are files of the report. A new one is a file in this folder and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hydragnn_hpc.atomic import storage_errors, write_text
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Row, Snapshot
from hydragnn_hpc.report.tables import calibration, members, spread, sweep, table1, timing
from hydragnn_hpc.report.tables.text_table import TextTable, as_csv, as_latex, as_markdown


@dataclass(frozen=True)
class TableFile:
    """A table written as ``NAME.csv``, ``NAME.md`` and ``NAME.tex``, if it has any rows.

    Attributes
    ----------
    name : str
        The files' name without suffix.
    rows : callable
        Returns the rows of the csv file from a snapshot.
    tables : callable
        Returns what the other files show, from a snapshot and those rows.
    """

    name: str
    rows: Callable[[Snapshot], list[Row]]
    tables: Callable[[Snapshot, list[Row]], list[TextTable]]


TABLES = (
    TableFile("table1", rows.table1_rows, table1.tables),
    TableFile("timing", rows.timing_rows, timing.tables),
    TableFile("members", rows.member_rows, members.tables),
    TableFile("sweep", sweep.point_rows, sweep.tables),
    TableFile("training_samples", sweep.law_rows, sweep.law_tables),
    TableFile("calibration", calibration.calibration_rows, calibration.tables),
    TableFile("spread", spread.spread_rows, spread.tables),
)


def write_tables(out: Path | str | Snapshot) -> list[Path]:
    """Write all of :data:`TABLES` as csv, md and tex into the folder ``report/``; return the files.

    The same results give the same bytes.

    Raises
    ------
    UserError
        If the folder holds no campaign or cannot be written.
    """
    snapshot = out if isinstance(out, Snapshot) else rows.read(out)
    make_folder(snapshot.folder)
    written = []
    for table in TABLES:
        content = table.rows(snapshot)
        if not content:
            continue
        shown = table.tables(snapshot, content)
        for suffix, made in (
            ("csv", as_csv(content)),
            ("md", "\n".join(as_markdown(t) for t in shown)),
            ("tex", "\n\\bigskip\n\n".join(as_latex(t) for t in shown)),
        ):
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
