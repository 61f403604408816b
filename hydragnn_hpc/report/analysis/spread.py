"""What the spread between resampled replicas comes from: their initial weights, and the samples they are trained on.

The initial weights' part, which includes the order of the samples, is measured where the samples are the same: between
replicas of one fold, or between those of a variant that differs in nothing but `training.resample: none`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydragnn_hpc.campaign_hash import member_settings
from hydragnn_hpc.report.analysis.statistics import ENOUGH, Interval, f_quantiles, spread_ratio
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Snapshot
from hydragnn_hpc.sections import Folds, Variant


@dataclass(frozen=True)
class Sources:
    """The standard deviations of a task's test RMSE (scaled) by what causes them.

    Attributes
    ----------
    against : str
        What the initial weights' part was measured on: ``replicas of one fold``, or a variant.
    initial, data : float
        Standard deviations. Variances add; ``data`` is 0 where the estimate of its variance is negative.
    ratio : float
        Variance of both sources over that of the initial weights; 0 at least, but it may be below 1.
    interval : Interval or None
        The ratio's 95 % interval (F distribution); None with fewer than three members or folds on either side.
    """

    against: str
    initial: float
    data: float
    ratio: float
    interval: Interval | None


@dataclass(frozen=True)
class Spread:
    """The spread of a task's test RMSE over ``n`` replicas of a variant; ``why_not`` where it has no ``sources``."""

    variant: str
    task: str
    n: int
    std: float | None
    sources: Sources | None
    why_not: str = ""


def spreads(snapshot: Snapshot) -> list[Spread]:
    """Return the spreads of all variants whose replicas are resampled: trained on samples of their own.

    Points that a sweep's halving ended are left out.
    """
    campaign, collected = snapshot.campaign, []
    variants = [v for v in campaign.variants if v.name not in snapshot.ended]
    training = {v.name: campaign.of_variant(v).training for v in variants}
    fixed = {_settings(snapshot, v): v for v in variants if training[v.name].resample == "none"}
    for variant in variants:
        resample = training[variant.name].resample
        if resample == "none":
            continue
        other = fixed.get(_settings(snapshot, variant))
        folds = resample.folds if isinstance(resample, Folds) else 0
        for task in variant.tasks:
            errors = _errors(snapshot, variant, task)
            std = rows.mean_std(errors.values())[1]
            sources = _between_folds(errors, folds) if folds else None
            if sources is None and other is not None:
                sources = _against(errors, _errors(snapshot, other, task), other.name)
            if other is not None:
                why = f"too few members of {variant.name} and {other.name} have finished"
            elif folds and campaign.replicas > folds:
                why = f"too few members of {variant.name} have finished"
            else:
                more = f"set replicas={2 * folds} or more, or add" if folds else "add"
                why = f"{more} a variant with training.resample=none"
            collected.append(Spread(variant.name, task, len(errors), std, sources, "" if sources else why))
    return collected


def _settings(snapshot: Snapshot, variant: Variant) -> str:
    """Return a variant's settings as text, but for resampling."""
    settings: dict[str, Any] = member_settings(snapshot.campaign, variant)
    settings.get("training", {}).pop("resample", None)
    return str((variant.tasks, {k: v for k, v in settings.items() if k != "variants" and v != {}}))


def _errors(snapshot: Snapshot, variant: Variant, task: str) -> dict[int, float]:
    members = snapshot.finished(variant.name)
    return {m.replica: error for m in members if (error := rows.metric(m, task, "rmse")) is not None}


def _between_folds(errors: dict[int, float], folds: int) -> Sources | None:
    """Return :func:`one_way` of the replicas of each fold."""
    by_fold = [[e for r, e in errors.items() if r % folds == fold] for fold in range(folds)]
    return one_way([group for group in by_fold if group])


def one_way(groups: Sequence[Sequence[float]]) -> Sources | None:
    """Return the sources of a spread from the errors of each fold's replicas.

    By a one-way analysis of variance (random effects, unequal sizes). None where no fold has two replicas, all are in
    one fold, or replicas of one fold do not differ.
    """
    sizes = np.array([len(group) for group in groups])
    n, g = int(sizes.sum()), len(groups)
    if g < 2 or n == g:
        return None
    means = np.array([np.mean(group) for group in groups])
    within = sum(float(((np.array(group) - mean) ** 2).sum()) for group, mean in zip(groups, means, strict=True))
    within /= n - g
    between = float((sizes * (means - np.average(means, weights=sizes)) ** 2).sum()) / (g - 1)
    if within == 0:
        return None
    effective = (n - float((sizes**2).sum()) / n) / (g - 1)  # members per fold, where sizes differ
    ratios = [max(0.0, 1 + (between / within / f - 1) / effective) for f in (1.0, *f_quantiles(g - 1, n - g))]
    interval = (ratios[2], ratios[1]) if g >= ENOUGH else None
    data = math.sqrt(max(0.0, (between - within) / effective))
    return Sources("replicas of one fold", math.sqrt(within), data, ratios[0], interval)


def _against(errors: dict[int, float], fixed: dict[int, float], name: str) -> Sources | None:
    both, alone = list(errors.values()), list(fixed.values())
    ratio, interval = spread_ratio(both, alone)
    if ratio is None:
        return None
    initial = float(np.std(alone, ddof=1))
    data = initial * math.sqrt(max(0.0, ratio**2 - 1))
    return Sources(name, initial, data, ratio**2, interval and (interval[0] ** 2, interval[1] ** 2))
