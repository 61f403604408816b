"""The spread between resampled replicas, by what causes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hydragnn_hpc.report import text
from hydragnn_hpc.report.results.rows import CsvRow, Snapshot
from hydragnn_hpc.report.tables.text_table import TextTable, tidy

if TYPE_CHECKING:
    from hydragnn_hpc.report.analysis.spread import Spread

SHOWN = 50
"""Rows on the page and in Markdown; ``spread.csv`` has all."""


def spreads_of(snapshot: Snapshot) -> Sequence[Spread]:
    """Return the snapshot's spreads, computed by the first call: one per variant and task that is resampled."""
    campaign = snapshot.campaign
    if campaign.training.resample == "none" and not any("resample" in v.training for v in campaign.variants):
        return []
    if snapshot.spreads is None:
        # Imported here because tables are also written during a run, where statistics would be slow to import.
        from hydragnn_hpc.report.analysis.spread import spreads

        snapshot.spreads = spreads(snapshot)
    return snapshot.spreads


def columns(_: Snapshot, spread: Spread) -> CsvRow:
    """Return the row of a variant and task."""
    known = spread.sources
    low, high = (known and known.interval) or (None, None)
    return {
        "variant": spread.variant, "task": spread.task, "n": spread.n, "rmse_std": spread.std,
        "std_initial_weights": known and known.initial, "std_data": known and known.data,
        "variance_ratio": known and known.ratio, "variance_ratio_low": low, "variance_ratio_high": high,
        "separated_by": known.against if known else "", "not_separated": spread.why_not,
    }  # fmt: skip


def tables(snapshot: Snapshot, _: Sequence[Spread], csv: list[CsvRow]) -> list[TextTable]:
    """Return the sources of the spread, and all columns."""
    return [*shown(snapshot), tidy("A row per variant and task", csv)]


def shown(snapshot: Snapshot) -> Iterator[TextTable]:
    """Yield the sources of the spread; nothing where no variant is resampled."""
    spreads = spreads_of(snapshot)
    if not spreads:
        return
    header = ("variant", "task", "spread", "from initial weights", "from data", "variance ratio", "95 % interval",
              "separated by", "members")  # fmt: skip
    notes = [
        "Standard deviations of the test RMSE (scaled). Variance ratio: of both sources over initial weights alone;"
        " data matter where its interval (F distribution) lies above 1.",
        *([f"The first {SHOWN} of {len(spreads):,}."] if len(spreads) > SHOWN else []),
    ]
    yield TextTable("Where the spread comes from", header, [_cells(s) for s in spreads[:SHOWN]], tuple(notes))


def _cells(spread: Spread) -> tuple[str, ...]:
    start, known = (spread.variant, spread.task, text.scientific(spread.std)), spread.sources
    if known is None:
        return (*start, *(text.MISSING,) * 5, str(spread.n))
    interval = text.interval(known.interval, text.two_decimals)
    sources = (text.scientific(known.initial), text.scientific(known.data), f"{known.ratio:.2f}")
    return (*start, *sources, interval, known.against, str(spread.n))


def sentences(snapshot: Snapshot) -> Iterator[str]:
    """Yield what the replicas' spread means; nothing where no variant is resampled."""
    spreads = spreads_of(snapshot)
    if not spreads:
        return
    decided = [(s, s.sources.interval) for s in spreads if s.sources and s.sources.interval]
    if decided:
        matter = [f"{s.task} in {s.variant}" for s, (low, _) in decided if low > 1]
        more = f", and {len(matter) - SHOWN:,} more" if len(matter) > SHOWN else ""
        yield (
            "Replicas differ in their initial weights and in the samples they are trained on. The samples add to the"
            f" spread, beyond chance, for {', '.join(matter[:SHOWN]) or 'none of the errors'}{more}."
        )
    for reason in dict.fromkeys(s.why_not for s in spreads if s.why_not):
        names = list(dict.fromkeys(s.variant for s in spreads if s.why_not == reason))
        more = f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        yield (
            f"The spread of {', '.join(names[:SHOWN])}{more} comes from initial weights and samples together, which"
            f" cannot be separated: {reason}."
        )
