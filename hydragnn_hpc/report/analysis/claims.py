"""The paper's four claims (Lupo Pasini et al., Mach. Learn.: Sci. Technol. 3 025007, 2022), tested on any campaign.

A claim holds, or does not hold, only where the members decide it; otherwise it is undecided, or not applicable if
the campaign lacks the variants that the claim compares.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from hydragnn_hpc.report import text
from hydragnn_hpc.report.analysis import costs
from hydragnn_hpc.report.analysis.statistics import ENOUGH, SIGNIFICANT, Interval, Pair, compare_all
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Snapshot
from hydragnn_hpc.sections import Variant

HEAD_SHARE = (0.05, 0.15)
"""The range that counts as "about 10 %" more training time."""
FASTER = 2.2
"""The least ratio of training times: three single-task models' over one multi-task model's."""
_TIMES = "measured times (one per stack)"


class Verdict(enum.StrEnum):
    """Outcome of testing a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Evidence:
    """One comparison behind a claim: its subject, its numbers, its verdict and the reason."""

    what: str
    figures: str
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class PaperClaim:
    """One claim: its statement in terms of this campaign, its verdict, the comparisons behind it, remarks."""

    key: str
    statement: str
    verdict: Verdict
    evidence: tuple[Evidence, ...] = ()
    remark: str = ""


@dataclass
class _Comparisons:
    """A campaign and its pairwise comparisons, on which claims are tested."""

    snapshot: Snapshot
    pairs: list[Pair] = field(default_factory=list)

    def pair(self, task: str, first: str, second: str) -> Pair | None:
        """Return the comparison of two variants, as ``first`` minus ``second``."""
        for p in self.pairs:
            if p.task == task and (p.first, p.second) == (first, second):
                return p
            if p.task == task and (p.first, p.second) == (second, first):
                return _swapped(p)
        return None

    def single(self, task: str) -> str:
        """Return the name of the single-task variant of a task; empty if there is none."""
        variant = costs.single_of(self.snapshot, task)
        return variant.name if variant else ""

    def multi(self, task: str) -> list[Variant]:
        """Return the multi-task variants with this task."""
        return [v for v in rows.compared(self.snapshot) if task in v.tasks and len(v.tasks) > 1]

    def tasks(self, level: str) -> list[str]:
        """Return the tasks of a level that have both a single-task and a multi-task variant."""
        names = [t for t, task in self.snapshot.campaign.tasks.items() if task.level == level]
        return [t for t in names if self.single(t) and self.multi(t)]


def assess(snapshot: Snapshot, pairs: list[Pair] | None = None) -> list[PaperClaim]:
    """Test the claims (a) to (d); ``pairs`` are those of :func:`compare_all` where they are known already."""
    compared = _Comparisons(snapshot, compare_all(snapshot) if pairs is None else pairs)
    return [_better_together(compared), _better_alone(compared), _one_head(compared), _faster(compared)]


def _better_together(compared: _Comparisons) -> PaperClaim:
    tasks = compared.tasks("graph")
    if not tasks:
        return _missing(
            "a", "a graph-level task is predicted better, and with less spread, together with others than alone"
        )
    evidence, parts = [], []
    for task in tasks:
        chosen = _with_moment(compared, task)
        who = f"{_listed([v.name for v in chosen])} predict{'s' if len(chosen) == 1 else ''}"
        parts.append(f"{who} {task} better, and with less spread, than {task} alone")
        for variant in chosen:
            names = (variant.name, compared.single(task))
            evidence += [_lower_error(compared, task, *names), _lower_spread(compared, task, *names)]
    return PaperClaim("a", "; ".join(parts), _combined(evidence), tuple(evidence))


def _with_moment(compared: _Comparisons, task: str) -> list[Variant]:
    """Return the multi-task variants that the claim concerns: in the paper, those that also predict the moment."""
    known = compared.snapshot.campaign.tasks
    variants = compared.multi(task)
    with_moment = [v for v in variants if any(known[t].field == "magnetic_moment" for t in v.tasks)]
    return with_moment if known[task].field == "mixing_enthalpy" and with_moment else variants


