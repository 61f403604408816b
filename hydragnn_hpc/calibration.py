"""Calibrated uncertainty: an ensemble's spread, scaled by its errors on the validation set (split conformal).

The score of a known value is ``|mean - truth| / spread``, with the mean and the standard deviation (ddof = 1) over the
members; where members predict the data's noise as well, its variance, averaged over them, is added to theirs. An
interval of a ``level`` is ``mean ± r * spread`` with the smallest r for which

    number of scores <= r  >=  level (1 + 1 / K) N

for N known values in K structures. For one value per structure that is the ceil((K + 1) level)-th smallest score, the
usual finite-sample quantile (Vovk et al. 2005; Lei et al. 2018). Values of one structure depend on each other, so the
structure is the unit that is exchangeable, and the correction 1 / K counts structures. Where K is too small for a
level, r is infinite.

Under exchangeability of the structures, a random value of a new structure is inside with a probability of at least
``level``, on average over structures, not for each of them; where structures have different numbers of values, this
holds of all values pooled, and for many structures only (Dunn, Wasserman & Ramdas, J. Am. Stat. Assoc. 2022). Three
things weaken it: a structure from elsewhere than the training's distribution; that the validation set has chosen the
epoch; and, with a split by symmetry or composition, that equivalent samples are counted as several structures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.paths import CampaignFolder, noise_of, read_arrays
from hydragnn_hpc.sections import Folds

FEWEST_MEMBERS = 3
FEWEST_STRUCTURES = 100
"""A species has quantiles of its own if at least this many structures of the validation set contain it."""
ONE_SIGMA = math.erf(math.sqrt(0.5))
"""The level of one standard deviation of a normal distribution, 68.27 %."""


@dataclass(frozen=True)
class Scores:
    """Scores of the validation set, ascending.

    Attributes
    ----------
    values : numpy.ndarray
        ``[n]``.
    structures : int
        The number of structures that they are of.
    """

    values: np.ndarray
    structures: int

    @classmethod
    def of(cls, scores: np.ndarray, structure: np.ndarray) -> Scores:
        """Sort scores ``[n]``; ``structure`` ``[n]`` is the index of each score's structure."""
        return cls(np.sort(scores), len(np.unique(structure)))

    @property
    def largest_level(self) -> float:
        """The largest level with a finite quantile."""
        return self.structures / (self.structures + 1)

    def quantile(self, level: float) -> float:
        """Return r of a level; infinite where there are too few structures for it."""
        count = len(self.values)
        # Reduced by more than rounding errors, which must not lift a whole number to the next.
        rank = math.ceil(level * (1 + 1 / self.structures) * count * (1 - 1e-12))
        return float(self.values[rank - 1]) if rank <= count else math.inf


@dataclass(frozen=True)
class TaskCalibration:
    """Scores of a task: of all its values and, at node level, of each species that is in enough structures."""

    all_values: Scores
    species: Mapping[int, Scores] = field(default_factory=dict)

    @property
    def fewest(self) -> Scores:
        """The scores of the fewest structures, which limit the level of all intervals."""
        return min((self.all_values, *self.species.values()), key=lambda scores: scores.structures)

    def widths(self, level: float, spread: np.ndarray, numbers: np.ndarray | None) -> np.ndarray:
        """Return the half widths of intervals, r times the spread.

        Parameters
        ----------
        level : float
        spread : numpy.ndarray
            ``[rows, d]``.
        numbers : numpy.ndarray or None
            ``[rows]`` proton numbers at node level.
        """
        factors = np.full((len(spread), 1), self.all_values.quantile(level))
        for number, scores in self.species.items():
            factors[numbers == number] = scores.quantile(level)
        with np.errstate(invalid="ignore"):
            return np.where(np.isinf(factors), np.inf, factors * spread)


@dataclass(frozen=True)
class Calibration:
    """The calibration of an ensemble by task.

    Attributes
    ----------
    tasks : mapping
        By name, of the tasks that are calibrated.
    why_not : str
        Why there is none; empty if there is one.
    unknown : tuple of str
        Tasks of which the validation set has no known value.
    """

    tasks: Mapping[str, TaskCalibration]
    why_not: str = ""
    unknown: tuple[str, ...] = ()

    def remark(self, level: float) -> str:
        """Return a line on tasks without a calibrated interval of a level, and why; empty if all have one."""
        if self.why_not:
            return f"no calibrated intervals: {self.why_not}"
        fewest = {task: own.fewest for task, own in self.tasks.items()}
        few = [f"{task} ({scores.structures})" for task, scores in fewest.items() if level > scores.largest_level]
        lines = []
        if self.unknown:
            lines.append(f"no calibrated intervals of {', '.join(self.unknown)}: the validation set has no known value")
        if few:
            lines.append(f"too few structures in the validation set for intervals of level {level:g}: {', '.join(few)}")
        return "; ".join(lines)


