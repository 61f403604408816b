"""The report as sections of text, tables and figures: what the page and the supplement both show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.durations import in_words
from hydragnn_hpc.ledger import State
from hydragnn_hpc.report import text
from hydragnn_hpc.report.analysis import costs, paper
from hydragnn_hpc.report.analysis.claims import PaperClaim
from hydragnn_hpc.report.analysis.content import Content
from hydragnn_hpc.report.document import provenance
from hydragnn_hpc.report.figures.style import SavedFigure
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.ground_truth import ev_per_atom
from hydragnn_hpc.report.tables import calibration, members, spread, sweep, table1, timing
from hydragnn_hpc.report.tables.status import counts
from hydragnn_hpc.report.tables.text_table import TextTable
from hydragnn_hpc.report.text import percent, plain, plus_minus, scientific

FAILURES = 500
"""At most this many failures are listed; every member's ``failure.json`` has its own."""
EVIDENCE_HEADER = ("comparison", "values", "verdict", "why")
"""Columns of the table of a claim's evidence."""
_FROZEN = "As frozen in the campaign's folder by its first run."
_ABOUT_CLAIMS = (
    f"Claims of {paper.CITATION}, tested on this campaign's members. A comparison of errors is decided only"
    " if its 95 % interval excludes zero, the p value of Welch's test after Holm's correction is below 0.05, and both"
    " sides have at least three members; a claim holds if all its comparisons do."
)


@dataclass(frozen=True)
class ReportSection:
    """A section of the report; ``key`` names it in links."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[TextTable, ...] = ()
    figures: tuple[SavedFigure, ...] = ()
    claims: tuple[PaperClaim, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class _Outline:
    """How to make a section from the content; its figures name it (`figures.registry`)."""

    key: str
    title: str
    paragraphs: Callable[[Content], Iterable[str]] = lambda content: ()
    tables: Callable[[Content], Iterable[TextTable]] = lambda content: ()
    claims: Callable[[Content], Iterable[PaperClaim]] = lambda content: ()
    code: Callable[[Content], str] = lambda content: ""


def sections(content: Content, figures: Sequence[SavedFigure]) -> list[ReportSection]:
    """Return the report's sections in order; those with nothing to show are left out."""
    outlined = [
        ReportSection(
            o.key,
            o.title,
            tuple(o.paragraphs(content)),
            tuple(o.tables(content)),
            tuple(f for f in figures if f.section == o.key),
            tuple(o.claims(content)),
            o.code(content),
        )
        for o in SECTIONS
    ]
    return [s for s in outlined if s.paragraphs or s.tables or s.figures or s.claims or s.code]


def _learned_paragraphs(content: Content) -> Iterator[str]:
    results = content.results
    if not content.headlines:
        yield "No member has finished yet."
        return
    if line := results.closing_line:
        yield f"{line[0].upper()}{line[1:]}."
    yield _cost_in_a_line(content)
    states = counts(results)
    bad = [f"{states[s.value]:,} {s.value}" for s in (State.FAILED, State.DIVERGED) if states.get(s.value)]
    if bad:
        yield f"Not all members finished: {' and '.join(bad)} (see Failures)."


def _cost_in_a_line(content: Content) -> str:
    """Return a sentence on what the members with a result cost."""
    results = content.results
    names = [v.name for v in results.campaign.variants]
    done = [m for m in results.members if m.result]
    hours = costs.device_hours(results, names)
    spent = in_words(hours * 3600) if hours < 1 else f"{plain(hours, 3)} h"
    means = {v: rows.mean_std(costs.seconds_of(results, v))[0] for v in names}
    known = {v: seconds for v, seconds in means.items() if seconds is not None}
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    of_stack = " (of its stack)" if rows.stacked(results) > 1 else ""
    each = f"a member of {low} takes {in_words(known[low])}{of_stack}"
    if low != high:
        each = f"a member takes {in_words(known[low])} ({low}) to {in_words(known[high])} ({high}){of_stack}"
    return f"Cost: {spent} of device time for {counted(len(done), 'member')}; {each}."


