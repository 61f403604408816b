"""Which structures of a pool to compute next: those of large spread, far from each other in the trunk's features."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from ase.symbols import Symbols

from hydragnn_hpc.dataset import symmetry
from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.dataset.graphs import Geometry
from hydragnn_hpc.dataset.read.gathered import offsets_of
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.prediction.distance import DistanceFromTraining
from hydragnn_hpc.prediction.ensemble import Ensemble, TaskPrediction
from hydragnn_hpc.prediction.tables import csv_number

COLUMNS = ("rank", "index", "frame", "sample", "composition", "score", "distance", "distance_quantile")


@dataclass
class Pool:
    """Structures among which to choose, and what an ensemble says of them.

    Attributes
    ----------
    tasks : tuple of str
        The tasks whose spread counts.
    index, origin, name, composition : list
        Of each structure: its position in the source, what identifies it there, its name and its reduced formula.
    both_spreads : list of numpy.ndarray
        ``[T, 2]``: the calibrated and the raw standard deviation of each task, as the root mean square over a
        structure's values; both that between members for a task with noise.
    features : list of numpy.ndarray
        ``[F]`` (`prediction.distance.Distances`).
    distance, quantile : list of float
        From the training set; NaN where they are not known.
    """

    tasks: tuple[str, ...]
    index: list[int] = field(default_factory=list)
    origin: list[str] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    composition: list[str] = field(default_factory=list)
    both_spreads: list[np.ndarray] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    quantile: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._geometries: dict[bytes, tuple[int, Geometry]] = {}
        self._geometry: list[int] = []
        self._numbers: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.index)

    def add(self, ensemble: Ensemble, distances: DistanceFromTraining | None, structures: UnseenStructures) -> None:
        """Add a batch."""
        predicted = ensemble.apply(structures)
        self.both_spreads += list(np.stack([_both_spreads(predicted[task]) for task in self.tasks], axis=1))
        far = distances.of(structures) if distances else None
        self.features += list(far.features) if far else []
        self.distance += far.distance.tolist() if far else [math.nan] * len(structures)
        self.quantile += far.quantile.tolist() if far else [math.nan] * len(structures)
        self.index += structures.index
        for number, frame in enumerate(structures.frames):
            geometry = structures.geometries[structures.sample_geometry[number]].geometry
            known = self._geometries.setdefault(geometry.key(), (len(self._geometries), geometry))
            self._geometry.append(known[0])
            self._numbers.append(frame.atomic_numbers)
            self.origin.append(frame.origin)
            self.name.append(frame.name)
            self.composition.append(str(Symbols(frame.atomic_numbers).formula.reduce()[0].format("metal")))

    def spreads(self) -> np.ndarray:
        """Return the spread of each structure for each task, ``[S, T]``.

        For each task it is the calibrated one or, if that of any structure is unknown or infinite, the raw one of all.
        """
        calibrated, raw = np.moveaxis(np.array(self.both_spreads), 2, 0)
        spreads: np.ndarray = np.where(self._calibrated(), calibrated, raw)
        return spreads

    def uncalibrated(self) -> list[str]:
        """Return the tasks whose spread is the raw one."""
        return [task for task, calibrated in zip(self.tasks, self._calibrated(), strict=True) if not calibrated]

    def _calibrated(self) -> np.ndarray:
        known: np.ndarray = np.isfinite(np.array(self.both_spreads)[:, :, 0]).all(axis=0)
        return known

    def scores(self) -> np.ndarray:
        """Return the score of each structure, ``[S]``.

        It is the spread; for several tasks, the root mean square of their spreads, each relative to that of the pool.
        """
        spreads = self.spreads()
        scale = np.sqrt((spreads**2).mean(axis=0))
        relative: np.ndarray = np.sqrt(((spreads / np.where(scale > 0, scale, 1.0)) ** 2).mean(axis=1))
        return relative if len(self.tasks) > 1 else spreads[:, 0]

    def classes(self, cell: Sequence[float] | None) -> np.ndarray:
        """Return the symmetry class of each structure, ``[S]``; ``cell`` is the crystal's, nine numbers in bohr."""
        geometries = [symmetry.with_period(geometry, cell) for _, geometry in self._geometries.values()]
        offsets = offsets_of([len(numbers) for numbers in self._numbers])
        return symmetry.classes(geometries, np.array(self._geometry), np.concatenate(self._numbers), offsets)

    def rows(self, chosen: Sequence[int], scores: np.ndarray) -> Iterator[tuple[object, ...]]:
        """Yield the row of each chosen structure, :data:`COLUMNS` and the tasks' spreads."""
        spreads = self.spreads()
        for rank, k in enumerate(chosen, start=1):
            numbers = (scores[k], self.distance[k], self.quantile[k], *spreads[k])
            yield (rank, self.index[k], self.origin[k], self.name[k], self.composition[k], *map(csv_number, numbers))


