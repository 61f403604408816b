"""What it will cost to train the members without a result, by variant: from finished members, or a core's speed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hydragnn_hpc import halving
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.counts import counted
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.rungs import Rungs
from hydragnn_hpc.submit.estimate import epoch_seconds
from hydragnn_hpc.submit.site import load_site


@dataclass(frozen=True)
class Cost:
    """How many members of a variant are to be trained, and how many device-hours they take at most.

    ``hours`` is None where no speed is known. A device that several workers share counts in proportion. All epochs are
    counted, although early stopping may omit some, and an interrupted member has already trained for some.
    """

    variant: str
    members: int
    hours: float | None


def costs(
    campaign: Campaign, manifest: Manifest, members: Sequence[Member], rungs: Rungs | None = None
) -> tuple[list[Cost], str]:
    """Estimate what the ``members`` without a result cost; also return what the estimate is based on, in words.

    A variant without a finished member is assumed to deviate from the estimate by the median factor of those with one.
    Of the points of a halving, the most expensive are assumed to go on after each rung that is not among ``rungs``.
    """
    site = load_site("local")
    # Seconds of a member's epoch, by variant.
    estimated: dict[str, float] = {}
    measured: dict[str, float] = {}
    by_variant: dict[str, list[Member]] = {variant.name: [] for variant in campaign.variants}
    for member in members:
        by_variant[member.variant].append(member)
    for variant in campaign.variants:
        estimated[variant.name] = epoch_seconds(campaign.of_variant(variant), manifest, site)
        done = [m.result for m in by_variant[variant.name] if m.result and m.result.epochs]
        if done:
            epochs = sum(result.epochs * len(result.stack) for result in done)
            measured[variant.name] = sum(result.seconds for result in done) / epochs
    factor: float | None = 1.0
    basis = "from the speed of one core of the benchmarks' processor, within a factor of about two"
    if measured:
        factor = median(measured[name] / estimated[name] for name in measured)
        basis = f"from the finished members of {counted(len(measured), 'variant')}"
    elif campaign.launch.device not in ("auto", "cpu"):
        factor, basis = None, "until a member has finished: no speed of such a device is known"
    elif campaign.launch.device == "auto":
        basis += "; a GPU's is not known"
    seconds = {name: measured.get(name, estimated[name] * (factor or 1.0)) for name in estimated}
    now, later = _epochs(campaign, rungs or Rungs(), seconds)
    if later:
        basis += "; the most expensive points are assumed to go on"
    estimates = []
    for name, own in by_variant.items():
        left = [m for m in own if m.result is None or (later[name] and m.result.stopped_by == "epochs")]
        if left:
            epochs = len(left) * later[name] + now[name] * sum(m.result is None for m in left)
            hours = seconds[name] * epochs / campaign.launch.slots_per_device / 3600
            estimates.append(Cost(name, len(left), None if factor is None else hours))
    return estimates, basis


def _epochs(campaign: Campaign, rungs: Rungs, seconds: Mapping[str, float]) -> tuple[dict[str, int], Counter[str]]:
    """Return by variant the epochs of a member without a result, and those that follow the next rung of a halving.

    ``seconds`` are those of an epoch of each variant.
    """
    now, later = halving.epoch_limits(campaign, rungs), Counter[str]()
    if campaign.sweep is None or campaign.sweep.halving is None:
        return now, later
    at, share = campaign.sweep.halving.at, campaign.sweep.halving.share
    last = {variant.name: campaign.epochs(variant) for variant in campaign.variants}
    for of in campaign.sweep.of:
        passed = len(rungs.survivors.get(of, ()))
        contenders = halving.contenders(campaign, rungs, of)
        by_cost = sorted(contenders, key=lambda name: seconds[name] * last[name], reverse=True)
        for name in by_cost if passed else ():
            now[name] -= at[passed - 1]
        for k in range(passed, len(at)):
            by_cost = by_cost[: math.ceil(share * len(by_cost))]
            for name in by_cost:
                later[name] += (at[k + 1] if k + 1 < len(at) else last[name]) - at[k]
    return now, later
