"""A sweep's points by rank, and errors against the number of training samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results.rows import CsvRow, Snapshot
from hydragnn_hpc.report.tables.text_table import SPREAD, TextTable, tidy

if TYPE_CHECKING:
    from hydragnn_hpc.report.analysis.sweep import PointResult, PowerLaw

SHOWN = 50
"""Points on the page and in Markdown; ``sweep.csv`` has all."""
_ABOUT = (
    "Ranked by the mean over tasks of the scaled validation RMSE: points are chosen on the validation set, and their"
    " test errors play no part in the choice."
)
_ABOUT_HALVING = (
    "Points with a rank were trained to the end; the others were ended at a rung of the halving, where other points had"
    " lower validation errors, and their errors are those of that epoch."
)


def points(snapshot: Snapshot) -> list[PointResult]:
    """Return the points of a sweep by rank."""
    if snapshot.campaign.sweep is None:
        return []
    # Imported here because tables are also written during a run, where statistics would be slow to import.
    from hydragnn_hpc.report.analysis.sweep import ranked

    return ranked(snapshot)


def point_columns(snapshot: Snapshot, point: PointResult) -> CsvRow:
    """Return a point's row, with its keys and test errors as columns."""
    low, high = point.interval or (None, None)
    row: CsvRow = {"of": point.of, "rank": point.rank, "variant": point.name}
    row.update({key: _plain(value) for key, value in point.settings.items()})
    row.update({"n": point.n, "n_total": point.n_total, "rmse_validation": point.validation})
    row.update({"rmse_validation_low": low, "rmse_validation_high": high})
    if _halving(snapshot):
        row["ended_at_epoch"] = point.ended
    for task in snapshot.campaign.tasks:
        row[f"rmse_{task}"], row[f"rmse_std_{task}"] = point.test.get(task, (None, None))
    return row


def laws(snapshot: Snapshot) -> list[PowerLaw]:
    """Return the power laws of test errors, by task and variant."""
    if snapshot.campaign.sweep is None:
        return []
    from hydragnn_hpc.report.analysis.sweep import power_laws

    return power_laws(snapshot)


def law_columns(_: Snapshot, law: PowerLaw) -> CsvRow:
    """Return the row of a power law."""
    low, high = law.interval or (None, None)
    share, (saved_low, saved_high) = law.saved, law.saved_interval or (None, None)
    return {
        "task": law.task, "of": law.of, **{key: _plain(value) for key, value in law.settings.items()},
        "sizes": len(law.sizes), "least": law.sizes[0], "most": law.sizes[-1],
        "factor": law.factor, "exponent": law.exponent, "exponent_low": low, "exponent_high": high,
        "rmse_at_most": law.rmse_at_most, "samples_for_half": law.samples(law.rmse_at_most / 2),
        "saved": share, "saved_low": saved_low, "saved_high": saved_high,
    }  # fmt: skip


def tables(snapshot: Snapshot, content: Sequence[PointResult], csv: list[CsvRow]) -> list[TextTable]:
    """Return the ranked points, and a table of all columns."""
    return [*ranking(snapshot, content), tidy("A row per point", csv)]


def law_tables(snapshot: Snapshot, content: Sequence[PowerLaw], csv: list[CsvRow]) -> list[TextTable]:
    """Return the power laws, and a table of all columns."""
    return [*laws_table(snapshot, content), tidy("A row per task and variant", csv)]


def ranking(snapshot: Snapshot, content: Sequence[PointResult]) -> Iterator[TextTable]:
    """Yield a table of the ranked points for each variant that a sweep is of."""
    halving = _halving(snapshot)
    for of in dict.fromkeys(p.of for p in content):
        own = [p for p in content if p.of == of]
        keys, tasks = _keys(snapshot, own[0]), snapshot.campaign.variant(own[0].name).tasks
        notes = (
            _ABOUT,
            *((_ABOUT_HALVING,) if halving else ()),
            f"{SPREAD}.",
            *([f"The first {SHOWN} of {len(own):,}."] if len(own) > SHOWN else []),
        )
        header = (
            "rank",
            *keys,
            "validation RMSE",
            "95 % interval",
            *(f"test RMSE {t}" for t in tasks),
            "n of N",
            *(["ended at epoch"] if halving else []),
        )
        yield TextTable(f"Points of {of}", header, [_cells(p, keys, tasks, halving) for p in own[:SHOWN]], notes)


def _cells(point: PointResult, keys: list[str], tasks: tuple[str, ...], halving: bool) -> tuple[str, ...]:
    return (
        text.MISSING if point.rank is None else str(point.rank),
        *(str(_plain(point.settings[key])) for key in keys),
        text.scientific(point.validation),
        text.interval(point.interval, text.scientific),
        *(text.plus_minus(*point.test[t]) for t in tasks),
        f"{point.n} of {point.n_total}",
        *([text.plain(point.ended)] if halving else []),
    )


def laws_table(snapshot: Snapshot, content: Sequence[PowerLaw]) -> Iterator[TextTable]:
    """Yield the power laws as one table; nothing where no sweep is over numbers of samples."""
    if not content:
        return
    keys = _keys(snapshot, content[0])
    header = ("task", "variant", *keys, "samples", "exponent", "95 % interval", "RMSE with the most samples",
              "samples for half of it", "data saved by learning together", "95 % interval")  # fmt: skip
    notes = (
        "Test RMSE (scaled) = factor x samples^-exponent, fitted to the logarithms of all members' errors; what lies"
        " beyond the samples trained on is an extrapolation.",
        "Data saved: the share of samples that learning together saves at the error with the most samples, against the"
        " variant of that task alone; its interval is propagated from the errors of both fits.",
    )
    yield TextTable(
        "Test error against the number of training samples", header, [_law_cells(law, keys) for law in content], notes
    )


def _law_cells(law: PowerLaw, keys: list[str]) -> tuple[str, ...]:
    half = law.samples(law.rmse_at_most / 2)
    return (
        law.task, law.of, *(str(_plain(law.settings[key])) for key in keys), f"{law.sizes[0]:,} to {law.sizes[-1]:,}",
        f"{law.exponent:.2f}", text.interval(law.interval, text.two_decimals),
        text.scientific(law.rmse_at_most), text.MISSING if half is None else f"{half:,.0f}",
        text.percent(law.saved), text.interval(law.saved_interval, text.percent),
    )  # fmt: skip


def _halving(snapshot: Snapshot) -> bool:
    sweep = snapshot.campaign.sweep
    return sweep is not None and sweep.halving is not None


def _keys(snapshot: Snapshot, of: PointResult | PowerLaw) -> list[str]:
    """Return the sweep's keys that a point or law has a setting of, in the sweep's order."""
    sweep = snapshot.campaign.sweep
    return [key for key in sweep.over if key in of.settings] if sweep else []


def _plain(value: Any) -> str | int | float:
    """Return a setting's value as a cell: a list, or a section with several keys, as its values."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return " ".join(map(str, value.values()))
    return value if isinstance(value, str | int | float) else " ".join(map(str, value))
