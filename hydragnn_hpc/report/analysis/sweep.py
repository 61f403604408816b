"""Sweeps: the points ranked by validation error, and test errors as power laws of the training set's size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from hydragnn_hpc.report.analysis.statistics import ENOUGH, LEVEL, Interval
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Snapshot
from hydragnn_hpc.sweeps import Point

SAMPLES = "training.samples"
_DECADES = 12  # the curve is too flat to tell numbers of samples above 10 to this power, or below its inverse
_SIZES = 3  # the fewest distinct numbers of samples for which a power law has an interval


@dataclass(frozen=True)
class PointResult:
    """A point of a sweep, and the errors of its finished members.

    Attributes
    ----------
    name, of : str
        The variant, and the variant that it is a point of.
    settings : mapping
        The values of the sweep's keys.
    n, n_total : int
        Finished members, and all members.
    validation : float or None
        The mean over members of `rows.score`; ``interval`` is its 95 % interval from the t distribution, None for fewer
        than three members.
    test : mapping
        Mean and standard deviation of the test RMSE (scaled), by task.
    ended : int or None
        The epoch of the rung at which halving ended the point, if it did; such a point has no rank.
    rank : int or None
        Among the points of the same variant, by ``validation``, from 1.
    """

    name: str
    of: str
    settings: Mapping[str, Any]
    n: int
    n_total: int
    validation: float | None
    interval: Interval | None
    test: Mapping[str, tuple[float | None, float | None]]
    ended: int | None = None
    rank: int | None = None


@dataclass(frozen=True)
class PowerLaw:
    """The test error of a task as ``factor * samples ** -exponent``, fitted to the logarithms of members' errors.

    Attributes
    ----------
    of, settings : str, mapping
        The variant that its points are of, and their values of the other keys.
    alone : bool
        Whether that variant learns this task alone.
    sizes : sequence of int
        Numbers of samples that members were trained on, ascending.
    n : int
        Number of errors that it is fitted to.
    centre : float
        Mean of the logarithms of the numbers of samples, over the errors.
    centre_stderr, exponent_stderr : float
        Standard errors of the logarithm of the error at the centre, and of the exponent.
    saved, saved_interval : float or None, Interval or None
        See :func:`saved`.
    """

    task: str
    of: str
    settings: Mapping[str, Any]
    alone: bool
    sizes: Sequence[int]
    factor: float
    exponent: float
    n: int
    centre: float
    centre_stderr: float
    exponent_stderr: float
    saved: float | None = None
    saved_interval: Interval | None = None

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the exponent, from the t distribution; None with fewer than three sizes."""
        half = _quantile(self.n - 2) * self.exponent_stderr
        return (self.exponent - half, self.exponent + half) if len(self.sizes) >= _SIZES else None

    @property
    def rmse_at_most(self) -> float:
        """The scaled RMSE after training on the largest number of samples."""
        return self.error(self.sizes[-1])

    def standard_error(self, samples: float) -> float:
        """Return the standard error of the logarithm of :meth:`error`."""
        return math.hypot(self.centre_stderr, self.exponent_stderr * (math.log(samples) - self.centre))

    def error(self, samples: float) -> float:
        """Return the scaled RMSE after training on this number of samples."""
        return float(self.factor * samples**-self.exponent)

    def samples(self, error: float) -> float | None:
        """Return how many samples a scaled RMSE needs; None where more do not help, or the curve is too flat."""
        if self.exponent <= 0 or error <= 0:
            return None
        decades = math.log10(self.factor / error) / self.exponent
        return 10**decades if abs(decades) < _DECADES else None


def ranked(snapshot: Snapshot) -> list[PointResult]:
    """Return the points of a campaign's sweep, those of each variant by rank; empty where there is no sweep."""
    sweep = snapshot.campaign.sweep
    if sweep is None:
        return []
    tasks = {variant.name: variant.tasks for variant in snapshot.campaign.variants}
    points = [_result(snapshot, point, tasks[point.name]) for point in sweep.points]
    ordered: list[PointResult] = []
    for of in dict.fromkeys(p.of for p in points):
        own = [p for p in points if p.of == of]
        known = sorted((p for p in own if p.validation is not None), key=lambda p: p.validation or 0.0)
        ordered += [replace(p, rank=k) for k, p in enumerate((p for p in known if p.ended is None), 1)]
        ordered += sorted((p for p in known if p.ended is not None), key=lambda p: -(p.ended or 0))
        ordered += [p for p in own if p.validation is None]
    return ordered


