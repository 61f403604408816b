"""Comparisons between variants: differences of means, ratios of means and of standard deviations, with intervals."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Snapshot

LEVEL = 0.95
"""Confidence level of all intervals."""
RESAMPLES, FEWER_RESAMPLES = 9_999, 1_999
MANY = 200
"""Above this many members fewer resamples suffice: the interval's own noise is small."""
ENOUGH = 3
"""Nothing is decided, and no interval shown, with fewer members than this on either side."""
SIGNIFICANT = 0.05
"""Below this p value, after Holm's correction, a difference counts."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """Two variants that share a task, compared over their members' test RMSE (scaled).

    Attributes
    ----------
    n : (int, int)
        Numbers of finished members.
    difference : float
        Mean RMSE of ``first`` minus that of ``second``.
    interval : (float, float) or None
        95 % bootstrap interval (BCa, seeded) of the difference; None if either side has fewer than three members.
    p_value, p_holm : float or None
        Of Welch's test, before and after Holm's correction over all pairs of the campaign.
    spread_ratio : float or None
        Standard deviation of ``first`` over that of ``second``.
    spread_interval : (float, float) or None
        Its 95 % interval from the F distribution, exact where errors are normally distributed.
    """

    task: str
    first: str
    second: str
    n: tuple[int, int]
    difference: float
    interval: Interval | None
    p_value: float | None
    p_holm: float | None
    spread_ratio: float | None
    spread_interval: Interval | None


def compare_all(snapshot: Snapshot) -> list[Pair]:
    """Compare all pairs of variants that share a task and have finished members, with Holm's correction over all."""
    pairs: list[Pair] = []
    for task in snapshot.campaign.tasks:
        values = errors_of(snapshot, task)
        pairs += [compare(task, (a, values[a]), (b, values[b])) for a, b in itertools.combinations(values, 2)]
    return with_holm(pairs)


def with_holm(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs with their p values after Holm's correction over all of them."""
    adjusted = holm([p.p_value for p in pairs])
    return [replace(p, p_holm=q) for p, q in zip(pairs, adjusted, strict=True)]


def errors_of(snapshot: Snapshot, task: str) -> dict[str, list[float]]:
    """Return the scaled test RMSE of finished members by variant, for variants that have any."""
    variants = [v.name for v in rows.compared(snapshot) if task in v.tasks]
    errors = {v: rows.metrics(snapshot.finished(v), task, "rmse") for v in variants}
    return {v: values for v, values in errors.items() if values}


def compare(task: str, first: tuple[str, Sequence[float]], second: tuple[str, Sequence[float]]) -> Pair:
    """Compare two variants, given as (name, errors of the members)."""
    (name_a, a), (name_b, b) = first, second
    ratio, ratio_interval = spread_ratio(a, b)
    return Pair(
        task, name_a, name_b, (len(a), len(b)), math.fsum(a) / len(a) - math.fsum(b) / len(b),
        bootstrap_interval((a, b), _difference), welch(a, b), None, ratio, ratio_interval,
    )  # fmt: skip


def verdict(pair: Pair, change: float) -> str:
    """Return whether a ``change`` of the error, a pair's difference or its negative, is better or worse.

    Where the pair does not decide it, the verdict is ``undecided`` or ``too few members``.
    """
    if pair.interval is None or min(pair.n) < ENOUGH:
        return "too few members"
    if pair.interval[0] <= 0 <= pair.interval[1] or (pair.p_holm is not None and pair.p_holm >= SIGNIFICANT):
        return "undecided"
    return "better" if change < 0 else "worse"


def bootstrap_interval(data: Sequence[Sequence[float]], statistic: Callable[..., np.ndarray]) -> Interval | None:
    """Return the 95 % BCa bootstrap interval of a statistic of independent samples.

    Parameters
    ----------
    data : sequence of sequences of float
        The samples.
    statistic : callable
        Takes as many arrays as there are samples, and ``axis``.

    Returns
    -------
    (float, float) or None
        None if a sample has fewer than three values, or the interval is not finite. The same data give the same
        interval: the resampling is seeded.
    """
    if min(len(d) for d in data) < ENOUGH:
        return None
    arrays = tuple(np.asarray(d, float) for d in data)
    if all(np.ptp(a) == 0 for a in arrays):
        value = float(statistic(*arrays, axis=-1))
        return value, value
    resamples = RESAMPLES if max(len(a) for a in arrays) <= MANY else FEWER_RESAMPLES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            arrays, statistic, vectorized=True, n_resamples=resamples, batch=1_000,
            confidence_level=LEVEL, method="BCa", rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
    low, high = float(interval.low), float(interval.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def welch(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the p value of Welch's test for equal means; None if undefined."""
    if min(len(a), len(b)) < 2 or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # on errors that are all alike
        p_value = float(stats.ttest_ind(a, b, equal_var=False).pvalue)
    return p_value if math.isfinite(p_value) else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values after Holm's step-down correction; None stays None and does not count."""
    given = sorted((p, k) for k, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for rank, (p, k) in enumerate(given):
        worst = max(worst, min(1.0, (len(given) - rank) * p))
        adjusted[k] = worst
    return adjusted


def spread_ratio(a: Sequence[float], b: Sequence[float]) -> tuple[float | None, Interval | None]:
    """Return std(a) / std(b) and its 95 % interval from the F distribution; None if undefined."""
    if min(len(a), len(b)) < 2 or np.ptp(b) == 0:
        return None, None
    ratio = float(np.std(a, ddof=1) / np.std(b, ddof=1))
    if min(len(a), len(b)) < ENOUGH:
        return ratio, None
    low, high = f_quantiles(len(a) - 1, len(b) - 1)
    return ratio, (ratio / math.sqrt(high), ratio / math.sqrt(low))


def f_quantiles(numerator: int, denominator: int) -> Interval:
    """Return the quantiles of the F distribution that enclose :data:`LEVEL`, for these degrees of freedom."""
    low, high = stats.f.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], numerator, denominator)
    return float(low), float(high)


def ratio_interval(numerators: Sequence[Sequence[float]], denominator: Sequence[float]) -> Interval | None:
    """Return the 95 % bootstrap interval of (sum of the means of ``numerators``) / (mean of ``denominator``)."""
    return bootstrap_interval((*numerators, denominator), _sum_over_last)


def _difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(a.mean(axis=axis) - b.mean(axis=axis))


def _sum_over_last(*arrays: np.ndarray, axis: int) -> np.ndarray:
    *numerators, denominator = arrays
    return np.asarray(sum(a.mean(axis=axis) for a in numerators) / denominator.mean(axis=axis))
