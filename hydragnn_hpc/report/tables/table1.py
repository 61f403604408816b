"""Table 1: test errors by variant and task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import CsvRow, Snapshot, Table1Row
from hydragnn_hpc.report.tables.text_table import TextTable, notes_on, tidy

NO_NETWORK = "no network"
_ABOUT_BASELINES = (
    f"{NO_NETWORK}: the mean of the training set, or a linear function of the composition by least squares (at node"
    " level, the mean of the element), whichever has the lower validation error."
)


def tables(snapshot: Snapshot, _: Sequence[Table1Row], csv: list[CsvRow]) -> list[TextTable]:
    """Return Table 1 as the paper prints it, with all errors by task, and tidy."""
    return [paper_form(snapshot), by_task(snapshot), tidy("Table 1, a row per variant and task", csv)]


def paper_form(snapshot: Snapshot) -> TextTable:
    """Return Table 1 as the paper prints it: a row per variant, a column per task, mean ± std over n of N members."""
    tasks = list(snapshot.campaign.tasks)
    by_cell = {(r.variant, r.task): r for r in rows.table1_rows(snapshot)}
    shown = []
    for variant in (v for v in snapshot.campaign.variants if v.name not in snapshot.ended):
        cells = [_error_cell(by_cell.get((variant.name, task))) for task in tasks]
        counts = sorted({f"{r.n} of {r.n_total}" for (v, _), r in by_cell.items() if v == variant.name})
        shown.append((variant.name, *cells, ", ".join(counts)))
    header = ("variant", *tasks, "n of N")
    notes = notes_on([r.n for (v, _), r in by_cell.items() if v not in rows.BASELINES.values()])
    best = {task: by_cell.get((_baseline(snapshot, task), task)) for task in tasks}
    if any(best.values()):
        errors = (text.scientific(r.rmse_mean) if r else text.MISSING for r in best.values())
        shown.append((NO_NETWORK, *errors, text.MISSING))
        notes = (*notes, _ABOUT_BASELINES)
    if snapshot.not_compared:
        notes = (*notes, f"{snapshot.not_compared}.")
    return TextTable("Test RMSE, scaled, mean ± std over members", header, shown, (*notes, *_ended(snapshot)))


def by_task(snapshot: Snapshot) -> TextTable:
    """Return all test errors in units and R², a row per task and variant, and the error of the ensemble's mean.

    The baselines' rows follow the variants of their task.
    """
    content = sorted_rows(snapshot)
    of_means = any(r.rmse_of_mean is not None for r in content)
    marked = any(r.not_learned for r in content)
    shown = []
    for row in content:
        errors = text.with_spread(row.rmse_unit_mean, row.rmse_unit_std)
        cells = [row.task, row.variant, errors, text.plain(row.mae), text.r_squared(row.r2)]
        cells += [text.plain(row.rmse_of_mean)] if of_means else []
        poor = f"{row.not_learned} of {row.n}" if row.not_learned else ""
        shown.append((*cells, row.unit, *([poor] if marked else [])))
    mean = ("RMSE of the mean",) if of_means else ()
    header = ("task", "variant", "RMSE", "MAE", "R²", *mean, "unit", *(("not learned",) if marked else ()))
    notes = ["R² is about the mean of the test set, by component."] if snapshot.summary else []
    notes += ["RMSE of the mean: of the ensemble's mean prediction."] if of_means else []
    notes += ["Not learned: members whose validation error is no better than the baselines."] if marked else []
    return TextTable("Test errors in units, mean ± std over members", header, shown, (*notes, *_ended(snapshot)))


def sorted_rows(snapshot: Snapshot) -> list[Table1Row]:
    """Return the rows of Table 1 by task."""
    return sorted(rows.table1_rows(snapshot), key=lambda r: list(snapshot.campaign.tasks).index(r.task))


def _baseline(snapshot: Snapshot, task: str) -> str:
    """Return the name of the baseline that is better on the validation set; the test set must not choose."""
    part = snapshot.part(task, "validation")
    return rows.BASELINES[part.better] if part else ""


def _ended(snapshot: Snapshot) -> list[str]:
    """Return a note on the points of a sweep that have no row."""
    counts = sorted(Counter(snapshot.ended.values()).items())
    places = ", ".join(f"{n:,} at epoch {epoch}" for epoch, n in counts)
    return [f"Left out: points ended by halving, {places}; see the sweep's points."] if counts else []


def _error_cell(row: Table1Row | None) -> str:
    return text.MISSING if row is None else text.plus_minus(row.rmse_mean, row.rmse_std)
