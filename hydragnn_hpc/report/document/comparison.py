"""A comparison of campaigns as tables, on a terminal and as a page of Markdown."""

from __future__ import annotations

from hydragnn_hpc.report import text
from hydragnn_hpc.report.analysis.comparison import Comparison
from hydragnn_hpc.report.analysis.statistics import Pair, verdict
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.tables.text_table import SPREAD, TextTable, as_markdown


def tables(comparison: Comparison) -> list[TextTable]:
    """Return the errors of all campaigns by target, and the differences between campaigns."""
    ordered = sorted(comparison.errors, key=lambda e: e.field)
    shown = [
        (
            e.field, e.campaign, e.variant, text.with_spread(*rows.mean_std(e.rmse)), text.plain(e.rmse_of_mean),
            e.unit, str(len(e.rmse)),
        )
        for e in ordered
    ]  # fmt: skip
    sizes = ", ".join(f"{size:,} of {campaign}" for campaign, size in comparison.sizes.items())
    shared = f"Errors over the {comparison.samples:,} test samples that all campaigns share (test sets: {sizes})"
    notes = (f"{shared}. Samples are the same by {comparison.rule}. {SPREAD}.",)
    header = ("target", "campaign", "variant", "RMSE of a member", "RMSE of the mean", "unit", "members")
    units = {e.field: e.unit for e in ordered}
    pairs = [_pair(p, units[p.task]) for p in comparison.pairs]
    columns = ("target", "first", "second", "difference", "95 % interval", "p (Holm)", "unit", "first is", "members")
    rule = (
        "Difference of mean RMSE, first minus second, with a BCa bootstrap interval where both have at least three"
        " members; p values of Welch's test after Holm's correction over all rows. Better or worse: the interval"
        " excludes zero and p is below 0.05."
    )
    return [
        TextTable("Test errors on the same samples", header, shown, notes),
        TextTable("Differences between campaigns", columns, pairs, (rule,)),
    ]


def page(comparison: Comparison) -> str:
    """Return the comparison as a page of Markdown."""
    campaigns = ", ".join(map(text.markdown, comparison.sizes))
    return "\n".join([f"# Comparison of {campaigns}", "", *(as_markdown(t) for t in tables(comparison))])


def _pair(p: Pair, unit: str) -> tuple[str, ...]:
    """Return the row of a pair of variants of different campaigns."""
    p_value = text.MISSING if p.interval is None else text.plain(p.p_holm, 2)
    return (
        p.task, p.first, p.second, text.plain(p.difference), text.interval(p.interval, text.plain), p_value, unit,
        verdict(p, p.difference), f"{p.n[0]} and {p.n[1]}",
    )  # fmt: skip
