"""Coverage of the ensembles' intervals before and after calibration."""

from __future__ import annotations

import math
from dataclasses import asdict

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results.rows import Row, Snapshot
from hydragnn_hpc.report.tables.text_table import TextTable, tidy

COLUMNS = (
    "variant", "task", "species", "n", "structures", "values", "unit", "level", "raw", "calibrated", "width_raw",
    "width_calibrated",
)  # fmt: skip


def calibration_rows(snapshot: Snapshot) -> list[Row]:
    """Return a row per variant, task, species and level; none where nothing is calibrated."""
    all_rows = [asdict(coverage) for coverage in snapshot.coverages]
    return [{key: None if _is_infinite(value) else value for key, value in row.items()} for row in all_rows]


def tables(snapshot: Snapshot, content: list[Row]) -> list[TextTable]:
    """Return the coverage as a table to read, and as a tidy one."""
    return [*coverage_tables(content), tidy("Coverage on the test set, a row per level", content, COLUMNS)]


def coverage_tables(content: list[Row]) -> list[TextTable]:
    """Return a table with a row per variant, task and species, and a column per level; none without rows."""
    if not content:
        return []
    levels = sorted({row["level"] for row in content})
    groups: dict[tuple[str, str, str], dict[float, Row]] = {}
    for row in content:
        groups.setdefault((row["variant"], row["task"], row["species"]), {})[row["level"]] = row
    cells = []
    for (variant, task, species), own in groups.items():
        covered = [f"{100 * own[x]['raw']:.0f} → {100 * own[x]['calibrated']:.0f}" for x in levels]
        widths = [text.plain(own[0.9][name], 3) for name in ("width_raw", "width_calibrated")]
        first = own[levels[0]]
        cells.append((variant, task, species or "all", *covered, *widths, first["unit"], f"{first['structures']:,}"))
    header = ("variant", "task", "species", *(f"{100 * level:g} %" for level in levels), "half width at 90 %, raw",
              "calibrated", "unit", "test structures")  # fmt: skip
    note = "Percentage of true values of the test set inside the interval of each level, before → after calibration."
    return [TextTable("Coverage before and after calibration", header, cells, (note,))]


def _is_infinite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
