"""Reference values of a task's target, from the training part, and what is left of the target: what a network learns.

``composition``: the mean per composition; at node level per composition and element. A composition that the training
part lacks lies on the line between its neighbours; of more than two elements it takes the mean of the K nearest (K:
number of elements), weighted by inverse distance. ``species``: at node level the mean per element; at
graph level a linear function of the numbers of atoms of each element, by least squares.

The residual is divided by its standard deviation over the training part, so that a network's outputs are of order one.
All in scaled units (`dataset.stage`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.dataset import decorations
from hydragnn_hpc.errors import UserError

_DIGITS = 9  # shares that agree to so many are one composition


@dataclass(frozen=True)
class Reference:
    """A fitted reference.

    Attributes
    ----------
    kind, level : str
        ``composition`` or ``species``; ``graph`` or ``node``.
    elements : list of int
        Proton numbers, ascending.
    compositions : list of list of float
        ``composition``: those of the training part, ``[n, K]``.
    values : list
        ``composition``: means ``[n, K or 1, d]``, NaN where nothing is known; ``species``: means ``[K, d]`` at node
        level, at graph level ``[1 + K, d]``: a constant, and what each atom adds.
    scale : list of float
        ``[d]``, standard deviation of the residual.
    """

    kind: str
    level: str
    elements: list[int]
    compositions: list[list[float]]
    values: list[Any]
    scale: list[float]

    def plain(self) -> dict[str, Any]:
        """As plain data; ``Reference(**plain)`` restores it."""
        return asdict(self)

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Return the reference of samples with ``counts`` ``[S, K]`` atoms of each element.

        Returns
        -------
        numpy.ndarray
            Float64, ``[S, 1, d]`` at graph level, ``[S, K, d]`` (for an atom of each element) at node level.
        """
        values = np.array(self.values, np.float64)
        if self.kind == "composition":
            return _of_compositions(np.array(self.compositions), values, decorations.shares_of(counts))
        if self.level == "node":
            return np.repeat(values[None], len(counts), axis=0)
        linear: np.ndarray = values[0] + counts @ values[1:]
        return linear[:, None]


