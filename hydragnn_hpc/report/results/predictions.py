"""All members' test predictions in one pass over their files: errors, densities, ensemble mean and spread.

Each file is read once and released, so that a thousand members need memory only for the running sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.paths import noise_of
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.ground_truth import GroundTruth
from hydragnn_hpc.report.results.rows import Snapshot

ERROR_BINS, PARITY_BINS = 121, 128
"""Maximum numbers of bins; few values are counted in fewer bins."""
RANGE_IN_RMSE = 4.0
"""Error densities extend to this multiple of a task's largest RMSE, parity plots as far beyond the true values."""
AGREEMENT = 1e-3
"""Relative difference above which a result's RMSE and that of its predictions are considered inconsistent."""


@dataclass(frozen=True)
class HistogramEdges:
    """Histogram bins that all variants of a task share, in the task's unit."""

    errors: np.ndarray
    values: np.ndarray


def rmse(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the root mean square error over the known values of ``truth``; the others are NaN."""
    return float(np.sqrt(np.mean((predicted - truth)[np.isfinite(truth)] ** 2)))


@dataclass
class EnsembleStatistics:
    """Statistics of the test predictions of a variant's members for one task, in the task's unit.

    Attributes
    ----------
    truth : numpy.ndarray
        ``[A, d]`` (node level) or ``[S, d]`` (graph level) of the test set; NaN where a value is not known.
    rmse, mae, r2 : list of float
        A value per member; R² is about each component's mean.
    densities : list of numpy.ndarray
        Probability density of the errors on ``edges.errors`` (edges), an array per member.
    parity : numpy.ndarray
        Counts ``[truth, predicted]`` on ``edges.values`` (edges), over all members.
    """

    variant: str
    task: str
    level: str
    unit: str
    truth: np.ndarray
    edges: HistogramEdges
    rmse: list[float] = field(default_factory=list)
    mae: list[float] = field(default_factory=list)
    r2: list[float] = field(default_factory=list)
    densities: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start the sums over members."""
        self.valid = np.isfinite(self.truth)
        known = np.where(self.valid, self.truth, 0.0)
        centre = known.sum(axis=0) / np.maximum(self.valid.sum(axis=0), 1)
        self._variance = float(np.sum((self.truth - centre)[self.valid] ** 2))
        self.parity = np.zeros((PARITY_BINS, PARITY_BINS), np.int64)
        self._mean = np.zeros_like(self.truth)
        self._squares = np.zeros_like(self.truth)
        self._variances: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Number of members added."""
        return len(self.rmse)

    @property
    def mean(self) -> np.ndarray:
        """The ensemble's mean prediction, shaped as ``truth``."""
        return self._mean

    @property
    def rmse_of_mean(self) -> float:
        """RMSE of the ensemble's mean prediction."""
        return rmse(self._mean, self.truth)

    @property
    def std(self) -> np.ndarray | None:
        """The members' standard deviation (ddof = 1), shaped as ``truth``; None for fewer than two members.

        With the noise that members predict, where they do.
        """
        if self.n < 2:
            return None
        spread = self._squares / (self.n - 1)
        return np.sqrt(spread if self._variances is None else spread + self._variances / self.n)

    @property
    def noise(self) -> np.ndarray | None:
        """The root of the variance of the noise that members predict, their mean; None for a task without."""
        return None if self._variances is None else np.sqrt(self._variances / self.n)

    def add(self, predicted: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Add one member's predictions and, of a task that has one, its noise."""
        truth, value = self.truth[self.valid], predicted[self.valid]
        error = value - truth
        self.rmse.append(rmse(predicted, self.truth))
        self.mae.append(float(np.mean(np.abs(error))))
        self.r2.append(1 - float(np.sum(error**2)) / self._variance if self._variance else float("nan"))
        width = self.edges.errors[1] - self.edges.errors[0]
        counts, _ = np.histogram(error, self.edges.errors)
        self.densities.append(counts / (len(error) * width))
        self.parity += _counts(truth, value, self.edges.values)
        # Welford's update loses no digits where the spread is small compared with the values.
        difference = predicted - self._mean
        self._mean += difference / self.n
        self._squares += difference * (predicted - self._mean)
        if noise is not None:
            self._variances = noise**2 + (0 if self._variances is None else self._variances)


@dataclass
class CollectedPredictions:
    """Statistics by (variant, task), and descriptions of the problems encountered."""

    ensembles: dict[tuple[str, str], EnsembleStatistics]
    problems: list[str]


def collect(results: Snapshot, test_set: GroundTruth | None) -> CollectedPredictions:
    """Read the predictions of all finished members.

    Parameters
    ----------
    results : Snapshot
    test_set : GroundTruth or None
        Without it there is nothing to compare with, and nothing is read.
    """
    collected = CollectedPredictions({}, [])
    if test_set is None:
        return collected
    scales = {task: _edges(results, task, test_set) for task in results.campaign.tasks}
    for variant in results.campaign.variants:
        for member in results.finished(variant.name):
            try:
                _add_member(collected, results, member, (test_set, scales))
            except UserError as error:
                collected.problems.append(f"{member.name}: {error}")
    return collected


def _add_member(
    collected: CollectedPredictions,
    results: Snapshot,
    member: Member,
    known: tuple[GroundTruth, dict[str, HistogramEdges | None]],
) -> None:
    test_set, scales = known
    predictions = results.predictions(member)
    if predictions is None:
        raise UserError("predictions.npz is missing: left out of figures and ensemble")
    with_noise = results.campaign.with_noise(member.variant)
    for task in results.campaign.variant(member.variant).tasks:
        settings, scale = results.campaign.tasks[task], scales[task]
        if scale is None or task not in predictions:
            raise UserError(f"no predictions or no truth of task {task}: left out of figures and ensemble")
        truth = test_set.targets[settings.field]
        if predictions[task].dtype.kind != "f":
            raise UserError(f"predictions of task {task} are not numbers: left out of figures and ensemble")
        predicted = predictions[task].reshape(-1, 1) if predictions[task].ndim == 1 else predictions[task]
        if predicted.shape != truth.shape or not np.isfinite(predicted[np.isfinite(truth)]).all():
            raise UserError(f"predictions of task {task} do not fit the test set: left out of figures and ensemble")
        key = (member.variant, task)
        if key not in collected.ensembles:
            unit = rows.unit_of(results, task)
            collected.ensembles[key] = EnsembleStatistics(*key, settings.level, unit, truth, scale)
        noise = predictions.get(noise_of(task))
        if (task in with_noise) != (noise is not None and noise.shape == truth.shape):
            raise UserError(f"noise of task {task} does not fit its loss: left out of figures and ensemble")
        collected.ensembles[key].add(np.asarray(predicted, float), noise)
        recorded, own = rows.metric(member, task, "rmse_unit"), collected.ensembles[key].rmse[-1]
        if recorded is not None and abs(recorded - own) > AGREEMENT * max(recorded, own):
            collected.problems.append(
                f"{member.name}: result.json says RMSE {recorded:.4g} of {task}, predictions {own:.4g}"
            )


def _edges(results: Snapshot, task: str, test_set: GroundTruth) -> HistogramEdges | None:
    truth = test_set.targets.get(results.campaign.tasks[task].field)
    if truth is None or not np.isfinite(truth).any():
        return None
    largest = max(rows.metrics(_finished(results), task, "rmse_unit"), default=0.0)
    low, high = float(np.nanmin(truth)), float(np.nanmax(truth))
    reach = RANGE_IN_RMSE * largest or 0.05 * (high - low) or 1.0
    cells = min(ERROR_BINS, 2 * int(np.sqrt(np.isfinite(truth).sum()) / 2) + 11)  # odd: one bin is centred
    errors = np.linspace(-reach, reach, cells + 1)
    return HistogramEdges(errors, np.linspace(low - reach, high + reach, PARITY_BINS + 1))


def _finished(results: Snapshot) -> Iterable[Member]:
    for variant in results.campaign.variants:
        yield from results.finished(variant.name)


def _counts(truth: np.ndarray, value: np.ndarray, edges: np.ndarray) -> np.ndarray:
    step = edges[1] - edges[0]
    place = [np.floor((v - edges[0]) / step).astype(np.int64) for v in (truth, value)]
    inside = (place[1] >= 0) & (place[1] < PARITY_BINS)
    flat = place[0][inside] * PARITY_BINS + place[1][inside]
    return np.bincount(flat, minlength=PARITY_BINS**2).reshape(PARITY_BINS, PARITY_BINS)
