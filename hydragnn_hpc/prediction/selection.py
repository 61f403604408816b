"""Which structures of a pool to compute next: those of large spread, far from each other in the trunk's features."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase.symbols import Symbols

from hydragnn_hpc.dataset import symmetry
from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.dataset.graphs import Geometry
from hydragnn_hpc.dataset.read.gathered import offsets_of
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.prediction.distance import DistanceFromTraining
from hydragnn_hpc.prediction.ensemble import Ensemble, TaskPrediction

COLUMNS = ("rank", "index", "frame", "sample", "composition", "score", "distance", "distance_quantile")


@dataclass
class Pool:
    """Structures among which to choose, and what an ensemble says of them.

    Attributes
    ----------
    tasks : tuple of str
        Whose spread counts.
    index, origin, name, composition : list
        Of each structure: its position in the source, what identifies it there, its name and formula.
    spreads : list of numpy.ndarray
        ``[T]``: the calibrated standard deviation of each task, over a structure's values the root mean square; the raw
        one where there is no calibration, and for a task with noise, the raw one between members.
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
    spreads: list[np.ndarray] = field(default_factory=list)
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
        spreads = np.stack([_spread(predicted[task], len(structures)) for task in self.tasks], axis=1)
        self.spreads += list(spreads)
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

    def scores(self) -> np.ndarray:
        """Return the spread of each structure, ``[S]``: of several tasks, each relative to its root mean square."""
        spreads = np.array(self.spreads)
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
        for rank, k in enumerate(chosen, start=1):
            of_pool = (self.index[k], self.origin[k], self.name[k], self.composition[k])
            far = ("" if math.isnan(number) else repr(number) for number in (self.distance[k], self.quantile[k]))
            yield (rank, *of_pool, repr(float(scores[k])), *far, *(repr(float(spread)) for spread in self.spreads[k]))


@dataclass(frozen=True)
class Limits:
    """At most how many structures are chosen: in all, of each composition and of each class; None is any number."""

    number: int
    per_composition: int | None = None
    per_class: int | None = None


def farthest(pool: Pool, scores: np.ndarray, limits: Limits, classes: np.ndarray | None = None) -> list[int]:
    """Choose one structure after the other: the one with the largest score times distance from those chosen before.

    The first is the one with the largest score (greedy farthest points, Gonzalez 1985, weighted). The result does not
    depend on anything but the pool; in a tie the first is taken.
    """
    features = np.array(pool.features)
    allowed = _Allowed(pool, limits, classes)
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


def at_random(pool: Pool, seed: int, limits: Limits, classes: np.ndarray | None = None) -> list[int]:
    """Choose structures at random, within the same limits."""
    allowed = _Allowed(pool, limits, classes)
    chosen: list[int] = []
    for k in np.random.default_rng(seed).permutation(len(pool)).tolist():
        if len(chosen) < limits.number and allowed.mask[k]:
            chosen.append(k)
            allowed.take(k)
    return chosen


class _Allowed:
    """Which structures may still be chosen."""

    def __init__(self, pool: Pool, limits: Limits, classes: np.ndarray | None) -> None:
        self.mask = np.ones(len(pool), bool)
        groups = [(np.unique(pool.composition, return_inverse=True)[1], limits.per_composition)]
        if classes is not None:
            groups.append((classes, limits.per_class))
        self._groups = [(group, most, Counter[int]()) for group, most in groups if most is not None]

    def any(self) -> bool:
        return bool(self.mask.any())

    def take(self, k: int) -> None:
        """Count a chosen structure."""
        self.mask[k] = False
        for group, most, taken in self._groups:
            taken[int(group[k])] += 1
            if taken[int(group[k])] >= most:
                self.mask &= group != group[k]


def check_spread(ensemble: Ensemble, task: str | None) -> tuple[str, ...]:
    """Return the tasks whose spread counts.

    Raises
    ------
    UserError
        If the ensemble has one member, or no such task.
    """
    if len(ensemble.replicas) < 2:
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


def _spread(prediction: TaskPrediction, structures: int) -> np.ndarray:
    """Return the spread of each structure, ``[S]``; without the noise, which no other structure would reduce."""
    spread = prediction.std_spread
    if spread is None:
        calibrated = np.isfinite(prediction.std_calibrated).all()
        spread = prediction.std_calibrated if calibrated else prediction.std
    squares = (spread**2).mean(axis=1)
    return np.array([np.sqrt(squares[slice(*prediction.offsets[k : k + 2])].mean()) for k in range(structures)])
