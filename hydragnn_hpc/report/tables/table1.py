"""Table 1: test errors by variant and task."""

from __future__ import annotations

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Row, Snapshot
from hydragnn_hpc.report.tables.text_table import TextTable, notes_on, tidy


def tables(snapshot: Snapshot, content: list[Row]) -> list[TextTable]:
    """Return Table 1 as the paper prints it, and tidy."""
    return [paper_form(snapshot), tidy("Table 1, a row per variant and task", content, rows.TABLE1)]


def paper_form(snapshot: Snapshot, scaled: bool = True) -> TextTable:
    """Return Table 1 as the paper prints it: a row per variant, a column per task, mean ± std over n of N members."""
    tasks = list(snapshot.campaign.tasks)
    found = {(r["variant"], r["task"]): r for r in rows.table1_rows(snapshot)}
    shown = []
    for variant in snapshot.campaign.variants:
        cells = [_error_cell(found.get((variant.name, task)), scaled) for task in tasks]
        counts = sorted({f"{r['n']} of {r['n_total']}" for (v, _), r in found.items() if v == variant.name})
        shown.append((variant.name, *cells, ", ".join(counts)))
    units = {task: rows.unit_of(snapshot, task) for task in tasks}
    header = ("variant", *(task if scaled else f"{task} / {units[task] or '1'}" for task in tasks), "n of N")
    title = f"Test RMSE, {'scaled' if scaled else 'in units'}, mean ± std over members"
    return TextTable(title, header, shown, notes_on([r["n"] for r in found.values()]))


def _error_cell(row: Row | None, scaled: bool) -> str:
    if row is None:
        return text.MISSING
    if scaled:
        return text.plus_minus(row["rmse_mean"], row["rmse_std"])
    return text.plus_minus(row["rmse_unit_mean"], row["rmse_unit_std"], text.plain)
