"""All members' test predictions in one pass over their files: errors, densities, ensemble mean and spread.

Each file is read once and released: memory is needed for running sums, not for all members' predictions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from hydragnn_hpc.calibration import RunningMoments
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.paths import noise_of
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.ground_truth import GroundTruth
from hydragnn_hpc.report.results.rows import Snapshot

ERROR_BINS, PARITY_BINS = 121, 128
"""Maximum numbers of bins; few values are counted in fewer bins."""
RANGE_IN_RMSE = 4.0
"""Error densities extend to this multiple of the largest RMSE of a task, parity plots as far beyond the true values."""
AGREEMENT = 1e-3
"""Relative difference above which a result's RMSE and that of its predictions are considered inconsistent."""


@dataclass(frozen=True)
class HistogramEdges:
    """Edges of the histogram bins that all variants of a task share: of errors, and of values; in the task's unit."""

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
        Probability density of the errors in the bins of ``edges.errors``, an array per member.
    valid : numpy.ndarray
        Where the truth is known, shaped as ``truth``.
    parity : numpy.ndarray
        Counts ``[truth, predicted]`` in the bins of ``edges.values``, over all members.
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
        self._squares = float(np.sum((self.truth - centre)[self.valid] ** 2))
        self.parity = np.zeros((PARITY_BINS, PARITY_BINS), np.int64)
        self._moments = RunningMoments()

    @property
    def n(self) -> int:
        """Number of members added."""
        return len(self.rmse)

    @property
    def mean(self) -> np.ndarray:
        """The ensemble's mean prediction, shaped as ``truth``."""
        return self._moments.mean

    @property
    def rmse_of_mean(self) -> float:
        """RMSE of the ensemble's mean prediction."""
        return rmse(self.mean, self.truth)

    @property
    def std(self) -> np.ndarray | None:
        """The members' standard deviation (ddof = 1), shaped as ``truth``; None for fewer than two members.

        Where members predict a noise, its mean variance is added to theirs.
        """
        return self._moments.std if self.n > 1 else None

    @property
    def noise(self) -> np.ndarray | None:
        """The noise that members predict, the root of its mean variance; None for a task without noise."""
        return self._moments.noise

    def add(self, predicted: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Add one member's predictions, shaped as ``truth``, and its noise where the task has one."""
        truth, value = self.truth[self.valid], predicted[self.valid]
        error = value - truth
        self.rmse.append(rmse(predicted, self.truth))
        self.mae.append(float(np.mean(np.abs(error))))
        self.r2.append(1 - float(np.sum(error**2)) / self._squares if self._squares else float("nan"))
        width = self.edges.errors[1] - self.edges.errors[0]
        counts, _ = np.histogram(error, self.edges.errors)
        self.densities.append(counts / (len(error) * width))
        self.parity += _counts(truth, value, self.edges.values)
        self._moments.add(predicted, noise=noise)


@dataclass
class CollectedPredictions:
    """Statistics by (variant, task), and a line for each problem."""

    ensembles: dict[tuple[str, str], EnsembleStatistics]
    problems: list[str]


def collect(snapshot: Snapshot, test_set: GroundTruth | None) -> CollectedPredictions:
    """Read the test predictions of all finished members; nothing without a test set.

    A member whose predictions of any task cannot be used is left out and named, as is a task without true values.
    """
    collected = CollectedPredictions({}, [])
    if test_set is None:
        return collected
    edges = {}
    for task in snapshot.campaign.tasks:
        bins = _edges(snapshot, task, test_set)
        if bins is None:
            collected.problems.append(f"the test set has no true value of task {task}: no figures of its predictions")
        else:
            edges[task] = bins
    for member in itertools.chain.from_iterable(snapshot.finished_by_variant.values()):
        try:
            _add_member(collected, snapshot, member, test_set, edges)
        except UserError as error:
            collected.problems.append(f"{member.name}: {error}; left out of figures and ensembles")
    return collected


def predicted_of(predictions: dict[str, np.ndarray] | None, name: str, truth: np.ndarray) -> np.ndarray:
    """Return a member's predictions of a task, or its noise, as float64, shaped as ``truth``.

    Raises
    ------
    UserError
        If they are missing, of another shape, or not finite where the truth is known.
    """
    if predictions is None:
        raise UserError("predictions.npz is missing")
    array = predictions.get(name)
    if array is None:
        raise UserError(f"predictions.npz has no '{name}'")
    array = array.reshape(-1, 1) if array.ndim == 1 else array
    if array.dtype.kind != "f" or array.shape != truth.shape or not np.isfinite(array[np.isfinite(truth)]).all():
        raise UserError(f"'{name}' in predictions.npz does not fit the test set")
    return np.asarray(array, float)


def _add_member(
    collected: CollectedPredictions,
    snapshot: Snapshot,
    member: Member,
    test_set: GroundTruth,
    edges: dict[str, HistogramEdges],
) -> None:
    predictions, campaign = snapshot.predictions(member), snapshot.campaign
    with_noise = campaign.with_noise(member.variant)
    usable = []
    # All tasks are checked before any is added: the ensembles of a variant have the same members.
    for task in (t for t in campaign.variant(member.variant).tasks if t in edges):
        truth = test_set.targets[campaign.tasks[task].field]
        noise = predicted_of(predictions, noise_of(task), truth) if task in with_noise else None
        usable.append((task, truth, predicted_of(predictions, task, truth), noise))
    for task, truth, predicted, noise in usable:
        key = (member.variant, task)
        if key not in collected.ensembles:
            level, unit = campaign.tasks[task].level, rows.unit_of(snapshot, task)
            collected.ensembles[key] = EnsembleStatistics(*key, level, unit, truth, edges[task])
        collected.ensembles[key].add(predicted, noise)
        recorded, own = rows.metric(member, task, "rmse_unit"), collected.ensembles[key].rmse[-1]
        if recorded is not None and abs(recorded - own) > AGREEMENT * max(recorded, own):
            collected.problems.append(
                f"{member.name}: result.json says RMSE {recorded:.4g} of {task}, predictions {own:.4g}"
            )


def _edges(snapshot: Snapshot, task: str, test_set: GroundTruth) -> HistogramEdges | None:
    """Return the bins of a task; None where the test set has no true value of it."""
    truth = test_set.targets[snapshot.campaign.tasks[task].field]
    if not np.isfinite(truth).any():
        return None
    finished = itertools.chain.from_iterable(snapshot.finished_by_variant.values())
    largest = max(rows.metrics(finished, task, "rmse_unit"), default=0.0)
    low, high = float(np.nanmin(truth)), float(np.nanmax(truth))
    reach = RANGE_IN_RMSE * largest or 0.05 * (high - low) or 1.0
    bins = min(ERROR_BINS, 2 * int(np.sqrt(np.isfinite(truth).sum()) / 2) + 11)  # odd: one bin is centred
    errors = np.linspace(-reach, reach, bins + 1)
    return HistogramEdges(errors, np.linspace(low - reach, high + reach, PARITY_BINS + 1))


def _counts(truth: np.ndarray, value: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the number of values in each bin, ``[truth, predicted]``; the bins hold all true values."""
    step = edges[1] - edges[0]
    place = [np.floor((v - edges[0]) / step).astype(np.int64) for v in (truth, value)]
    inside = (place[1] >= 0) & (place[1] < PARITY_BINS)
    flat = place[0][inside] * PARITY_BINS + place[1][inside]
    return np.bincount(flat, minlength=PARITY_BINS**2).reshape(PARITY_BINS, PARITY_BINS)
