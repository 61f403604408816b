"""Baselines: predictions without a network and their errors, which show whether a campaign has learned anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from hydragnn_hpc import compositions
from hydragnn_hpc.records.dataset import Manifest, NumberRange, Target
from hydragnn_hpc.records.summary import BaselineErrors, DatasetSummary, PartSummary, TargetSummary

_Form = Literal["per cell", "per atom", "species"]
_SEEN = 100_000  # about as many values of the training set determine quantiles
_CENTRAL = (0.05, 0.95)  # quantiles that bound the central range
_LARGEST = 1e100  # records hold no larger numbers


def summarise(arrays: Mapping[str, np.ndarray], manifest: Manifest) -> DatasetSummary:
    """Return properties of a data set, and the errors of the baselines of all its targets.

    Parameters
    ----------
    arrays : mapping
        The data set's arrays, which may be memory maps.
    manifest : Manifest
    """
    n_atoms = np.diff(arrays["atom_offsets"])  # never empty: a data set has at least one sample
    species = _Species(arrays)
    return DatasetSummary(
        dataset_sha256=manifest.sha256,
        samples=len(n_atoms),
        geometries=manifest.sizes["G"],
        distances_differ=None if manifest.remarks is None else any(r.name == "distances" for r in manifest.remarks),
        atoms=NumberRange(minimum=int(n_atoms.min()), maximum=int(n_atoms.max())),
        elements=species.elements.tolist(),
        targets={name: _summary(species, arrays[f"target_{name}"], t) for name, t in manifest.targets.items()},
    )


class _Species:
    """The atoms of all samples, and the split."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._numbers, self._offsets, self.split = arrays["atomic_numbers"], arrays["atom_offsets"], arrays["split"]
        self.elements, self.counts = compositions.species_counts(self._numbers, self._offsets)

    def blocks(self, level: str) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows of a target, each row's part of the split, its element's index or 0 at graph level)."""
        for first, stop in compositions.blocks(self._offsets):
            parts = self.split[first:stop]
            if level == "graph":
                yield slice(first, stop), parts, np.zeros(stop - first, np.int64)
                continue
            bounds = self._offsets[first : stop + 1]
            atoms = slice(int(bounds[0]), int(bounds[-1]))
            yield atoms, np.repeat(parts, np.diff(bounds)), np.searchsorted(self.elements, self._numbers[atoms])


def _summary(species: _Species, values: np.ndarray, target: Target) -> TargetSummary:
    kinds = len(species.elements) if target.level == "node" else 1
    number, total, seen = _totals(species, values, target.level, kinds)
    mean = total[0].sum(axis=0) / np.maximum(number[0].sum(axis=0), 1)
    span = np.array(target.maximum) - np.array(target.minimum)
    form: _Form = "species"
    if target.level == "node":
        fitted = np.where(number[0] > 0, total[0] / np.maximum(number[0], 1), mean)
    else:
        form, fitted = _fit(species, values, mean)
    centres = total.sum(axis=1) / np.maximum(number.sum(axis=1), 1)
    sums = np.zeros((3, 3, 4))  # part; baseline, or the part's own mean; squares and magnitudes, scaled and in the unit
    for rows, parts, kind in species.blocks(target.level):
        predicted = fitted[kind] if target.level == "node" else fitted[rows]
        truth = np.asarray(values[rows], np.float64)
        for part in (1, 2):
            here = parts == part
            for k, guess in enumerate((mean, predicted[here], centres[part])):
                error = truth[here] - guess
                scaled = error / np.where(span == 0, 1.0, span)
                sums[part, k] += [np.nansum(scaled**2), np.nansum(np.abs(scaled)), np.nansum(error**2),
                                  np.nansum(np.abs(error))]  # fmt: skip
    known = number.sum(axis=(1, 2)).astype(int).tolist()
    return TargetSummary(
        level=target.level,
        unit=target.unit,
        minimum=target.minimum,
        maximum=target.maximum,
        central_range=_central_range(seen, span),
        form=form,
        validation=_part(known[1], sums[1]),
        test=_part(known[2], sums[2]),
    )


def _totals(species: _Species, values: np.ndarray, level: str, kinds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number and sum of the known values by part, element and component, and some of the training values."""
    width = values.shape[1]
    number, total = np.zeros((3, kinds, width)), np.zeros((3, kinds, width))
    step, seen = max(1, len(values) // _SEEN), []
    for rows, parts, kind in species.blocks(level):
        block = np.asarray(values[rows], np.float64)
        place = parts.astype(np.int64) * kinds + kind
        for d in range(width):
            known = np.isfinite(block[:, d])
            number[..., d] += np.bincount(place[known], minlength=3 * kinds).reshape(3, kinds)
            total[..., d] += np.bincount(place[known], block[known, d], minlength=3 * kinds).reshape(3, kinds)
        seen.append(block[parts == 0][::step])
    return number, total, np.concatenate(seen) if seen else np.zeros((0, width))


def _fit(species: _Species, values: np.ndarray, mean: np.ndarray) -> tuple[_Form, np.ndarray]:
    """Fit a graph-level target ``[S, d]`` to compositions, once as extensive and once as intensive.

    Return the form that is closer to the training set, and its values ``[S, d]``.
    """
    counts, train = species.counts.astype(np.float64), species.split == 0
    terms: dict[_Form, np.ndarray] = {
        "per cell": np.concatenate([np.ones((len(counts), 1)), counts], axis=1),
        "per atom": compositions.fractions_of(species.counts),
    }
    best: tuple[float, _Form, np.ndarray] = (np.inf, "per cell", np.broadcast_to(mean, values.shape))
    for form, columns in terms.items():
        fitted = np.empty(values.shape)
        for d in range(values.shape[1]):
            known = train & np.isfinite(values[:, d])
            slopes = np.linalg.lstsq(columns[known], values[known, d] - mean[d], rcond=None)[0]
            fitted[:, d] = columns @ slopes + mean[d]
        squares = float(np.nansum((values[train] - fitted[train]) ** 2))
        # In cells of one size both are the same, and rounding must not choose.
        if squares < best[0] * (1 - 1e-9):
            best = (squares, form, fitted)
    return best[1:]


def _central_range(seen: np.ndarray, span: np.ndarray) -> float:
    """Return the central range of the values ``seen`` as a share of the full range: the least over components."""
    shares = [1.0]
    for d in np.flatnonzero(span > 0):
        known = seen[np.isfinite(seen[:, d]), d]
        if len(known):
            shares.append(float(np.ptp(np.quantile(known, _CENTRAL)) / span[d]))
    return min(shares)


def _part(n: int, sums: np.ndarray) -> PartSummary:
    roots = np.sqrt(sums / max(n, 1))
    means = sums / max(n, 1)

    def errors(k: int) -> BaselineErrors:
        r2 = 1 - sums[k, 2] / sums[2, 2] if n and sums[2, 2] > 0 else None
        return BaselineErrors(
            rmse=_number(n, roots[k, 0]), mae=_number(n, means[k, 1]), rmse_unit=_number(n, roots[k, 2]),
            mae_unit=_number(n, means[k, 3]), r2=None if r2 is None or not np.isfinite(r2) else float(r2),
        )  # fmt: skip

    return PartSummary(
        n=n, std=_number(n, roots[2, 0]), std_unit=_number(n, roots[2, 2]), mean=errors(0), composition=errors(1)
    )


def _number(n: int, value: float) -> float | None:
    """Return an error over ``n`` values; None if there are none, or it is too large for a record."""
    return float(value) if n and value < _LARGEST else None
