"""References of a task's target, fitted to the training set, and the residuals that a network learns.

``composition``: the mean per composition; at node level per composition and element. A composition that the training
set lacks is interpolated linearly between its neighbours; with more than two elements it takes the mean of the K
nearest (K: number of elements), weighted by inverse distance. ``species``: at node level the mean per element; at graph
level a linear function of the numbers of atoms of each element, by least squares. ``linear``: for each group that
``composition`` averages over, a linear function of the node inputs (`features.inputs`), by regularised least squares
(`features.regression`): at node level of the atom's own inputs, at graph level of their sums over the atoms of each
element, divided by the number of atoms. Slopes are shrunk towards those of nearby compositions.

The residual is divided by its standard deviation over the training set, so that a network's outputs are of order one.
``range`` subtracts the least value and divides by the span instead, as the data set's scaling does for all samples.
Everything is in scaled units (`staged.copies`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from hydragnn_hpc import compositions
from hydragnn_hpc.dataset.features import regression
from hydragnn_hpc.dataset.features.mapped import new_array
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.recipe import FittedReference, ReferencedTask

_DIGITS = 9  # fractions that agree to this many are one composition


def evaluate(
    fitted: FittedReference, counts: np.ndarray, sample: np.ndarray, element: np.ndarray, regressors: np.ndarray
) -> np.ndarray:
    """Return the reference of rows of a target: samples at graph level, atoms at node level.

    Parameters
    ----------
    fitted : FittedReference
    counts : numpy.ndarray
        ``[S, K]``, atoms of each element in each sample.
    sample, element : numpy.ndarray
        ``[rows]``, each row's index among those samples, and that of its element (0 at graph level).
    regressors : numpy.ndarray
        ``[rows, F]``, from :func:`regressors_of`; only ``linear`` uses them.

    Returns
    -------
    numpy.ndarray
        Float64, ``[rows, d]``.
    """
    values = np.array(fitted.values, np.float64)
    if fitted.kind == "range":
        return np.broadcast_to(values[0], (len(sample), values.shape[1]))
    if fitted.kind == "species" and fitted.level == "node":
        by_element: np.ndarray = values[element]
        return by_element
    if fitted.kind == "species":
        linear: np.ndarray = values[0] + counts[sample] @ values[1:]
        return linear
    known, fractions = np.array(fitted.compositions), compositions.fractions_of(counts)
    reference: np.ndarray = _of_compositions(known, values, fractions)[sample, element]
    if fitted.kind == "linear":
        slopes = np.array(fitted.slopes, np.float64)
        flat = _of_compositions(known, slopes.reshape(*values.shape[:2], -1), fractions)[sample, element]
        reference += np.einsum("rf,rfd->rd", regressors, flat.reshape(len(sample), *slopes.shape[2:]))
    return reference


def regressors_of(level: str, inputs: np.ndarray, n_atoms: np.ndarray, element: np.ndarray, kinds: int) -> np.ndarray:
    """Return the regressors of ``linear``, float64: ``[n, F]`` at node level, ``[S, K F]`` at graph level.

    Parameters
    ----------
    level : str
    inputs : numpy.ndarray
        ``[n, F]``, node inputs of all atoms of S samples.
    n_atoms : numpy.ndarray
        ``[S]``, atoms of each sample.
    element : numpy.ndarray
        ``[n]``, index among the elements.
    kinds : int
        K, the number of elements.
    """
    rows = np.asarray(inputs, np.float64)
    if level == "node":
        return rows
    sample = np.repeat(np.arange(len(n_atoms)), n_atoms)
    wide = np.zeros((len(n_atoms), kinds, rows.shape[1]))
    for k in range(kinds):
        chosen = element == k
        for column in range(rows.shape[1]):
            wide[:, k, column] = np.bincount(sample[chosen], rows[chosen, column], minlength=len(n_atoms))
    mean: np.ndarray = wide.reshape(len(n_atoms), -1) / np.maximum(n_atoms, 1)[:, None]
    return mean


def _of_compositions(known: np.ndarray, values: np.ndarray, requested: np.ndarray) -> np.ndarray:
    """Look up the values of compositions ``requested`` ``[S, K]``; those not among ``known`` are interpolated."""
    distinct, where = np.unique(np.round(requested, _DIGITS), axis=0, return_inverse=True)
    flat = values.reshape(len(values), -1)
    table = np.zeros((len(distinct), flat.shape[1]))
    masks, of_column = np.unique(np.isfinite(flat), axis=1, return_inverse=True)
    for number, present in enumerate(masks.T):
        if present.any():
            columns = of_column.reshape(-1) == number
            index, weight = _mixture(distinct, known[present])
            table[:, columns] = np.einsum("sk,skc->sc", weight, flat[present][:, columns][index])
    rows: np.ndarray = table[where.reshape(-1)].reshape(-1, *values.shape[1:])
    return rows


def _mixture(requested: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``known`` compositions that each ``requested`` one is interpolated from, and their weights."""
    if known.shape[1] == 2:
        order, at = np.argsort(known[:, 0]), requested[:, 0]
        x = known[order, 0]
        right = np.minimum(np.searchsorted(x, at), len(x) - 1)
        left = np.maximum(right - 1, 0)
        width = x[right] - x[left]
        share = np.clip((x[right] - at) / np.where(width > 0, width, 1), 0, 1)
        return np.stack([order[left], order[right]], axis=1), np.stack([share, 1 - share], axis=1)
    distance = np.linalg.norm(known - requested[:, None], axis=2)
    index = np.argsort(distance, axis=1, kind="stable")[:, : known.shape[1]]
    nearest = np.take_along_axis(distance, index, axis=1)
    weight = 1 / np.maximum(nearest, 10.0**-_DIGITS)
    weight[nearest[:, 0] < 10.0**-_DIGITS * 2, 1:] = 0
    return index, weight / weight.sum(axis=1, keepdims=True)


