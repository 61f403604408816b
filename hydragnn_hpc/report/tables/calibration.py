"""Coverage of the ensembles' intervals before and after calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results.rows import CsvRow, Snapshot
from hydragnn_hpc.report.tables.text_table import TextTable, tidy

if TYPE_CHECKING:
    from hydragnn_hpc.report.analysis.coverage import Coverage

_WIDTH_LEVEL = 0.9  # of which half widths are shown


def columns(_: Snapshot, coverage: Coverage) -> CsvRow:
    """Return the row of a variant, task, species and level; an infinite width is a missing value."""
    return {key: None if value == math.inf else value for key, value in vars(coverage).items()}


def tables(_: Snapshot, content: Sequence[Coverage], csv: list[CsvRow]) -> list[TextTable]:
    """Return the coverage as a table to read, and as a tidy one."""
    return [*coverage_tables(content), tidy("Coverage on the test set, a row per level", csv)]


def coverage_tables(content: Sequence[Coverage]) -> list[TextTable]:
    """Return a table with a row per variant, task and species, and a column per level; none without rows."""
    if not content:
        return []
    levels = sorted({row.level for row in content})
    groups: dict[tuple[str, str, str], dict[float, Coverage]] = {}
    for row in content:
        groups.setdefault((row.variant, row.task, row.species), {})[row.level] = row
    cells = []
    for (variant, task, species), own in groups.items():
        covered = [f"{100 * own[x].raw:.0f} → {100 * own[x].calibrated:.0f}" for x in levels]
        shown = own[_WIDTH_LEVEL]
        widths = text.plain(shown.width_raw, 3), text.plain(shown.width_calibrated, 3)
        cells.append((variant, task, species or "all", *covered, *widths, shown.unit, f"{shown.structures:,}"))
    header = ("variant", "task", "species", *(f"{100 * level:g} %" for level in levels),
              f"half width at {100 * _WIDTH_LEVEL:g} %, raw", "calibrated", "unit", "test structures")  # fmt: skip
    note = "Percentage of true values of the test set inside the interval of each level, before → after calibration."
    return [TextTable("Coverage before and after calibration", header, cells, (note,))]
