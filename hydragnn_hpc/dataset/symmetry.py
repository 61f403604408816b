"""Which decorations of one lattice are the same crystal: classes under the permutations of its sites by isometries.

A crystal that is rotated or shifted onto itself is the same crystal with its sites renumbered. The isometries are
derived from the geometry: linear parts from the metric of the periodic lattice and from the arrangement of the sites
across it, shifts from where the first site may go; those that map sites onto sites form the group. It is the group of
the supercell, not of the primitive cell: an isometry must preserve the periodic images too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
from ase.geometry.minkowski_reduction import minkowski_reduce
from scipy.spatial import cKDTree

from hydragnn_hpc.dataset.graphs import Geometry, check_cell, geometry_of
from hydragnn_hpc.errors import UserError

_SAME_PLACE = 1e-3  # bohr; nuclei are more than one bohr apart
_NO_BOND = 0.5  # bohr; closer than any two atoms: a cell that puts two there is wrong
_ORTHOGONAL = 1e-5
_BLOCK = 4096  # samples hashed at once
_SMALL, _FEW = 48, 2_000_000  # most atoms of a geometry, and of all samples, for which classes take only seconds
_SHARED = 300  # most shared geometries, likewise


def site_permutations(geometry: Geometry) -> np.ndarray:
    """Return the permutations of sites by all isometries that map the sites, and their images, onto themselves.

    Parameters
    ----------
    geometry : Geometry
        Periodic along any number of its lattice vectors, or a cluster.

    Returns
    -------
    numpy.ndarray
        ``[n_operations, n]`` int64: operation k takes site i to site ``[k, i]``. A group, without duplicates.
    """
    pos, periodic = geometry.pos, np.array(geometry.periodic)
    if len(pos) == 1:
        return np.zeros((1, 1), np.int64)
    along = _reduced(geometry.cell, periodic)
    across, spread = _across(pos, along)
    # Coordinates: along the lattice in units of its vectors, wrapped; across it in bohr.
    basis = np.concatenate([along, across])
    frame = np.linalg.pinv(basis)  # [3, p + r]
    sites = _SiteLookup(pos @ frame, along)
    permutations = {tuple(range(len(pos)))}
    for of_lattice, of_cluster in product(_lattice_rotations(along), _cluster_rotations(spread)):
        rotated = _rotated(pos @ frame, of_lattice, of_cluster)
        permutations.update(sites.permutations(rotated))
    return np.array(sorted(permutations), dtype=np.int64)


def _reduced(cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """Return the periodic lattice vectors, ``[p, 3]``, reduced to the shortest ones."""
    if not periodic.any():
        return np.zeros((0, 3))
    completed = cell.copy()
    completed[~periodic] = 0
    reduce: Any = minkowski_reduce
    reduced, _ = reduce(completed, pbc=periodic)
    vectors: np.ndarray = np.asarray(reduced)[periodic]
    return vectors


def _across(pos: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal directions across the lattice along which sites differ, and centred coordinates along them.

    ``[r, 3]`` and ``[n, r]``; r is 0 for a crystal, 3 for a cluster that is not flat.
    """
    centred = pos - pos.mean(axis=0)
    if len(along):
        normal = np.linalg.svd(along)[2][len(along) :]
        centred = centred @ normal.T @ normal
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[sizes > _SAME_PLACE]
    return directions, centred @ directions.T


def _lattice_rotations(along: np.ndarray) -> list[np.ndarray]:
    """Return the integer matrices ``[p, p]`` that preserve the lattice's metric."""
    p = len(along)
    if not p:
        return [np.zeros((0, 0))]
    # In a reduced basis, the coefficients of an image are at most 1 in size, up to rounding at the border.
    steps = np.array(list(product(range(-2, 3), repeat=p)))
    vectors = steps @ along
    scale = float((along**2).sum(axis=1).max())
    return [steps[list(picked)].astype(float) for picked in _congruent(along, vectors, scale)]


