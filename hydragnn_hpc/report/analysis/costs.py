"""Cost of training: a multi-task variant against its single-task ones, one additional head, device-hours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.ledger import Member
from hydragnn_hpc.report.analysis.statistics import Interval, bootstrap_interval, ratio_interval
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Snapshot
from hydragnn_hpc.sections import Variant


@dataclass(frozen=True)
class MultiTaskCost:
    """Cost of a multi-task variant against the sum of the costs of the single-task variants of its tasks.

    Attributes
    ----------
    singles : tuple of str
        The single-task variants.
    n : tuple of int
        Numbers of measured times (`measured_seconds`): of the variant, then of each single-task one.
    seconds, seconds_singles : float
        Mean training time of a member; the sum of the single-task variants' means.
    ratio : float
        ``seconds_singles / seconds``; ``interval`` is its 95 % bootstrap interval.
    device_hours, device_hours_singles : float
        Total over all their members with a result.
    """

    variant: str
    singles: tuple[str, ...]
    n: tuple[int, ...]
    seconds: float
    seconds_singles: float
    ratio: float
    interval: Interval | None
    device_hours: float
    device_hours_singles: float


@dataclass(frozen=True)
class HeadCost:
    """Cost of one additional head: a variant against one with the same tasks and one more.

    ``n`` counts measured times (`measured_seconds`). ``more`` is the increase in total seconds, with its 95 % bootstrap
    ``interval``, and ``more_per_epoch`` that in seconds per epoch, as fractions (0.1 is 10 %).
    """

    smaller: str
    larger: str
    n: tuple[int, int]
    more: float
    interval: Interval | None
    more_per_epoch: float | None


def single_of(snapshot: Snapshot, task: str) -> Variant | None:
    """Return the single-task variant of a task; None if there is none."""
    return next((v for v in rows.compared(snapshot) if v.tasks == (task,)), None)


def seconds_of(snapshot: Snapshot, variant: str) -> list[float]:
    """Return the training times of a variant's finished members, in seconds."""
    return rows.quantities(snapshot.finished(variant), "seconds")


def measured_seconds(snapshot: Snapshot, variant: str) -> list[float]:
    """Return the independently measured training times of a variant, in seconds: one per stack."""
    return _stack_seconds(snapshot.finished(variant))


def costs(snapshot: Snapshot) -> list[MultiTaskCost]:
    """Return the costs of multi-task variants for which all single-task variants exist and have finished members."""
    compared = []
    for variant in rows.compared(snapshot):
        singles = [single_of(snapshot, t) for t in variant.tasks]
        names = tuple(s.name for s in singles if s is not None)
        if len(variant.tasks) < 2 or len(names) < len(singles):
            continue
        own, theirs = seconds_of(snapshot, variant.name), [seconds_of(snapshot, name) for name in names]
        if not own or not all(theirs) or not sum(own):
            continue
        mean = math.fsum(own) / len(own)
        ratio = math.fsum(math.fsum(t) / len(t) for t in theirs) / mean
        times = [measured_seconds(snapshot, name) for name in (variant.name, *names)]
        counts, interval = tuple(map(len, times)), ratio_interval(times[1:], times[0])
        hours = (device_hours(snapshot, [variant.name]), device_hours(snapshot, names))
        compared.append(MultiTaskCost(variant.name, names, counts, mean, ratio * mean, ratio, interval, *hours))
    return compared


def device_hours(snapshot: Snapshot, variants: Sequence[str]) -> float:
    """Return the device-hours spent on the results of these variants, including diverged ones.

    A stack's time counts once, and a device that several workers share counts in proportion. Failed attempts record
    no time and are not included.
    """
    seconds = _stack_seconds(m for m in snapshot.members if m.variant in variants)
    return math.fsum(seconds) / 3600 / snapshot.campaign.launch.slots_per_device


def heads(snapshot: Snapshot) -> list[HeadCost]:
    """Return the costs of one task more, for all pairs of variants with finished members that differ by one task."""
    compared = []
    for small, large in one_more(_timed(snapshot)):
        a, b = seconds_of(snapshot, small.name), seconds_of(snapshot, large.name)
        ratio = math.fsum(b) / len(b) / (math.fsum(a) / len(a))
        times = [measured_seconds(snapshot, v.name) for v in (small, large)]
        interval = ratio_interval(times[1:], times[0])
        each = [_seconds_per_epoch(snapshot, v.name) for v in (small, large)]
        per_epoch = each[1] / each[0] - 1 if each[0] and each[1] else None
        shifted = (interval[0] - 1, interval[1] - 1) if interval else None
        compared.append(HeadCost(small.name, large.name, (len(times[0]), len(times[1])), ratio - 1, shifted, per_epoch))
    return compared


def mean_head(snapshot: Snapshot) -> tuple[float, Interval | None] | None:
    """Return the fraction that one additional head adds, geometric mean over :func:`heads`, and its 95 % interval."""
    pairs = [(a.name, b.name) for a, b in one_more(_timed(snapshot))]
    if not pairs:
        return None
    names = sorted({name for pair in pairs for name in pair})
    data = [seconds_of(snapshot, name) for name in names]
    places = [(names.index(a), names.index(b)) for a, b in pairs]

    def statistic(*arrays: np.ndarray, axis: int) -> np.ndarray:
        logs = [np.log(a.mean(axis=axis)) for a in arrays]
        return np.asarray(np.exp(sum(logs[b] - logs[a] for a, b in places) / len(places)) - 1)

    value = float(statistic(*(np.asarray(d, float) for d in data), axis=-1))
    return value, bootstrap_interval([measured_seconds(snapshot, name) for name in names], statistic)


def comparable(snapshot: Snapshot) -> bool:
    """Whether all variants were trained in stacks of the same sizes; a member's time is that of its stack."""
    sizes: dict[str, set[int]] = {}
    for member in snapshot.members:
        if member.result:
            sizes.setdefault(member.variant, set()).add(len(member.result.stack))
    return len({frozenset(s) for s in sizes.values()}) <= 1


def one_more(variants: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """Return the pairs of variants in which the second has the tasks of the first and one more."""
    return [
        (a, b)
        for a, b in itertools.permutations(variants, 2)
        if set(a.tasks) < set(b.tasks) and len(b.tasks) == len(a.tasks) + 1
    ]


def _stack_seconds(members: Iterable[Member]) -> list[float]:
    """Return the time of each stack that members with a result were trained in: that of its last member."""
    stacks: dict[tuple[str, tuple[int, ...]], float] = {}
    for member in members:
        if member.result:
            stack = (member.variant, member.result.stack)
            stacks[stack] = max(stacks.get(stack, 0.0), member.result.seconds)
    return list(stacks.values())


def _timed(snapshot: Snapshot) -> list[Variant]:
    return [v for v in rows.compared(snapshot) if sum(seconds_of(snapshot, v.name)) > 0]


def _seconds_per_epoch(snapshot: Snapshot, variant: str) -> float | None:
    finished = snapshot.finished(variant)
    seconds, epochs = sum(rows.quantities(finished, "seconds")), sum(rows.quantities(finished, "epochs"))
    return seconds / epochs if epochs else None