def _learned(content: Content) -> Iterator[TextTable]:
    headlines = content.headlines
    if not headlines:
        return
    optional = {
        "RMSE of the mean": [h.rmse_of_mean for h in headlines],
        "no network": [h.rmse_baseline for h in headlines],
        "times better": [h.gain for h in headlines],
    }
    optional = {name: values for name, values in optional.items() if any(v is not None for v in values)}
    shown = []
    r2 = ["R²"] if content.results.summary else []
    for k, h in enumerate(headlines):
        own = [text.with_spread(h.rmse, h.rmse_std), *(plain(v[k], 3) for v in optional.values())]
        shown.append((h.task, h.variant, *own, h.unit, *(text.r_squared(h.r2) for _ in r2), f"{h.n} of {h.n_total}"))
    header = ("task", "best variant", "RMSE of a member", *optional, "unit", *r2, "n of N")
    notes = ["Best variant: lowest validation error. All errors are of the test set; ± over members."]
    if "RMSE of the mean" in optional:
        notes.append("RMSE of the mean: of the ensemble's mean prediction.")
    if "no network" in optional:
        notes.append("No network: the better baseline (see Table 1); times better: of the mean, or of a member.")
    yield TextTable("The best variant of each task", header, shown, (" ".join(notes),))


def _errors(content: Content) -> Iterator[TextTable]:
    results = content.results
    yield table1.paper_form(results)
    by_task = table1.by_task(results)
    by_task = replace(by_task, notes=(*by_task.notes, *_known(content)))
    sizes = np.unique(content.test_set.n_atoms) if content.test_set is not None else np.array([])
    in_ry = [row.unit == "Ry" for row in table1.sorted_rows(results)]
    if len(sizes) != 1 or not any(in_ry):
        yield by_task
        return
    factor = float(ev_per_atom(1.0, float(sizes[0])))
    errors = [row.rmse_unit_mean for row in table1.sorted_rows(results)]
    per_atom = [plain(e * factor) if e is not None and ry else "" for e, ry in zip(errors, in_ry, strict=True)]
    cells = [(*shown, extra) for shown, extra in zip(by_task.cells, per_atom, strict=True)]
    note = f"Energies in Ry are per cell of {sizes[0]} atoms."
    yield TextTable(by_task.title, (*by_task.header, "RMSE / (eV/atom)"), cells, (*by_task.notes, note))


def _known(content: Content) -> Iterator[str]:
    """Yield a note on the test values that errors are computed from, if some are missing."""
    tasks = content.results.campaign.tasks
    truths = {t: content.test_set.targets.get(s.field) for t, s in tasks.items()} if content.test_set else {}
    sizes = [(t, int(np.isfinite(v).sum()), v.size) for t, v in truths.items() if v is not None]
    shown = [f"{t} {known:,} of {size:,}" for t, known, size in sizes if known < size]
    if shown:
        yield f"Some test values are missing; errors are computed from the known ones: {', '.join(shown)}."


def _paper_paragraphs(content: Content) -> tuple[str, ...]:
    if not content.paper:
        return ()
    return (
        f"{paper.CITATION}, Table 1: mean ± std over {paper.MEMBERS} members, scaled. Scaled errors are comparable"
        " only as far as the two data sets have the same ranges.",
    )


def _against_paper(content: Content) -> Iterator[TextTable]:
    if content.paper:
        shown = [
            (b.variant, b.task, plus_minus(b.mean, b.std), plus_minus(b.paper_mean, b.paper_std), plain(b.ratio, 3),
             f"{b.n} of {b.n_total}")
            for b in content.paper
        ]  # fmt: skip
        header = ("variant", "task", "RMSE here", "RMSE in the paper", "ratio here / paper", "n of N")
        yield TextTable("Test RMSE (scaled) here and in the paper", header, shown)


def _about_claims(content: Content) -> tuple[str, ...]:
    return (_ABOUT_CLAIMS,) if content.claims else ()


def _sweep(content: Content) -> Iterator[TextTable]:
    yield from sweep.ranking(content.results, sweep.points(content.results))
    yield from sweep.laws_table(content.results, sweep.laws(content.results))


def _together(content: Content) -> Iterator[TextTable]:
    if content.together and not content.claims:
        shown = [
            (t.task, t.together, t.alone, percent(t.change), t.verdict, f"{t.n[0]} and {t.n[1]}")
            for t in content.together
        ]
        header = ("task", "together", "alone", "change of RMSE", "together is", "members")
        note = "Better or worse: decided as in 'Variants compared', with at least three members on either side."
        yield TextTable("Test RMSE of a task learned together with others, and alone", header, shown, (note,))