@dataclass(frozen=True)
class Limits:
    """How many structures may be chosen.

    Attributes
    ----------
    number : int
        At most so many in all.
    per_composition : int or None
        At most so many of each composition.
    classes : numpy.ndarray or None
        ``[S]``, the class of each structure: at most one of each class.
    """

    number: int
    per_composition: int | None = None
    classes: np.ndarray | None = None


def farthest(pool: Pool, scores: np.ndarray, limits: Limits) -> list[int]:
    """Choose one structure after the other: the one with the largest score times distance from those chosen before.

    The first is the one with the largest score (greedy farthest points, Gonzalez 1985, weighted). Of structures that
    are equally good, the first in the pool is taken.
    """
    features = np.array(pool.features)
    allowed = _Allowed(pool, limits)
    nearest = np.full(len(pool), np.inf)
    value = scores.astype(np.float64)
    chosen: list[int] = []
    while len(chosen) < limits.number and allowed.any():
        k = int(np.argmax(np.where(allowed.mask, value, -np.inf)))
        chosen.append(k)
        allowed.take(k)
        nearest = np.minimum(nearest, np.linalg.norm(features - features[k], axis=1))
        value = scores * nearest
    return chosen


def at_random(pool: Pool, seed: int, limits: Limits) -> list[int]:
    """Choose structures at random, within the same limits."""
    allowed = _Allowed(pool, limits)
    chosen: list[int] = []
    for k in np.random.default_rng(seed).permutation(len(pool)).tolist():
        if len(chosen) < limits.number and allowed.mask[k]:
            chosen.append(k)
            allowed.take(k)
    return chosen


class _Allowed:
    """Which structures may still be chosen."""

    def __init__(self, pool: Pool, limits: Limits) -> None:
        self.mask = np.ones(len(pool), bool)
        self._groups: list[tuple[np.ndarray, int, Counter[int]]] = []
        if limits.per_composition is not None:
            _, composition = np.unique(pool.composition, return_inverse=True)
            self._groups.append((composition, limits.per_composition, Counter()))
        if limits.classes is not None:
            self._groups.append((limits.classes, 1, Counter()))

    def any(self) -> bool:
        return bool(self.mask.any())

    def take(self, k: int) -> None:
        """Count a chosen structure."""
        self.mask[k] = False
        for group, most, taken in self._groups:
            taken[int(group[k])] += 1
            if taken[int(group[k])] >= most:
                self.mask &= group != group[k]


def tasks_of(ensemble: Ensemble, task: str | None, needs_spread: bool) -> tuple[str, ...]:
    """Return the tasks whose spread counts: ``task``, or all.

    Raises
    ------
    UserError
        If there is no such task, or a spread is needed and the ensemble has only one member.
    """
    if needs_spread and len(ensemble.replicas) < 2:
        raise UserError(f"{ensemble.variant}: one member has no spread to choose by; train more, or use --random")
    if task is not None and task not in ensemble.tasks:
        raise UserError(f"--task {task}: the variant {ensemble.variant} has the tasks {', '.join(ensemble.tasks)}")
    return ensemble.tasks if task is None else (task,)


def distances_of(ensemble: Ensemble, needed: bool) -> DistanceFromTraining | None:
    """Return an ensemble's distances, None where they are not known and not ``needed``.

    Raises
    ------
    UserError
        If they are needed and not known.
    """
    try:
        return ensemble.distance_from_training
    except UserError as error:
        if needed:
            raise UserError(f"{ensemble.variant}: no distances to choose by: {error}; use --random") from error
        return None


def _both_spreads(prediction: TaskPrediction) -> np.ndarray:
    """Return the calibrated and the raw spread of each structure, ``[S, 2]``.

    Both are without the noise, which no other structure would reduce.
    """
    between, offsets = prediction.std_spread, prediction.offsets
    both = (prediction.std_calibrated, prediction.std) if between is None else (between, between)
    squares = [(spread**2).mean(axis=1) for spread in both]
    return np.sqrt([[own[first:end].mean() for own in squares] for first, end in pairwise(offsets)])