def _result(snapshot: Snapshot, point: Point, tasks: Sequence[str]) -> PointResult:
    finished = snapshot.finished(point.name)
    scores = [s for m in finished if (s := rows.score(m)) is not None]
    mean, std = rows.mean_std(scores)
    interval = None
    if mean is not None and std is not None and len(scores) >= ENOUGH:
        half = _quantile(len(scores) - 1) * std / math.sqrt(len(scores))
        interval = (max(mean - half, 0.0), mean + half)
    test = {task: rows.mean_std(rows.metrics(finished, task, "rmse")) for task in tasks}
    return PointResult(
        point.name,
        point.of,
        point.settings,
        len(finished),
        snapshot.campaign.replicas,
        mean,
        interval,
        test,
        snapshot.ended.get(point.name),
    )


def power_laws(snapshot: Snapshot) -> list[PowerLaw]:
    """Fit each task's test error to the number of training samples, over points that differ in nothing else.

    Points that the sweep's halving ended are left out.
    """
    sweep = snapshot.campaign.sweep
    if sweep is None or SAMPLES not in sweep.over:
        return []
    groups: dict[str, list[Point]] = {}
    for point in sweep.points:
        others = {key: value for key, value in point.settings.items() if key != SAMPLES}
        groups.setdefault(f"{point.of} {others}", []).append(point)
    laws = []
    for group in groups.values():
        settings = {key: value for key, value in group[0].settings.items() if key != SAMPLES}
        members = [m for point in group if point.name not in snapshot.ended for m in snapshot.finished(point.name)]
        tasks = snapshot.campaign.variant(group[0].name).tasks
        for task in tasks:
            pairs = [
                (m.result.train_samples, error)
                for m in members
                if m.result and m.result.train_samples and (error := rows.metric(m, task, "rmse"))
            ]
            if len({n for n, _ in pairs}) > 1:
                laws.append(fit(pairs, task, group[0].of, settings, alone=len(tasks) == 1))
    shares = [saved(laws, law) or (None, None) for law in laws]
    return [replace(law, saved=share, saved_interval=bounds) for law, (share, bounds) in zip(laws, shares, strict=True)]


def fit(
    pairs: Sequence[tuple[int, float]], task: str, of: str, settings: Mapping[str, Any], *, alone: bool
) -> PowerLaw:
    """Fit a power law to (samples, error) pairs of at least two distinct numbers of samples."""
    x, y = np.log(np.array(pairs, np.float64)).T
    line = stats.linregress(x, y)
    residuals = y - line.intercept - line.slope * x
    centre_stderr = math.sqrt(float(residuals @ residuals) / max(len(pairs) - 2, 1) / len(pairs))
    exponent_stderr = float(np.nan_to_num(line.stderr))  # NaN, by rounding, where all errors are alike
    sizes = sorted({n for n, _ in pairs})
    return PowerLaw(
        task=task, of=of, settings=settings, alone=alone, sizes=sizes,
        factor=math.exp(line.intercept), exponent=-float(line.slope),
        n=len(pairs), centre=float(x.mean()), centre_stderr=centre_stderr, exponent_stderr=exponent_stderr,
    )  # fmt: skip


def saved(laws: Sequence[PowerLaw], law: PowerLaw) -> tuple[float, Interval | None] | None:
    """Return the share of samples that learning together saves at the error of its largest training set.

    That is 1 - together / alone, and its 95 % interval by propagation of the errors of both fits; no interval with
    fewer than three sizes, or where the curve is too flat for one. None for a task learned alone, where no law of the
    task alone has the same settings, and where alone no number of samples gives that error.
    """
    alone = next((o for o in laws if o.alone and o.task == law.task and o.settings == law.settings), None)
    if alone is None or law.alone:
        return None
    most = law.sizes[-1]
    needed = alone.samples(law.rmse_at_most)
    if needed is None:
        return None
    half = math.hypot(law.standard_error(most), alone.standard_error(needed)) / alone.exponent
    half *= _quantile(law.n + alone.n - 4)
    ratio = most / needed
    if half < _DECADES * math.log(10) and min(len(law.sizes), len(alone.sizes)) >= _SIZES:
        return 1 - ratio, (1 - ratio * math.exp(half), 1 - ratio * math.exp(-half))
    return 1 - ratio, None


def _quantile(freedom: int) -> float:
    """Return half the width of a 95 % interval in standard errors."""
    return float(stats.t.ppf((1 + LEVEL) / 2, max(freedom, 1)))