def _better_alone(compared: _Comparisons) -> PaperClaim:
    tasks = compared.tasks("node")
    if not tasks:
        return _missing("b", "a node-level task is predicted slightly better alone than together with others")
    evidence = []
    for task in tasks:
        evidence += [_lower_error(compared, task, compared.single(task), v.name) for v in compared.multi(task)]
    return PaperClaim(
        "b", f"{_listed(tasks)} {_are(tasks)} slightly better alone", _combined(evidence), tuple(evidence)
    )


def _one_head(compared: _Comparisons) -> PaperClaim:
    statement = "one additional head costs about 10 % more training time"
    configured = costs.one_more(rows.compared(compared.snapshot))
    if not configured:
        return _missing("c", statement, "two variants that differ by one task")
    mean = costs.mean_head(compared.snapshot)
    if mean is None:
        return _unfinished("c", statement, compared, sorted({v.name for pair in configured for v in pair}))
    heads = costs.heads(compared.snapshot)
    verdict, reason = _inside(mean[1], HEAD_SHARE, [min(n for h in heads for n in h.n)], text.percent, _TIMES)
    figures = f"{text.percent(mean[0])} {_interval(mean[1], text.percent)}"
    evidence = [Evidence("geometric mean over all pairs", figures, verdict, reason)]
    for head in heads:
        each = "" if head.more_per_epoch is None else f"; per epoch {text.percent(head.more_per_epoch)}"
        interval = _interval(head.interval, text.percent)
        figures = f"{text.percent(head.more)} {interval}, n = {_counts(head.n)}{each}"
        inside = _inside(head.interval, HEAD_SHARE, head.n, text.percent, _TIMES)
        evidence.append(Evidence(f"{head.smaller} to {head.larger}", figures, *inside))
    low, high = (f"{100 * share:g}" for share in HEAD_SHARE)
    remark = f"“About 10 %” is taken to mean {low} to {high} %; the mean over all pairs decides."
    return _of_equal_stacks(PaperClaim("c", statement, verdict, tuple(evidence), remark), compared)


def _faster(compared: _Comparisons) -> PaperClaim:
    statement = "one model of three tasks trains more than 2.2 times faster than three single-task models in sum"
    needed = [
        [v.name, *(compared.single(t) for t in v.tasks)] for v in rows.compared(compared.snapshot) if len(v.tasks) == 3
    ]
    needed = [names for names in needed if all(names)]
    if not needed:
        return _missing("d", statement, "a variant with three tasks, and a single-task variant for each of them")
    complete = [c for c in costs.costs(compared.snapshot) if len(c.singles) == 3]
    if not complete:
        return _unfinished("d", statement, compared, needed[0])
    evidence = []
    for cost in complete:
        figures = f"{cost.ratio:.2f} {_interval(cost.interval, text.two_decimals)} times, n = {_counts(cost.n)}"
        inside = _inside(cost.interval, (FASTER, float("inf")), cost.n, what=_TIMES)
        evidence.append(Evidence(f"{cost.variant} against {' + '.join(cost.singles)}", figures, *inside))
    return _of_equal_stacks(PaperClaim("d", statement, _combined(evidence), tuple(evidence)), compared)


def _of_equal_stacks(claim: PaperClaim, compared: _Comparisons) -> PaperClaim:
    """Return a claim about times, or the same as undecided if the times are not comparable."""
    if costs.comparable(compared.snapshot):
        return claim
    reason = "trained in stacks of different sizes"
    evidence = tuple(replace(e, verdict=Verdict.UNDECIDED, reason=reason) for e in claim.evidence)
    remark = f"{claim.remark} Undecided: the variants were {reason}, and a member's time is that of its stack.".strip()
    return replace(claim, verdict=Verdict.UNDECIDED, evidence=evidence, remark=remark)


def _lower_error(compared: _Comparisons, task: str, first: str, second: str) -> Evidence:
    """Test whether ``first`` has the lower mean error."""
    what = f"{task}: mean RMSE of {first} against {second}"
    pair = compared.pair(task, first, second)
    if pair is None or pair.interval is None or min(pair.n) < ENOUGH:
        return Evidence(what, _figures(pair), Verdict.UNDECIDED, _too_few(compared, first, second))
    if pair.interval[0] <= 0 <= pair.interval[1]:
        return Evidence(what, _figures(pair), Verdict.UNDECIDED, "the interval includes zero")
    if pair.p_holm is not None and pair.p_holm >= SIGNIFICANT:
        reason = f"p (Holm) is not below {SIGNIFICANT}"
        return Evidence(what, _figures(pair), Verdict.UNDECIDED, reason)
    return Evidence(what, _figures(pair), Verdict.HOLDS if pair.difference < 0 else Verdict.FAILS)