def _pair_paragraphs(content: Content) -> Iterator[str]:
    if not content.pairs:
        return
    yield "Difference of mean test RMSE (scaled), first minus second."
    if any(p.interval for p in content.pairs):
        yield (
            "95 % bootstrap intervals (BCa, seeded) where both have at least three members; p values of Welch's test,"
            " before and after Holm's correction over all pairs; ratio of standard deviations, first over second, with"
            " its 95 % interval (F distribution)."
        )


def _pairs(content: Content) -> Iterator[TextTable]:
    if not content.pairs:
        return
    decided = [p.interval is not None for p in content.pairs]
    shown = []
    for p, known in zip(content.pairs, decided, strict=True):
        tests = [
            text.interval(p.interval, scientific),
            plain(p.p_value if known else None, 2), plain(p.p_holm if known else None, 2),
            plain(p.spread_ratio if known else None, 3), text.interval(p.spread_interval, text.two_decimals),
        ]  # fmt: skip
        members = f"{p.n[0]} and {p.n[1]}"
        shown.append((p.task, p.first, p.second, scientific(p.difference), *(tests if any(decided) else []), members))
    tests = ["95 % interval", "p (Welch)", "p (Holm)", "ratio of spreads", "95 % interval"]
    header = ("task", "first", "second", "difference", *(tests if any(decided) else []), "members")
    yield TextTable("All pairs of variants that share a task", header, shown)


def _head_in_a_line(content: Content) -> Iterator[str]:
    mean = costs.mean_head(content.results)
    if mean is not None:
        few = "; too few measured times, one per stack, for an interval"
        interval = f", 95 % interval {text.interval(mean[1], percent)}" if mean[1] else few
        yield (
            f"One additional head costs {percent(mean[0])} of training time (geometric mean over all pairs of variants"
            f" that differ by one task{interval})."
        )


def _costs(content: Content) -> Iterator[TextTable]:
    yield timing.timing_table(content.results, rows.timing_rows(content.results))
    if content.costs:
        known = any(c.interval for c in content.costs)
        shown = [
            (c.variant, " + ".join(c.singles), plain(c.seconds), plain(c.seconds_singles), plain(c.ratio, 3),
             *([text.interval(c.interval, text.two_decimals)] if known else []), plain(c.device_hours, 3),
             plain(c.device_hours_singles, 3))
            for c in content.costs
        ]  # fmt: skip
        header = ("together", "alone", "seconds together", "seconds alone, summed", "times faster",
                  *(["95 % interval"] if known else []), "device-hours together", "device-hours alone")  # fmt: skip
        note = "Device-hours count all members with a result; a stack counts once; failed attempts are not included."
        yield TextTable("One multi-task model against its single-task models", header, shown, (note,))
    if content.heads:
        known = any(h.interval for h in content.heads)
        added = [
            (h.smaller, h.larger, percent(h.more), *([text.interval(h.interval, percent)] if known else []),
             percent(h.more_per_epoch), f"{h.n[0]} and {h.n[1]}")
            for h in content.heads
        ]  # fmt: skip
        columns = ("from", "to", "added time", *(["95 % interval"] if known else []), "added time per epoch",
                   "measured times")  # fmt: skip
        yield TextTable("One additional head", columns, added)


def _about_intervals(content: Content) -> Iterator[str]:
    if content.calibrated:
        yield (
            "Calibrated intervals are the members' spread (and the noise that they predict, if they do) times a factor"
            " from their errors on the validation set (split conformal; at node level the structure is the unit). They"
            " promise their level on average over structures from the training's distribution, but nothing for a single"
            " structure, nor outside that distribution. The validation set has also chosen the members' epochs, so"
            " errors on it are slightly too small; and where samples are symmetry equivalents of each other, it holds"
            " fewer independent ones than its number of structures suggests."
        )
    reasons: dict[str, list[str]] = {}
    for variant, why in content.uncalibrated.items() if content.uncertainties else ():
        reasons.setdefault(why, []).append(variant)
    for why, variants in reasons.items():
        yield f"No calibrated intervals of {', '.join(variants)}: {why}."


