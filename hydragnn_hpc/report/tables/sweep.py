"""A sweep's points by rank, and errors against the number of training samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results.rows import Row, Snapshot
from hydragnn_hpc.report.tables.text_table import SPREAD, TextTable, tidy

SHOWN = 50
"""Points on the page and in Markdown; ``sweep.csv`` has all."""
_ABOUT = (
    "Ranked by the mean over tasks of the scaled validation RMSE: points are chosen on the validation set, and their"
    " test errors play no part in the choice."
)
_OF_HALVING = (
    "Points with a rank were trained to the end; the others were ended at a rung of the halving, where other points had"
    " lower validation errors, and their errors are those of that epoch."
)


def point_rows(snapshot: Snapshot) -> list[Row]:
    """Return the points of a sweep by rank: a row per point, with its keys and test errors as columns."""
    if snapshot.campaign.sweep is None:
        return []
    # Imported here because tables are also written during a run, where statistics would be slow to import.
    from hydragnn_hpc.report.analysis.sweep import ranked

    table = []
    for point in ranked(snapshot):
        low, high = point.interval or (None, None)
        row: Row = {"of": point.of, "rank": point.rank, "variant": point.name}
        row.update({key: _plain(value) for key, value in point.settings.items()})
        row.update({"n": point.n, "n_total": point.n_total, "rmse_validation": point.validation})
        row.update({"rmse_validation_low": low, "rmse_validation_high": high})
        if snapshot.campaign.sweep.halving:
            row["ended_at_epoch"] = point.ended
        for task in snapshot.campaign.tasks:
            row[f"rmse_{task}"], row[f"rmse_std_{task}"] = point.test.get(task, (None, None))
        table.append(row)
    return table


def law_rows(snapshot: Snapshot) -> list[Row]:
    """Return the power laws of test errors: a row per task and variant."""
    if snapshot.campaign.sweep is None:
        return []
    from hydragnn_hpc.report.analysis.sweep import power_laws, saved

    table, laws = [], power_laws(snapshot)
    for law in laws:
        low, high = law.interval or (None, None)
        last = law.error(law.sizes[-1])
        row: Row = {"task": law.task, "of": law.of, **{key: _plain(value) for key, value in law.settings.items()}}
        row.update({"sizes": len(law.sizes), "least": law.sizes[0], "most": law.sizes[-1]})
        row.update({"factor": law.factor, "exponent": law.exponent, "exponent_low": low, "exponent_high": high})
        share, bounds = saved(laws, law) or (None, None)
        low, high = bounds or (None, None)
        row.update({"rmse_at_most": last, "samples_for_half": law.samples(last / 2)})
        row.update({"saved": share, "saved_low": low, "saved_high": high})
        table.append(row)
    return table


def tables(snapshot: Snapshot, content: list[Row]) -> list[TextTable]:
    """Return the ranked points, and a table of all columns."""
    return [*ranking(snapshot, content), tidy("A row per point", content, tuple(content[0]))]


def law_tables(snapshot: Snapshot, content: list[Row]) -> list[TextTable]:
    """Return the power laws, and a table of all columns."""
    return [*laws_table(snapshot, content), tidy("A row per task and variant", content, tuple(content[0]))]


def ranking(snapshot: Snapshot, content: list[Row]) -> Iterator[TextTable]:
    """Yield a table of the ranked points (`point_rows`) for each variant that a sweep is of."""
    for of in dict.fromkeys(r["of"] for r in content):
        own = [r for r in content if r["of"] == of]
        keys, tasks = _keys(snapshot, own[0]), snapshot.campaign.variant(own[0]["variant"]).tasks
        ended = ("ended at epoch",) if "ended_at_epoch" in own[0] else ()
        notes = (
            _ABOUT,
            *((_OF_HALVING,) if ended else ()),
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
            *ended,
        )
        yield TextTable(f"Points of {of}", header, [_cells(r, keys, tasks) for r in own[:SHOWN]], notes)


def _cells(row: Row, keys: list[str], tasks: tuple[str, ...]) -> tuple[str, ...]:
    low, high = row["rmse_validation_low"], row["rmse_validation_high"]
    return (
        text.MISSING if row["rank"] is None else str(row["rank"]),
        *(str(row[key]) for key in keys),
        text.scientific(row["rmse_validation"]),
        text.interval(None if low is None else (low, high), text.scientific),
        *(text.plus_minus(row[f"rmse_{t}"], row[f"rmse_std_{t}"]) for t in tasks),
        f"{row['n']} of {row['n_total']}",
        *([text.plain(row["ended_at_epoch"])] if "ended_at_epoch" in row else []),
    )


def laws_table(snapshot: Snapshot, content: list[Row]) -> Iterator[TextTable]:
    """Yield the power laws (`law_rows`) as one table; nothing where no sweep is over numbers of samples."""
    if not content:
        return
    keys = _keys(snapshot, content[0])
    header = ("task", "variant", *keys, "samples", "exponent", "95 % interval", "RMSE at most samples",
              "samples for half of it", "data saved by learning together", "95 % interval")  # fmt: skip
    notes = (
        "Test RMSE (scaled) = factor x samples^-exponent, fitted to the logarithms of all members' errors; what lies"
        " beyond the samples trained on is an extrapolation.",
        "Data saved: for the error at most samples, against the variant of that task alone; its interval is"
        " propagated from the errors of both fits.",
    )
    yield TextTable(
        "Test error against the number of training samples", header, [_law_cells(r, keys) for r in content], notes
    )


def _law_cells(row: Row, keys: list[str]) -> tuple[str, ...]:
    low, high, half = row["exponent_low"], row["exponent_high"], row["samples_for_half"]
    least, most = row["saved_low"], row["saved_high"]
    return (
        row["task"], row["of"], *(str(row[key]) for key in keys), f"{row['least']:,} to {row['most']:,}",
        f"{row['exponent']:.2f}", text.interval(None if low is None else (low, high), "{:.2f}".format),
        text.scientific(row["rmse_at_most"]), text.MISSING if half is None else f"{half:,.0f}",
        text.percent(row["saved"]), text.interval(None if least is None else (least, most), text.percent),
    )  # fmt: skip


def _keys(snapshot: Snapshot, row: Row) -> list[str]:
    """Return the keys of the sweep that a row has a column for."""
    sweep = snapshot.campaign.sweep
    return [key for key in sweep.over if key in row] if sweep else []


def _plain(value: Any) -> str | int | float:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return " ".join(map(str, value.values()))
    return value if isinstance(value, str | int | float) else " ".join(map(str, value))