def _lower_spread(compared: _Comparisons, task: str, first: str, second: str) -> Evidence:
    """Test whether the errors of ``first`` have the smaller spread."""
    what = f"{task}: spread of {first} over that of {second}"
    pair = compared.pair(task, first, second)
    if pair is None or pair.spread_ratio is None or pair.spread_interval is None or min(pair.n) < ENOUGH:
        return Evidence(what, text.MISSING, Verdict.UNDECIDED, _too_few(compared, first, second))
    interval = _interval(pair.spread_interval, text.two_decimals)
    figures = f"{pair.spread_ratio:.2f} {interval}, n = {_counts(pair.n)}"
    return Evidence(what, figures, *_inside(pair.spread_interval, (0.0, 1.0), pair.n))


def _inside(
    interval: Interval | None,
    bounds: Interval,
    n: Sequence[int],
    form: Callable[[float], str] = "{:g}".format,
    what: str = "members",
) -> tuple[Verdict, str]:
    """Return whether an interval lies between two bounds, and the reason where that is undecided."""
    if interval is None or min(n) < ENOUGH:
        return Verdict.UNDECIDED, f"too few {what}: {_counts(n)}, at least {ENOUGH} of each are needed"
    if bounds[0] < interval[0] and interval[1] < bounds[1]:
        return Verdict.HOLDS, ""
    if interval[1] <= bounds[0] or interval[0] >= bounds[1]:
        return Verdict.FAILS, ""
    edge = bounds[0] if interval[0] <= bounds[0] <= interval[1] else bounds[1]
    return Verdict.UNDECIDED, f"the interval includes {form(edge)}"


def _combined(evidence: Sequence[Evidence]) -> Verdict:
    """Return the verdict on a claim: it holds if all its comparisons do, and does not hold if one does not."""
    verdicts = {e.verdict for e in evidence}
    if Verdict.FAILS in verdicts:
        return Verdict.FAILS
    return Verdict.HOLDS if verdicts == {Verdict.HOLDS} else Verdict.UNDECIDED


def _missing(
    key: str, statement: str, needs: str = "a variant with that task alone, and one with other tasks as well"
) -> PaperClaim:
    return PaperClaim(key, statement, Verdict.NOT_APPLICABLE, (), f"The campaign lacks what this compares: {needs}.")


def _unfinished(key: str, statement: str, compared: _Comparisons, variants: Sequence[str]) -> PaperClaim:
    return PaperClaim(key, statement, Verdict.UNDECIDED, (), f"Undecided: {_too_few(compared, *variants)}.")


def _too_few(compared: _Comparisons, *variants: str) -> str:
    counts = [f"{v}: {len(compared.snapshot.finished(v))}" for v in variants]
    return f"too few members ({', '.join(counts)}), at least {ENOUGH} of each are needed"


def _swapped(pair: Pair) -> Pair:
    """Return the same comparison as ``second`` minus ``first``."""

    def negate(i: Interval | None) -> Interval | None:
        return (-i[1], -i[0]) if i else None

    def invert(i: Interval | None) -> Interval | None:
        return (1 / i[1], 1 / i[0]) if i and i[0] > 0 else None

    ratio = 1 / pair.spread_ratio if pair.spread_ratio else None
    return Pair(
        pair.task, pair.second, pair.first, (pair.n[1], pair.n[0]), -pair.difference, negate(pair.interval),
        pair.p_value, pair.p_holm, ratio, invert(pair.spread_interval),
    )  # fmt: skip


def _figures(pair: Pair | None) -> str:
    if pair is None:
        return text.MISSING
    difference = f"difference {text.scientific(pair.difference)} {_interval(pair.interval, text.scientific)}"
    return f"{difference}, n = {_counts(pair.n)}, p (Holm) = {text.plain(pair.p_holm, 2)}"


def _interval(interval: Interval | None, form: Callable[[float], str]) -> str:
    return text.interval(interval, form) if interval else "(no interval)"


def _counts(n: Sequence[int]) -> str:
    return _listed([str(k) for k in n])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
