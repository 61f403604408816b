"""What training the members without a result will cost, by variant: from finished members, or from a core's speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.records.dataset import Manifest
from hydragnn_hpc.submit.estimate import epoch_seconds
from hydragnn_hpc.submit.site import load_site


@dataclass(frozen=True)
class Cost:
    """The members of a variant that have no result, and the device-hours they take at most; None if unknown.

    A device that several workers share counts in proportion. All epochs are counted, although early stopping may leave
    some out, and an interrupted member has done some.
    """

    variant: str
    members: int
    hours: float | None


def costs(campaign: Campaign, manifest: Manifest, members: Sequence[Member]) -> tuple[list[Cost], str]:
    """Estimate what the ``members`` without a result cost; also return what the estimate is from, in words.

    Variants of which none has finished are estimated from the others: by how much these took longer than is usual.
    """
    site, usual, measured = load_site("local"), dict[str, float](), dict[str, float]()
    for variant in campaign.variants:
        usual[variant.name] = epoch_seconds(campaign.of_variant(variant), manifest, site)
        done = [m.result for m in members if m.variant == variant.name and m.result and m.result.epochs]
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
    found = []
    for variant in campaign.variants:
        left = sum(m.variant == variant.name and m.result is None for m in members)
        each = measured.get(variant.name, None if factor is None else factor * usual[variant.name])
        if left:
            share = left * campaign.epochs(variant) / campaign.launch.slots_per_device
            found.append(Cost(variant.name, left, None if each is None else each * share / 3600))
    return found, basis
