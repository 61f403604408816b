"""Successive halving (Jamieson & Talwalkar 2016) of a sweep: how far each point is trained, and which go on.

A rung is decided when all members of its points have reached it, from their validation errors alone. So the decisions
depend neither on the number of ranks nor on interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.records.member import Result
from hydragnn_hpc.records.rungs import Rungs


def epoch_limits(campaign: Campaign, rungs: Rungs) -> dict[str, int]:
    """Return the epoch up to which the members of each variant are trained for now, by name."""
    epochs = {v.name: campaign.epochs(v) for v in campaign.variants}
    if campaign.sweep is None or campaign.sweep.halving is None:
        return epochs
    at, survivors = campaign.sweep.halving.at, _survivors(rungs)
    for point in campaign.sweep.points:
        passed = sum(point.name in names for names in survivors.get(point.of, ()))
        if passed < len(at):
            epochs[point.name] = at[passed]
    return epochs


def ended(campaign: Campaign, rungs: Rungs) -> dict[str, int]:
    """Return the points that do not go on, and the epoch at which each ended."""
    reached, survivors = epoch_limits(campaign, rungs), _survivors(rungs)
    return {
        point.name: reached[point.name]
        for point in (campaign.sweep.points if campaign.sweep and campaign.sweep.halving else ())
        if not all(point.name in names for names in survivors.get(point.of, ()))
    }


def _survivors(rungs: Rungs) -> dict[str, list[set[str]]]:
    return {of: [set(names) for names in decided] for of, decided in rungs.survivors.items()}


def contenders(campaign: Campaign, rungs: Rungs, of: str) -> tuple[str, ...]:
    """Return the points of a variant that are still trained."""
    decided = rungs.survivors.get(of, ())
    every = tuple(p.name for p in campaign.sweep.points if p.of == of) if campaign.sweep else ()
    return decided[-1] if decided else every


def undecided(campaign: Campaign, rungs: Rungs) -> bool:
    """Whether a rung is left to decide: members may then go on, even if all have a result."""
    if campaign.sweep is None or campaign.sweep.halving is None:
        return False
    decided = {of: len(rungs.survivors.get(of, ())) for of in campaign.sweep.of}
    return any(n < len(campaign.sweep.halving.at) and contenders(campaign, rungs, of) for of, n in decided.items())


def best(scores: Mapping[str, Sequence[float]], share: Fraction) -> tuple[str, ...]:
    """Return the share of points with the lowest mean score, rounded up; the first of a tie.

    ``scores`` are those of each point's finished members; a point without any does not go on.
    """
    means = {name: math.fsum(own) / len(own) for name, own in scores.items() if own}
    first = set(sorted(means, key=means.__getitem__)[: math.ceil(share * len(scores))])
    return tuple(name for name in scores if name in first)


def score(result: Result) -> float | None:
    """Return the score by which points are ranked: the mean over tasks of the scaled validation RMSE."""
    errors = [task.rmse_validation for task in result.tasks.values()]
    known = [error for error in errors if error is not None and math.isfinite(error)]
    return math.fsum(known) / len(known) if known and len(known) == len(errors) else None