def _uncertainty(content: Content) -> Iterator[TextTable]:
    uncertainties = content.uncertainties
    if not uncertainties:
        return
    with_noise = any(u.noise is not None for u in uncertainties)
    shown = [
        (u.variant, u.task, u.unit, plain(u.rmse_mean_member), plain(u.rmse_best_member), plain(u.rmse_ensemble),
         percent(u.rmse_ensemble / u.rmse_mean_member - 1 if u.rmse_mean_member else None), plain(u.spread),
         *([plain(u.noise)] if with_noise else []), plain(u.spearman, 2), plain(u.calibration_error, 2), str(u.n))
        for u in uncertainties
    ]  # fmt: skip
    header = ("variant", "task", "unit", "mean member RMSE", "best member RMSE", "ensemble RMSE", "change", "spread",
              *(["noise"] if with_noise else []), "rank correlation", "calibration error", "members")  # fmt: skip
    notes = (
        "Spread: root mean square of the members' standard deviation (ddof = 1). Rank correlation: of spread and"
        " absolute error of the ensemble's mean. Calibration error: mean distance of the calibration curve from the"
        " diagonal.",
        *(["Where members predict the noise of the data (loss: nll), the spread includes it."] if with_noise else []),
    )
    yield TextTable(
        "The ensemble's mean against single members, and its spread against its error", header, shown, notes
    )
    yield from calibration.coverage_tables(content.results.coverages)
    least = [
        (u.variant, u.task, c.formula, plain(c.spread), plain(c.rmse), u.unit, str(c.samples))
        for u in uncertainties
        for c in u.least_certain
        if any(other.samples > 1 for other in u.least_certain)
    ]
    if least:
        columns = ("variant", "task", "composition", "spread", "ensemble RMSE", "unit", "test samples")
        yield TextTable("Least certain compositions", columns, least)


def _failures(content: Content) -> Iterator[TextTable]:
    shown = []
    for member in content.results.members:
        for attempt in member.failures:
            place = f"{attempt.host} rank {attempt.rank}"
            cells = (attempt.cause, attempt.detail, text.last_line(attempt.last_output))
            shown.append((member.name, member.state.value, *map(text.line, cells), place, text.utc(attempt.time)))
        if member.result and member.state is State.DIVERGED:
            after = f"after {counted(member.result.epochs, 'epoch')}"
            shown.append((member.name, "diverged", "the loss is no longer finite", after, "", "", ""))
    if shown:
        header = ("member", "state now", "cause", "detail", "last line of output", "where", "when")
        notes = (f"The first {FAILURES:,} of {len(shown):,}.",) if len(shown) > FAILURES else ()
        yield TextTable("Failed attempts and diverged members (times in UTC)", header, shown[:FAILURES], notes)


def _provenance(content: Content) -> Iterator[TextTable]:
    facts = provenance.provenance(content.results)
    yield TextTable("Configuration, software and hardware", ("what", "value"), list(facts.items()))
    runs = provenance.runs(content.results)
    if runs:
        header = tuple(dict.fromkeys(key for run in runs for key in run))
        shown = [tuple(text.MISSING if run.get(k) in (None, "") else str(run[k]) for k in header) for run in runs]
        yield TextTable("Runs (times in UTC)", header, shown)


SECTIONS = (
    _Outline("learned", "What was learned", _learned_paragraphs, _learned),
    _Outline("table1", "Table 1: test errors", tables=_errors),
    _Outline("claims", "The paper's claims", _about_claims, claims=lambda content: content.claims),
    _Outline("paper", "Comparison with the paper", _paper_paragraphs, _against_paper),
    _Outline("sweep", "The sweep", tables=_sweep),
    _Outline(
        "spread",
        "The spread between replicas",
        lambda content: spread.sentences(content.results),
        lambda content: spread.shown(content.results),
    ),
    _Outline("together", "Does learning together help?", tables=_together),
    _Outline("variants", "Variants compared", _pair_paragraphs, _pairs),
    _Outline("costs", "Costs", _head_in_a_line, _costs),
    _Outline("data", "The data"),
    _Outline("predictions", "Predictions"),
    _Outline("uncertainty", "The ensemble's uncertainty", _about_intervals, _uncertainty),
    _Outline("training", "Training"),
    _Outline("failures", "Failures", tables=_failures),
    _Outline("members", "Members", tables=lambda content: [members.members_table(content.results)]),
    _Outline(
        "configuration",
        "Configuration",
        lambda content: (_FROZEN,),
        code=lambda content: provenance.configuration(content.results),
    ),
    _Outline("provenance", "Provenance", tables=_provenance),
    _Outline("remarks", "Remarks", lambda content: content.remarks),
)
"""The report's sections, in order. A new one is a line here."""