def _cluster_rotations(spread: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the orthogonal matrices ``[r, r]`` that may map the centred sites ``[n, r]`` onto themselves."""
    r = spread.shape[1]
    if not r:
        yield np.zeros((0, 0))
        return
    reference = _independent(spread)
    scale = float((spread**2).sum(axis=1).max())
    for picked in _congruent(reference, spread, scale):
        matrix = np.linalg.solve(reference, spread[list(picked)])
        if np.abs(matrix @ matrix.T - np.eye(r)).max() < _ORTHOGONAL:
            yield matrix


def _independent(spread: np.ndarray) -> np.ndarray:
    """Return r linearly independent sites of ``[n, r]``: the outermost whose directions are well separated."""
    order = np.argsort(-(spread**2).sum(axis=1), kind="stable")
    chosen: list[np.ndarray] = []
    for threshold in (0.3, 1e-3):
        for k in order.tolist():
            trial = np.array([*chosen, spread[k]])
            unit = trial / np.linalg.norm(trial, axis=1, keepdims=True).clip(1e-300)
            if len(trial) <= spread.shape[1] and np.linalg.svd(unit)[1][-1] > threshold:
                chosen.append(spread[k])
    return np.array(chosen)


def _congruent(reference: np.ndarray, vectors: np.ndarray, scale: float) -> list[tuple[int, ...]]:
    """Return the tuples of ``vectors``, as indices, that have the lengths and mutual angles of ``reference``.

    ``scale`` is the largest squared length, in bohr²; the tolerance is proportional to its root.
    """
    metric = reference @ reference.T
    tolerance = 4 * _SAME_PLACE * np.sqrt(scale)
    lengths = (vectors**2).sum(axis=1)
    partial: list[tuple[int, ...]] = [()]
    for k in range(len(reference)):
        candidates = np.flatnonzero(np.abs(lengths - metric[k, k]) < tolerance)
        extended = []
        for picked in partial:
            fits = np.abs(vectors[candidates] @ vectors[list(picked)].T - metric[k, :k]) < tolerance
            extended += [(*picked, c) for c in candidates[fits.all(axis=1)].tolist()]
        partial = extended
    return partial


def _rotated(coordinates: np.ndarray, of_lattice: np.ndarray, of_cluster: np.ndarray) -> np.ndarray:
    p = len(of_lattice)
    along, across = coordinates[:, :p], coordinates[:, p:]
    centre = across.mean(axis=0)
    return np.concatenate([along @ of_lattice, (across - centre) @ of_cluster + centre], axis=1)


class _SiteLookup:
    """Finds sites by coordinates, which are wrapped along lattice vectors."""

    def __init__(self, coordinates: np.ndarray, along: np.ndarray) -> None:
        self._p = len(along)
        self._scale = np.ones(coordinates.shape[1])
        self._scale[: self._p] = np.linalg.norm(along, axis=1)
        self._sites = coordinates
        # Scaled to bohr, so that one tolerance serves all; exact distances do not matter, only identity.
        periods = np.where(np.arange(len(self._scale)) < self._p, self._scale, 0.0)
        self._tree = cKDTree(self._wrapped(coordinates), boxsize=periods)

    def _wrapped(self, coordinates: np.ndarray) -> np.ndarray:
        coordinates = coordinates.copy()
        along = coordinates[..., : self._p]
        along -= np.floor(along)
        along[along >= 1] = 0  # -1e-20 minus its floor rounds to 1
        wrapped = coordinates * self._scale
        # Rounding must not put a coordinate on the edge of the box, which the tree refuses.
        inside = np.nextafter(self._scale[: self._p], 0)
        wrapped[..., : self._p] = np.minimum(wrapped[..., : self._p], inside)
        return wrapped

    def find(self, coordinates: np.ndarray) -> np.ndarray:
        """Return the site at each of ``coordinates``; -1 where there is none."""
        distance, site = self._tree.query(self._wrapped(coordinates))
        return np.where(distance < _SAME_PLACE, site, -1)

    def permutations(self, rotated: np.ndarray) -> Iterator[tuple[int, ...]]:
        """Yield where the rotated sites go, for every shift along the lattice that maps them onto sites."""
        shifts = np.zeros((1, rotated.shape[1]))
        if self._p:
            shifts = self._sites - rotated[0]
            # There is no shift across the lattice: the centre stays.
            shifts = shifts[(np.abs(shifts[:, self._p :]) < _SAME_PLACE).all(axis=1)]
            shifts[:, self._p :] = 0
        for site in rotated[1:4]:  # few shifts fit three sites, and only those are tested on all
            shifts = shifts[self.find(site + shifts) >= 0]
        for shift in shifts:
            goes_to = self.find(rotated + shift)
            if goes_to.min() >= 0 and len(np.unique(goes_to)) == len(goes_to):
                yield tuple(goes_to.tolist())


def with_period(geometry: Geometry, cell: Sequence[float] | None) -> Geometry:
    """Return the geometry with the given period: a crystal, though its graph may have an open boundary.

    Raises
    ------
    UserError
        If the cell (nine numbers, bohr, rows are vectors) has no volume or makes atoms coincide.
    """
    if cell is None:
        return geometry
    crystal = Geometry(geometry.pos, np.array(cell, np.float64).reshape(3, 3), (True, True, True))
    check_cell(crystal)
    fractional = crystal.pos @ np.linalg.inv(crystal.cell)
    differences = fractional[:, None] - fractional[None]
    lengths = np.linalg.norm((differences - np.round(differences)) @ crystal.cell, axis=2)
    nearest = float(lengths[~np.eye(len(lengths), dtype=bool)].min(initial=np.inf))
    if nearest < _NO_BOND:
        raise UserError(f"two sites are {nearest:.3g} bohr apart in the cell of --cell; check it and its unit")
    return crystal


def is_quick(geometries: list[Geometry], geometry: np.ndarray) -> bool:
    """Whether samples share geometries, and :func:`classes` takes seconds at most."""
    largest = max(len(g.pos) for g in geometries)
    shared = np.count_nonzero(np.bincount(geometry) > 1)
    return bool(0 < shared <= _SHARED) and largest <= _SMALL and len(geometry) * largest <= _FEW


def classes(
    geometries: list[Geometry], geometry: np.ndarray, atomic_numbers: np.ndarray, atom_offsets: np.ndarray
) -> np.ndarray:
    """Return every sample's class, ``[S]`` int64: equal where an isometry of the geometry maps samples onto each other.

    Parameters
    ----------
    geometries : list of Geometry
        With the crystal's boundary, whatever the graph's is.
    geometry, atomic_numbers, atom_offsets : numpy.ndarray
        ``[S]``, ``[A]`` and ``[S + 1]``, as in the data set. Samples on different geometries are in different classes.
    """
    hashes = np.zeros(len(geometry), np.uint64)
    order = np.argsort(geometry, kind="stable")
    bounds = np.searchsorted(geometry[order], np.arange(len(geometries) + 1))
    for number, (first, last) in enumerate(pairwise(bounds.tolist())):
        if last - first < 2:
            continue
        members, n = order[first:last], len(geometries[number].pos)
        z = atomic_numbers[atom_offsets[members][:, None] + np.arange(n)]
        hashes[members] = _canonical_hashes(z, site_permutations(geometries[number]))
    _, which = np.unique(np.stack([geometry.astype(np.uint64), hashes]), axis=1, return_inverse=True)
    return which.ravel().astype(np.int64)


def classes_of(arrays: Mapping[str, np.ndarray], cell: Sequence[float] | None) -> np.ndarray:
    """Return every sample's symmetry class, ``[S]`` int64, from a data set's arrays and the crystal's period.

    Raises
    ------
    UserError
        If the given cell has no volume or makes atoms coincide.
    """
    geometries = [with_period(geometry_of(arrays, g), cell) for g in range(len(arrays["cell"]))]
    return classes(geometries, arrays["sample_geometry"], arrays["atomic_numbers"], arrays["atom_offsets"])


def _canonical_hashes(z: np.ndarray, permutations: np.ndarray) -> np.ndarray:
    """Return a hash of each row of ``z`` [S, n] that is the same for all its permutations: the smallest of theirs.

    Should two classes ever share one (64 bits), they would be kept in one part needlessly, which does no harm.
    """
    species = np.unique(z)
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 2**64, (len(species), z.shape[1]), dtype=np.uint64)
    best = np.zeros(len(z), np.uint64)
    for first in range(0, len(z), _BLOCK):
        block = z[first : first + _BLOCK]
        hashes = np.zeros((len(block), len(permutations)), np.uint64)
        for s, weight in zip(species.tolist(), weights, strict=True):
            # The atom of site i moves to site p[i], and takes that site's weight.
            hashes += (block == s).astype(np.uint64) @ weight[permutations].T
        best[first : first + _BLOCK] = hashes.min(axis=1)
    return best


def leaked(sample_classes: np.ndarray, part: np.ndarray) -> int:
    """Return how many test samples have an equivalent in the training set.

    ``sample_classes`` ``[S]`` are those of :func:`classes`, ``part`` ``[S]`` indices into `fields.PARTS`.
    """
    return int(np.isin(sample_classes[part == 2], sample_classes[part == 0]).sum())
