"""A sweep's points by rank, and errors against the number of training samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results.rows import Row, Snapshot
from hydragnn_hpc.report.tables.text_table import SPREAD, TextTable, tidy

if TYPE_CHECKING:
    from hydragnn_hpc.report.analysis.sweep import PointResult, PowerLaw

SHOWN = 50
"""Points on the page and in Markdown; ``sweep.csv`` has all."""
_ABOUT = (
    "Ranked by the mean over tasks of the scaled validation RMSE: points are chosen on the validation set, and their"
    " test errors play no part in the choice."
)


def _points(snapshot: Snapshot) -> list[PointResult]:
    if snapshot.campaign.sweep is None:
        return []
    # Imported here because tables are also written during a run, where statistics would be slow to import.
    from hydragnn_hpc.report.analysis.sweep import ranked

    return ranked(snapshot)


def _laws(snapshot: Snapshot) -> list[tuple[PowerLaw, float | None]]:
    if snapshot.campaign.sweep is None:
        return []
    from hydragnn_hpc.report.analysis.sweep import power_laws, saved

    laws = power_laws(snapshot)
    return [(law, saved(laws, law)) for law in laws]


def point_rows(snapshot: Snapshot) -> list[Row]:
    """Return the points of a sweep: a row per point, and its keys and test errors as columns."""
    tasks = snapshot.campaign.tasks
    found = []
    for point in _points(snapshot):
        low, high = point.interval or (None, None)
        row: Row = {"of": point.of, "rank": point.rank, "variant": point.name}
        row.update({key: _plain(value) for key, value in point.settings.items()})
        row.update({"n": point.n, "n_total": point.n_total, "rmse_validation": point.validation})
        row.update({"rmse_validation_low": low, "rmse_validation_high": high})
        for task in tasks:
            row[f"rmse_{task}"], row[f"rmse_std_{task}"] = point.test.get(task, (None, None))
        found.append(row)
    return found


def law_rows(snapshot: Snapshot) -> list[Row]:
    """Return the power laws of test errors: a row per task and variant."""
    found = []
    for law, share in _laws(snapshot):
        low, high = law.interval or (None, None)
        last = law.error(law.sizes[-1])
        row: Row = {"task": law.task, "of": law.of, **{key: _plain(value) for key, value in law.settings.items()}}
        row.update({"sizes": len(law.sizes), "least": law.sizes[0], "most": law.sizes[-1]})
        row.update({"factor": law.factor, "exponent": law.exponent, "exponent_low": low, "exponent_high": high})
        row.update({"rmse_at_most": last, "samples_for_half": law.samples(last / 2), "saved": share})
        found.append(row)
    return found


def tables(snapshot: Snapshot, content: list[Row]) -> list[TextTable]:
    """Return the ranked points, and all columns."""
    shown = list(ranking(snapshot))
    return [*shown, tidy("A row per point", content, tuple(content[0]))]


def law_tables(snapshot: Snapshot, content: list[Row]) -> list[TextTable]:
    """Return the power laws, and all columns."""
    return [*laws_table(snapshot), tidy("A row per task and variant", content, tuple(content[0]))]


def ranking(snapshot: Snapshot) -> Iterator[TextTable]:
    """Yield a table of ranked points for each variant that a sweep is of."""
    points = _points(snapshot)
    for of in dict.fromkeys(p.of for p in points):
        own = [p for p in points if p.of == of]
        keys, tasks = list(own[0].settings), list(own[0].test)
        notes = (_ABOUT, f"{SPREAD}.", *([f"The first {SHOWN} of {len(own):,}."] if len(own) > SHOWN else []))
        header = ("rank", *keys, "validation RMSE", "95 % interval", *(f"test RMSE {t}" for t in tasks), "n of N")
        yield TextTable(f"Points of {of}", header, [_cells(p, keys) for p in own[:SHOWN]], notes)


def _cells(point: PointResult, keys: list[str]) -> tuple[str, ...]:
    shown = text.interval(point.interval, text.scientific)
    errors = [text.plus_minus(mean, std) for mean, std in point.test.values()]
    settings = [str(_plain(point.settings[key])) for key in keys]
    rank, validation = text.plain(point.rank), text.scientific(point.validation)
    return (rank, *settings, validation, shown, *errors, f"{point.n} of {point.n_total}")


def laws_table(snapshot: Snapshot) -> Iterator[TextTable]:
    """Yield the power laws; nothing where no sweep is over numbers of samples."""
    laws = _laws(snapshot)
    if not laws:
        return
    keys = list(laws[0][0].settings)
    header = ("task", "variant", *keys, "samples", "exponent", "95 % interval", "RMSE at most samples",
              "samples for half of it", "data saved by learning together")  # fmt: skip
    notes = (
        "Test RMSE (scaled) = factor x samples^-exponent, fitted to the logarithms of all members' errors; what lies"
        " beyond the samples trained on is an extrapolation.",
        "Data saved: for the error at most samples, against the variant of that task alone.",
    )
    yield TextTable(
        "Test error against the number of training samples",
        header,
        [_law(law, share, keys) for law, share in laws],
        notes,
    )


def _law(law: PowerLaw, share: float | None, keys: list[str]) -> tuple[str, ...]:
    last = law.error(law.sizes[-1])
    interval = text.interval(law.interval, "{:.2f}".format)
    settings = [str(_plain(law.settings[key])) for key in keys]
    half = law.samples(last / 2)
    return (
        law.task, law.of, *settings, f"{law.sizes[0]:,} to {law.sizes[-1]:,}", f"{law.exponent:.2f}", interval,
        text.scientific(last), text.MISSING if half is None else f"{half:,.0f}",
        text.MISSING if share is None else text.percent(share),
    )  # fmt: skip


def _plain(value: Any) -> str | int | float:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return " ".join(map(str, value.values()))
    return value if isinstance(value, str | int | float) else " ".join(map(str, value))