def _of_compositions(known: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Look up compositions ``asked`` ``[S, K]``; what is not ``known`` is interpolated."""
    distinct, where = np.unique(np.round(asked, _DIGITS), axis=0, return_inverse=True)
    table = np.empty((len(distinct), *values.shape[1:]))
    for row, composition in enumerate(distinct):
        for column in np.ndindex(*values.shape[1:]):
            there = np.isfinite(values[:, *column])
            table[row, *column] = _interpolated(composition, known[there], values[there, *column])
    found: np.ndarray = table[where.reshape(-1)]
    return found


def _interpolated(asked: np.ndarray, known: np.ndarray, values: np.ndarray) -> float:
    if not len(known):
        return 0.0
    if len(asked) == 2:
        order = np.argsort(known[:, 0])
        return float(np.interp(asked[0], known[order, 0], values[order]))
    distance = np.linalg.norm(known - asked, axis=1)
    nearest = np.argsort(distance, kind="stable")[: len(asked)]
    if distance[nearest[0]] < 10.0**-_DIGITS * 2:
        return float(values[nearest[0]])
    return float(np.average(values[nearest], weights=1 / distance[nearest]))


class _Target:
    """One task's scaled target, walked through in blocks of samples."""

    def __init__(self, arrays: Mapping[str, np.ndarray], values: np.ndarray, level: str) -> None:
        self.arrays, self.values, self.level = arrays, values, level
        self.elements = decorations.elements_of(arrays["atomic_numbers"])
        self.counts = decorations.counts_of(arrays["atomic_numbers"], arrays["atom_offsets"], self.elements)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield rows of the target, the sample of each, and its place among the elements (0 at graph level)."""
        offsets = self.arrays["atom_offsets"]
        for first, behind in decorations.blocks(offsets):
            samples = np.arange(first, behind)
            if self.level == "graph":
                yield slice(first, behind), samples, np.zeros(len(samples), np.int64)
                continue
            atoms = slice(int(offsets[first]), int(offsets[behind]))
            sample = np.repeat(samples, np.diff(offsets[first : behind + 1]))
            if len(sample):
                yield atoms, sample, np.searchsorted(self.elements, self.arrays["atomic_numbers"][atoms])

    def training_means(self, group: np.ndarray, n_groups: int) -> np.ndarray:
        """Return means over the training part by sample ``group`` ``[S]`` and element: ``[n_groups, K or 1, d]``."""
        width = len(self.elements) if self.level == "node" else 1
        shape = (n_groups * width, self.values.shape[1])
        total, number = np.zeros(shape), np.zeros(shape)
        for rows, sample, element in self.blocks():
            train = self.arrays["split"][sample] == 0
            place = (group[sample] * width + element)[train]
            values = np.asarray(self.values[rows], np.float64)[train]
            for d in range(shape[1]):
                there = np.isfinite(values[:, d])
                total[:, d] += np.bincount(place[there], values[there, d], minlength=shape[0])
                number[:, d] += np.bincount(place[there], minlength=shape[0])
        means = np.divide(total, number, out=np.full(shape, np.nan), where=number > 0)
        reshaped: np.ndarray = means.reshape(n_groups, width, -1)
        return reshaped

    def referred(self, reference: Reference) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield rows of the target, the sample of each, and each row's reference ``[rows, d]`` float64."""
        for rows, sample, element in self.blocks():
            first = int(sample[0])
            table = reference.of(self.counts[first : int(sample[-1]) + 1])
            yield rows, sample, table[sample - first, element]

    def deviation(self, reference: Reference) -> np.ndarray:
        """Return the residual's standard deviation over the training part, ``[d]``; 1 where there is none."""
        squares, number = np.zeros(self.values.shape[1]), np.zeros(self.values.shape[1])
        for rows, sample, taken_off in self.referred(reference):
            train = self.arrays["split"][sample] == 0
            left = (self.values[rows] - taken_off)[train]
            squares += np.nansum(left**2, axis=0)
            number += np.isfinite(left).sum(axis=0)
        deviation: np.ndarray = np.sqrt(squares / np.maximum(number, 1))
        deviation[deviation == 0] = 1.0
        return deviation


def write(
    arrays: Mapping[str, np.ndarray], task: Mapping[str, str], values: np.ndarray, paths: tuple[Path, Path]
) -> Reference:
    """Fit a task's reference; write the reference and the residual of every row (``.npy``, float32).

    Parameters
    ----------
    arrays : mapping
        Of the data set.
    task : mapping
        ``name``, ``level`` and ``reference`` of the task.
    values : numpy.ndarray
        ``[A, d]`` or ``[S, d]`` float32, its scaled target; NaN where missing.
    paths : tuple of Path
        Of the reference and of the residual.

    Raises
    ------
    UserError
        If the training part has fewer than two samples a composition: the mean would be the sample itself.
    OSError
        If there is no room.
    """
    target = _Target(arrays, values, task["level"])
    fitted = _fit(target, task)
    scale = target.deviation(fitted)
    reference, residual = (decorations.new_array(path, values.shape) for path in paths)
    for rows, _, taken_off in target.referred(fitted):
        reference[rows] = taken_off
        # Of the rounded reference, so that reference + residual * scale is the target again.
        residual[rows] = (values[rows] - reference[rows].astype(np.float64)) / scale
    return Reference(**{**fitted.plain(), "scale": scale.tolist()})


def _fit(target: _Target, task: Mapping[str, str]) -> Reference:
    kind, level, elements = task["reference"], task["level"], target.elements.tolist()
    one = [1.0] * target.values.shape[1]
    if kind == "composition":
        shares = np.round(decorations.shares_of(target.counts), _DIGITS)
        train = target.arrays["split"] == 0
        known, group = np.unique(shares[train], axis=0, return_inverse=True)
        if 2 * len(known) > np.count_nonzero(train):
            raise UserError(
                f"tasks.{task['name']}.reference=composition: the training part has {np.count_nonzero(train)} samples"
                f" of {len(known)} compositions, too few of each for a mean; set it to species or none"
            )
        of_sample = np.zeros(len(shares), np.int64)
        of_sample[train] = group.reshape(-1)
        means = target.training_means(of_sample, len(known))
        return Reference(kind, level, elements, known.tolist(), means.tolist(), one)
    if level == "node":
        means = target.training_means(np.zeros(len(target.counts), np.int64), 1)[0]
        for d in range(means.shape[1]):
            there = np.isfinite(means[:, d])
            if there.any():  # an element that the training part lacks lies between its neighbours
                means[:, d] = np.interp(target.elements, target.elements[there], means[there, d])
        return Reference(kind, level, elements, [], np.nan_to_num(means).tolist(), one)
    return Reference(kind, level, elements, [], _linear(target).tolist(), one)


def _linear(target: _Target) -> np.ndarray:
    """Return the least-squares constant and contribution of an atom of each element, ``[1 + K, d]``."""
    train = target.arrays["split"] == 0
    known = np.concatenate([np.ones((np.count_nonzero(train), 1)), target.counts[train]], axis=1)
    values = np.asarray(target.values[train], np.float64)
    columns = []
    for d in range(values.shape[1]):
        there = np.isfinite(values[:, d])
        columns.append(np.linalg.lstsq(known[there], values[there, d], rcond=None)[0])
    return np.stack(columns, axis=1)