class _Target:
    """One task's scaled target, read in blocks of samples."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        values: np.ndarray,
        level: str,
        inputs: np.ndarray | None = None,
        shrinkage: np.ndarray | None = None,
    ) -> None:
        self.arrays, self.values, self.level, self.inputs, self.shrinkage = arrays, values, level, inputs, shrinkage
        self.elements = compositions.elements_of(arrays["atomic_numbers"])
        self.counts = compositions.counts_of(arrays["atomic_numbers"], arrays["atom_offsets"], self.elements)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows of the target, sample of each row, index of its element or 0 at graph level)."""
        offsets = self.arrays["atom_offsets"]
        for first, stop in compositions.blocks(offsets):
            samples = np.arange(first, stop)
            if self.level == "graph":
                yield slice(first, stop), samples, np.zeros(len(samples), np.int64)
                continue
            atoms = slice(int(offsets[first]), int(offsets[stop]))
            sample = np.repeat(samples, np.diff(offsets[first : stop + 1]))
            if len(sample):
                yield atoms, sample, np.searchsorted(self.elements, self.arrays["atomic_numbers"][atoms])

    def training_means(self, group: np.ndarray, n_groups: int) -> np.ndarray:
        """Return means over the training set by sample ``group`` ``[S]`` and element: ``[n_groups, K or 1, d]``."""
        width = len(self.elements) if self.level == "node" else 1
        shape = (n_groups * width, self.values.shape[1])
        total, number = np.zeros(shape), np.zeros(shape)
        for rows, sample, element in self.blocks():
            train = self.arrays["split"][sample] == 0
            place = (group[sample] * width + element)[train]
            values = np.asarray(self.values[rows], np.float64)[train]
            for d in range(shape[1]):
                known = np.isfinite(values[:, d])
                total[:, d] += np.bincount(place[known], values[known, d], minlength=shape[0])
                number[:, d] += np.bincount(place[known], minlength=shape[0])
        means = np.divide(total, number, out=np.full(shape, np.nan), where=number > 0)
        reshaped: np.ndarray = means.reshape(n_groups, width, -1)
        return reshaped

    def training_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the least value and the span over the training set, ``[d]`` each; span 1 where all are equal."""
        low, high = np.full(self.values.shape[1], np.inf), np.full(self.values.shape[1], -np.inf)
        for rows, sample, _ in self.blocks():
            values = np.asarray(self.values[rows], np.float64)[self.arrays["split"][sample] == 0]
            low = np.fmin.reduce(np.vstack([low, values]))
            high = np.fmax.reduce(np.vstack([high, values]))
        return np.where(high < low, 0.0, low), np.where(high > low, high - low, 1.0)

    def regressors(self, first: int, stop: int) -> np.ndarray:
        """Return the regressors of ``linear`` for the rows of samples ``first`` to ``stop``, exclusive."""
        if self.inputs is None:
            return np.empty((0, 0))
        offsets = self.arrays["atom_offsets"][first : stop + 1]
        atoms = slice(int(offsets[0]), int(offsets[-1]))
        element = np.searchsorted(self.elements, self.arrays["atomic_numbers"][atoms])
        return regressors_of(self.level, self.inputs[atoms], np.diff(offsets), element, len(self.elements))

    def references(self, reference: FittedReference) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows of the target, sample of each row, reference of each row ``[rows, d]`` float64)."""
        for rows, sample, element in self.blocks():
            first, stop = int(sample[0]), int(sample[-1]) + 1
            regressors = self.regressors(first, stop)
            yield rows, sample, evaluate(reference, self.counts[first:stop], sample - first, element, regressors)

    def slopes(self, group: np.ndarray, fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the least-squares fit within groups of samples, over the training set (`GroupedRegression.fit`).

        ``group`` ``[S]`` is each sample's group; ``fractions`` ``[groups, K]`` are the groups' compositions.
        """
        assert self.inputs is not None
        nodes = self.level == "node"
        kinds, columns = (len(self.elements), 1) if nodes else (1, len(self.elements))
        width = columns * self.inputs.shape[1]
        shrinkage = None if self.shrinkage is None else np.tile(self.shrinkage, (1, columns))
        # The last fraction follows from the others.
        of_each = [
            regression.GroupedRegression(len(fractions), kinds, width, fractions[:, :-1], shrinkage)
            for _ in range(self.values.shape[1])
        ]
        for rows, sample, element in self.blocks():
            train = self.arrays["split"][sample] == 0
            regressors = self.regressors(int(sample[0]), int(sample[-1]) + 1)
            for sums, values in zip(of_each, self.values[rows].T, strict=True):
                sums.add(group[sample][train], element[train], regressors[train], values[train])
        fits = [sums.fit() for sums in of_each]
        return np.stack([at_zero for at_zero, _ in fits], axis=-1), np.stack([slopes for _, slopes in fits], axis=-1)

    def deviation(self, reference: FittedReference) -> np.ndarray:
        """Return the residual's standard deviation over the training set, ``[d]``; 1 where there is none."""
        squares, number = np.zeros(self.values.shape[1]), np.zeros(self.values.shape[1])
        for rows, sample, baseline in self.references(reference):
            train = self.arrays["split"][sample] == 0
            residual = (self.values[rows] - baseline)[train]
            squares += np.nansum(residual**2, axis=0)
            number += np.isfinite(residual).sum(axis=0)
        deviation: np.ndarray = np.sqrt(squares / np.maximum(number, 1))
        deviation[deviation == 0] = 1.0
        return deviation


def write(
    arrays: Mapping[str, np.ndarray],
    task: ReferencedTask,
    values: np.ndarray,
    inputs: np.ndarray,
    paths: tuple[Path, Path],
    shrinkage: np.ndarray | None = None,
) -> FittedReference:
    """Fit a task's reference; write the reference and the residual of every row (``.npy``, float32).

    Parameters
    ----------
    arrays : mapping
        The data set's arrays.
    task : ReferencedTask
    values : numpy.ndarray
        ``[A, d]`` or ``[S, d]`` float32, its scaled target; NaN where missing.
    inputs : numpy.ndarray
        ``[A, F]``, node inputs.
    paths : tuple of Path
        Files for the reference and the residual.
    shrinkage : numpy.ndarray, optional
        ``[C, F]``, candidates for how strongly each input's slopes are shrunk (`regression.GroupedRegression`).

    Raises
    ------
    UserError
        If there are fewer than two samples per composition to fit to: the mean would be the sample itself.
    OSError
        If the storage is full.
    """
    target = _Target(arrays, values, task.level, inputs if task.reference == "linear" else None, shrinkage)
    fitted = _fit(target, task)
    scale = np.array(fitted.scale) if fitted.kind == "range" else target.deviation(fitted)
    reference, residual = (new_array(path, values.shape) for path in paths)
    for rows, _, baseline in target.references(fitted):
        reference[rows] = baseline
        # From the rounded reference, so that reference + residual * scale gives the target exactly.
        residual[rows] = (values[rows] - reference[rows].astype(np.float64)) / scale
    return fitted.model_copy(update={"scale": scale.tolist()})


def _fit(target: _Target, task: ReferencedTask) -> FittedReference:
    kind, level = task.reference, task.level
    reference = partial(
        FittedReference, kind=kind, level=level, elements=target.elements.tolist(), scale=[1.0] * target.values.shape[1]
    )
    if kind in ("composition", "linear"):
        fractions = np.round(compositions.fractions_of(target.counts), _DIGITS)
        train = target.arrays["split"] == 0
        known, group = np.unique(fractions[train], axis=0, return_inverse=True)
        if 2 * len(known) > np.count_nonzero(train):
            raise UserError(
                f"tasks.{task.name}.reference={kind}: {np.count_nonzero(train)} samples to fit it to, of"
                f" {len(known)} compositions, are too few of each for a mean; set it to species or none"
            )
        of_sample = np.zeros(len(fractions), np.int64)
        of_sample[train] = group.reshape(-1)
        if kind == "linear":
            at_zero, slopes = target.slopes(of_sample, known)
            return reference(compositions=known.tolist(), values=at_zero.tolist(), slopes=slopes.tolist())
        means = target.training_means(of_sample, len(known))
        return reference(compositions=known.tolist(), values=means.tolist())
    if kind == "range":
        low, span = target.training_range()
        return reference(compositions=[], values=[low.tolist()], scale=span.tolist())
    if level == "node":
        means = target.training_means(np.zeros(len(target.counts), np.int64), 1)[0]
        for d in range(means.shape[1]):
            known = np.isfinite(means[:, d])
            if known.any():  # an element that the training set lacks is interpolated between its neighbours
                means[:, d] = np.interp(target.elements, target.elements[known], means[known, d])
        return reference(compositions=[], values=np.nan_to_num(means).tolist())
    return reference(compositions=[], values=_linear(target).tolist())


def _linear(target: _Target) -> np.ndarray:
    """Return the least-squares constant and contribution of an atom of each element, ``[1 + K, d]``."""
    train = target.arrays["split"] == 0
    terms = np.concatenate([np.ones((np.count_nonzero(train), 1)), target.counts[train]], axis=1)
    values = np.asarray(target.values[train], np.float64)
    columns = []
    for d in range(values.shape[1]):
        known = np.isfinite(values[:, d])
        columns.append(np.linalg.lstsq(terms[known], values[known, d], rcond=None)[0])
    return np.stack(columns, axis=1)
