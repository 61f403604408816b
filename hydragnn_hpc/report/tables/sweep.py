"""A sweep's points by rank, and errors against the number of training samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hydragnn_hpc.report import text
from hydragnn_hpc.report.analysis import sweep
from hydragnn_hpc.report.analysis.sweep import PointResult, PowerLaw
from hydragnn_hpc.report.results.rows import Row, Snapshot
from hydragnn_hpc.report.tables.text_table import SPREAD, TextTable, tidy

SHOWN = 50
"""Points on the page and in Markdown; ``sweep.csv`` has all."""
_ABOUT = (
    "Ranked by the mean over tasks of the validation RMSE, scaled: the choice among points rests on the validation set,"
    " and the test errors are those of points so chosen."
)


def point_rows(snapshot: Snapshot) -> list[Row]:
    """Return the points of a sweep: a row per point, and its keys and test errors as columns."""
    tasks = snapshot.campaign.tasks
    found = []
    for point in sweep.ranked(snapshot):
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
    laws = sweep.power_laws(snapshot)
    found = []
    for law in laws:
        low, high = law.interval or (None, None)
        last = law.error(law.sizes[-1])
        row: Row = {"task": law.task, "of": law.of, **{key: _plain(value) for key, value in law.settings.items()}}
        row.update({"sizes": len(law.sizes), "least": law.sizes[0], "most": law.sizes[-1]})
        row.update({"factor": law.factor, "exponent": law.exponent, "exponent_low": low, "exponent_high": high})
        row.update({"rmse_at_most": last, "samples_for_half": law.samples(last / 2), "saved": sweep.saved(laws, law)})
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
    points = sweep.ranked(snapshot)
    for of in dict.fromkeys(p.of for p in points):
        own = [p for p in points if p.of == of]
        keys, tasks = list(own[0].settings), list(own[0].test)
        notes = (_ABOUT, f"{SPREAD}.", *([f"The first {SHOWN} of {len(own):,}."] if len(own) > SHOWN else []))
        header = ("rank", *keys, "validation RMSE", "95 % interval", *(f"test RMSE {t}" for t in tasks), "n of N")
        yield TextTable(f"Points of {of}", header, [_cells(p, keys) for p in own[:SHOWN]], notes)


def _cells(point: PointResult, keys: list[str]) -> tuple[str, ...]:
    interval = point.interval
    shown = text.MISSING if interval is None else f"[{', '.join(text.scientific(v) for v in interval)}]"
    errors = [text.plus_minus(mean, std) for mean, std in point.test.values()]
    settings = [str(_plain(point.settings[key])) for key in keys]
    rank, validation = text.plain(point.rank), text.scientific(point.validation)
    return (rank, *settings, validation, shown, *errors, f"{point.n} of {point.n_total}")


def laws_table(snapshot: Snapshot) -> Iterator[TextTable]:
    """Yield the power laws; nothing where no sweep is over numbers of samples."""
    laws = sweep.power_laws(snapshot)
    if not laws:
        return
    keys = list(laws[0].settings)
    header = ("task", "variant", *keys, "samples", "exponent", "95 % interval", "RMSE at most samples",
              "samples for half of it", "data saved by learning together")  # fmt: skip
    notes = (
        "Test RMSE (scaled) = factor x samples^-exponent, fitted to the logarithms of all members' errors; what lies"
        " beyond the samples trained on is an extrapolation.",
        "Data saved: for the error at most samples, against the variant of that task alone.",
    )
    yield TextTable(
        "Test error against the number of training samples", header, [_law(laws, w, keys) for w in laws], notes
    )


def _law(laws: list[PowerLaw], law: PowerLaw, keys: list[str]) -> tuple[str, ...]:
    last = law.error(law.sizes[-1])
    interval = text.MISSING if law.interval is None else f"[{law.interval[0]:.2f}, {law.interval[1]:.2f}]"
    settings = [str(_plain(law.settings[key])) for key in keys]
    half, share = law.samples(last / 2), sweep.saved(laws, law)
    return (
        law.task, law.of, *settings, f"{law.sizes[0]:,} to {law.sizes[-1]:,}", f"{law.exponent:.2f}", interval,
        text.scientific(last), text.MISSING if half is None else f"{half:,.0f}",
        text.MISSING if share is None else text.percent(share),
    )  # fmt: skip


def _plain(value: Any) -> str | int | float:
    return (
        value
        if isinstance(value, str | int | float)
        else " ".join(map(str, value.values() if isinstance(value, dict) else value))
    )