class RunningMoments:
    """Mean and standard deviation over weighted members that are added one by one (West 1979)."""

    def __init__(self) -> None:
        self._weight = self._squared_weights = 0.0
        self.mean = self._squares = np.zeros(0)
        self._variances: np.ndarray | None = None

    def add(self, values: np.ndarray, weight: float = 1.0, noise: np.ndarray | None = None) -> None:
        """Add a member's values and, of a task that has one, its noise, of the same shape for all members."""
        if not self._weight:
            self.mean, self._squares = np.zeros_like(values), np.zeros_like(values)
        self._weight += weight
        self._squared_weights += weight**2
        difference = values - self.mean
        self.mean = self.mean + difference * (weight / self._weight)
        self._squares = self._squares + weight * difference * (values - self.mean)
        if noise is not None:
            self._variances = weight * noise**2 + (0 if self._variances is None else self._variances)

    @property
    def std(self) -> np.ndarray:
        """The standard deviation, ddof = 1 where all weights are equal; with the noise, where there is one."""
        spread = self._squares / (self._weight - self._squared_weights / self._weight)
        return np.asarray(np.sqrt(spread if self._variances is None else spread + self._variances / self._weight))

    @property
    def noise(self) -> np.ndarray | None:
        """The root of the mean variance of the noise; None where there is none."""
        return None if self._variances is None else np.asarray(np.sqrt(self._variances / self._weight))


def calibrate(
    folder: CampaignFolder,
    campaign: Campaign,
    members: Sequence[Member],
    weights: Mapping[str, Sequence[float]] | None = None,
) -> Calibration:
    """Calibrate some finished members of one variant, from what they predicted for the validation set.

    Parameters
    ----------
    folder : CampaignFolder
    campaign : Campaign
    members : sequence of Member
    weights : mapping, optional
        Of the members by task, where they do not count equally.
    """
    if len(members) < FEWEST_MEMBERS:
        return Calibration({}, f"calibration needs {FEWEST_MEMBERS} members, and there are {len(members)}")
    training = campaign.of_variant(campaign.variant(members[0].variant)).training
    if isinstance(training.resample, Folds):
        return Calibration({}, "with training.resample.folds, members have no validation set in common")
    try:
        tasks = _calibrated(folder, campaign, members, weights or {})
    except UserError as error:
        return Calibration({}, str(error))
    unknown = [task for task in campaign.variant(members[0].variant).tasks if task not in tasks]
    return Calibration(tasks, unknown=tuple(unknown))


def check_level(level: float) -> None:
    """Refuse a level that is not between 0 and 1.

    Raises
    ------
    UserError
        If it is not.
    """
    if not 0 < level < 1:
        raise UserError(f"level {level:g}: give a number between 0 and 1, such as 0.9")


def task_calibration(
    moments: RunningMoments, truth: np.ndarray, atom_offsets: np.ndarray, numbers: np.ndarray | None
) -> TaskCalibration | None:
    """Calibrate one task; None where no true value is known.

    Parameters
    ----------
    moments : RunningMoments
        Over the members, of arrays shaped as ``truth``.
    truth : numpy.ndarray
        ``[A, d]`` or, at graph level, ``[S, d]``; NaN is missing.
    atom_offsets : numpy.ndarray
        ``[S + 1]``.
    numbers : numpy.ndarray or None
        ``[A]`` proton numbers of a node-level task.
    """
    each = np.arange(len(atom_offsets) - 1)
    structure = each if numbers is None else np.repeat(each, np.diff(atom_offsets))
    row, component = np.nonzero(np.isfinite(truth))
    if not len(row):
        return None
    error, spread = np.abs(moments.mean - truth)[row, component], moments.std[row, component]
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.where(error == 0, 0.0, error / spread)
    species = {}
    for number in [] if numbers is None else np.unique(numbers).tolist():
        own = numbers[row] == number  # type: ignore[index]
        of_species = Scores.of(scores[own], structure[row[own]])
        if of_species.structures >= FEWEST_STRUCTURES:
            species[number] = of_species
    return TaskCalibration(Scores.of(scores, structure[row]), species)


def _calibrated(
    folder: CampaignFolder, campaign: Campaign, members: Sequence[Member], weights: Mapping[str, Sequence[float]]
) -> dict[str, TaskCalibration]:
    truth = read_arrays(folder.validation_set, "remove it, and run again")
    if truth is None:
        raise UserError(f"no {folder.validation_set.name} (imported, or removed)")
    tasks, with_noise = campaign.variant(members[0].variant).tasks, campaign.with_noise(members[0].variant)
    moments = {task: RunningMoments() for task in tasks}
    for index, member in enumerate(members):
        path = folder.member(member.variant, member.replica).validation
        predicted = read_arrays(path)
        if predicted is None:
            raise UserError(f"{member.name} has no {path.name} (imported, or removed)")
        for task in tasks:
            known = truth.get(campaign.tasks[task].field)
            if known is None or task not in predicted or predicted[task].shape != known.shape:
                raise UserError(
                    f"{path} does not fit {folder.validation_set}; remove the member's folder, and run again"
                )
            noise = predicted.get(noise_of(task))
            if (task in with_noise) != (noise is not None and noise.shape == known.shape):
                raise UserError(f"{path} does not fit its campaign; remove the member's folder, and run again")
            moments[task].add(predicted[task], weights[task][index] if task in weights else 1.0, noise)
    calibrated = {}
    for task in tasks:
        node = campaign.tasks[task].level == "node"
        values, numbers = truth[campaign.tasks[task].field], truth["atomic_numbers"] if node else None
        own = task_calibration(moments[task], values, truth["atom_offsets"], numbers)
        if own is not None:
            calibrated[task] = own
    return calibrated
