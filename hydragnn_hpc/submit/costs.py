"""What training the members without a result will cost, by variant: from finished members, or from a core's speed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hydragnn_hpc import halving
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.records.rungs import Rungs
from hydragnn_hpc.submit.estimate import epoch_seconds
from hydragnn_hpc.submit.site import load_site


@dataclass(frozen=True)
class Cost:
    """The members of a variant that are to be trained, and the device-hours they take at most; None if unknown.

    A device that several workers share counts in proportion. All epochs are counted, although early stopping may leave
    some out, and an interrupted member has done some.
    """

    variant: str
    members: int
    hours: float | None


def costs(
    campaign: Campaign, manifest: Manifest, members: Sequence[Member], rungs: Rungs | None = None
) -> tuple[list[Cost], str]:
    """Estimate what the ``members`` without a result cost; also return what the estimate is based on, in words.

    Variants of which none has finished are estimated from the others: by how much longer than usual these took. Of
    the points of a halving, the most expensive are assumed to go on after each rung that is not among ``rungs``.
    """
    site, usual, measured = load_site("local"), dict[str, float](), dict[str, float]()
    of_variant: dict[str, list[Member]] = {variant.name: [] for variant in campaign.variants}
    for member in members:
        of_variant[member.variant].append(member)
    for variant in campaign.variants:
        usual[variant.name] = epoch_seconds(campaign.of_variant(variant), manifest, site)
        done = [m.result for m in of_variant[variant.name] if m.result and m.result.epochs]
        if done:
            epochs = sum(result.epochs * len(result.stack) for result in done)
            measured[variant.name] = sum(result.seconds for result in done) / epochs
    factor: float | None = 1.0
    basis = "from the speed of one core of the benchmarks' processor, within a factor of about two"
    if measured:
        factor = median(measured[name] / usual[name] for name in measured)
        basis = f"from the finished members of {len(measured)} variant{'s' * (len(measured) > 1)}"
    elif campaign.launch.device not in ("auto", "cpu"):
        factor, basis = None, "until a member has finished: no speed of such a device is known"
    elif campaign.launch.device == "auto":
        basis += "; a GPU's is not known"
    each = {name: measured.get(name, usual[name] * (factor or 1.0)) for name in usual}
    now, later = _epochs(campaign, rungs or Rungs(), each)
    if later:
        basis += "; the most expensive points are assumed to go on"
    found = []
    for name, own in of_variant.items():
        left = [m for m in own if m.result is None or (later[name] and m.result.stopped_by == "epochs")]
        if left:
            epochs = len(left) * later[name] + now[name] * sum(m.result is None for m in left)
            hours = each[name] * epochs / campaign.launch.slots_per_device / 3600
            found.append(Cost(name, len(left), None if factor is None else hours))
    return found, basis


def _epochs(campaign: Campaign, rungs: Rungs, each: Mapping[str, float]) -> tuple[dict[str, int], Counter[str]]:
    """Return by variant the epochs of a member without a result, and those that follow the next rung of a halving.

    ``each`` are the seconds of an epoch.
    """
    now, later = halving.epoch_limits(campaign, rungs), Counter[str]()
    if campaign.sweep is None or campaign.sweep.halving is None:
        return now, later
    at, share = campaign.sweep.halving.at, campaign.sweep.halving.share
    last = {variant.name: campaign.epochs(variant) for variant in campaign.variants}
    for of in campaign.sweep.of:
        passed = len(rungs.survivors.get(of, ()))
        going = sorted(halving.contenders(campaign, rungs, of), key=lambda name: each[name] * last[name], reverse=True)
        for name in going if passed else ():
            now[name] -= at[passed - 1]
        for k in range(passed, len(at)):
            going = going[: math.ceil(share * len(going))]
            for name in going:
                later[name] += (at[k + 1] if k + 1 < len(at) else last[name]) - at[k]
    return now, later
