"""Training times by variant."""

from __future__ import annotations

from collections.abc import Sequence

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import CsvRow, Snapshot, TimingRow
from hydragnn_hpc.report.tables.text_table import COUNTED, SPREAD, TextTable, tidy


def tables(snapshot: Snapshot, content: Sequence[TimingRow], csv: list[CsvRow]) -> list[TextTable]:
    """Return the training times as a table to read, and as a tidy one."""
    return [timing_table(snapshot, content), tidy("Training time, a row per variant", csv)]


def timing_table(snapshot: Snapshot, content: Sequence[TimingRow]) -> TextTable:
    """Return the training times as a table to read."""
    sizes = rows.times_measured(snapshot)
    shown = [
        (
            r.variant,
            text.with_spread(r.seconds_mean, r.seconds_std if sizes[r.variant] > 1 else None),
            text.with_spread(r.epochs_mean, r.epochs_std) if r.epochs_std else text.mean_count(r.epochs_mean),
            text.plain(r.seconds_mean / r.epochs_mean if r.seconds_mean and r.epochs_mean else None),
            f"{r.n} of {r.n_total}",
        )
        for r in content
    ]
    header = ("variant", "seconds", "epochs", "seconds per epoch", "n of N")
    stacked = [note] if (note := rows.stacking_note(snapshot)) else []
    spread = any("±" in cell for row in shown for cell in row)
    title = "Training time of a member" + (", mean ± std over members" if spread else "")
    notes = (COUNTED, *([f"{SPREAD}."] if spread else []), *stacked)
    return TextTable(title, header, shown, notes)
