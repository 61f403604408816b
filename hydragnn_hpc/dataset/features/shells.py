"""Shells of neighbours around a site: derived from the distances in the geometries themselves, or smooth radial bins.

Where all geometries share their first shells (a lattice), a shell is a distance. Where they do not (displaced atoms,
molecules), shells would be noise, and smooth bins replace them: Gaussians of the distance that fade out at the end of
the range, like the radial symmetry functions of Behler & Parrinello, Phys. Rev. Lett. 98, 146401 (2007).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.graphs import Geometry, find_neighbours
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.recipe import Shells

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_TOLERANCE = 0.02  # bohr; distances closer than this are one shell
_WIDEST = 2.0  # bohr; distances that follow one another so closely over a wider range are no shell
_GROWTH = 1.25  # of the search radius
_RANGE = 2.0  # of radial bins, in cutoffs of the data set's neighbours


def operator(shells: Shells, geometry: Geometry) -> csr_matrix:
    """Return ``[shells * n, n]``: row s * n + i counts (radial: weights) each site j in shell s around site i.

    Raises
    ------
    UserError
        As in `find_neighbours`.
    """
    from scipy.sparse import csr_matrix

    n, number = len(geometry.pos), len(shells.radii)
    # At the end of the bins' range weights are zero.
    neighbours = find_neighbours(geometry, shells.bounds[-1], sharp=shells.kind == "shells")
    i = np.repeat(np.arange(n), np.diff(neighbours.offsets))
    j, r = neighbours.neighbours.astype(np.int64), np.linalg.norm(neighbours.vectors, axis=1)
    if shells.kind == "shells":
        shell = np.searchsorted(shells.bounds, r, side="right") - 1
        return csr_matrix((np.ones(len(i)), (shell * n + i, j)), shape=(number * n, n))
    width, end = shells.bounds
    weights = np.exp(-(((r[:, None] - np.array(shells.radii)) / width) ** 2) / 2)
    weights *= (1 + np.cos(np.pi * np.minimum(r[:, None] / end, 1))) / 2
    rows = np.arange(number) * n + i[:, None]
    columns = np.broadcast_to(j[:, None], rows.shape)
    return csr_matrix((weights.ravel(), (rows.ravel(), columns.ravel())), shape=(number * n, n))


def find(geometries: Iterable[Geometry], number: int, cutoff: float, shortest: float) -> Shells:
    """Return the first ``number`` shells (or as many as there are) if all geometries share them, else radial bins.

    Parameters
    ----------
    geometries : iterable of Geometry
    number : int
    cutoff, shortest : float
        Cutoff and shortest distance of the data set's neighbour lists, bohr. Radial bins reach from the shortest
        distance to twice the cutoff.

    Raises
    ------
    UserError
        If so many shells reach too far.
    """
    shared: Shells | None = None
    for geometry in geometries:
        own = _shells_of(geometry, number, cutoff)
        if own is None or (shared is not None and not _alike(own, shared)):
            return _radial(number, cutoff, shortest)
        shared = shared or own
    return shared or _radial(number, cutoff, shortest)


def _radial(number: int, cutoff: float, shortest: float) -> Shells:
    end = _RANGE * cutoff
    step = (end - shortest) / number
    radii = (shortest + step * np.arange(number)).tolist()
    return Shells(kind="radial", radii=radii, bounds=[step / 2, end])


def _alike(a: Shells, b: Shells) -> bool:
    return len(a.radii) == len(b.radii) and bool(np.allclose(a.radii, b.radii, rtol=0, atol=_TOLERANCE / 2))


def _shells_of(geometry: Geometry, number: int, cutoff: float) -> Shells | None:
    """Return the shells of one geometry; None if one of them is around fewer than half of the sites, or has no end."""
    n, spread = len(geometry.pos), float(np.linalg.norm(np.ptp(geometry.pos, axis=0)))
    if n == 1 and not any(geometry.periodic):
        return None
    radius = cutoff
    while True:
        try:
            neighbours = find_neighbours(geometry, radius, sharp=False)
        except UserError as error:  # not at the data set's own cutoff
            raise UserError(
                f"inputs: {counted(number, 'shell')} would reach beyond {radius:.4g} bohr, where neighbours are too"
                " many to list; set fewer shells"
            ) from error
        r = np.linalg.norm(neighbours.vectors, axis=1)
        order = np.argsort(r)
        distances, site = r[order], np.repeat(np.arange(n), np.diff(neighbours.offsets))[order]
        starts = np.flatnonzero(np.diff(distances, prepend=-np.inf) > _TOLERANCE)
        ends = np.append(starts[1:], len(r))[: len(starts)]
        is_all = not any(geometry.periodic) and radius > spread
        # The last shell may extend beyond the radius, unless these are all distances.
        complete = min(number, len(starts) if is_all else len(starts) - 1)
        for start, end in zip(starts[:complete], ends[:complete], strict=True):
            if 2 * len(np.unique(site[start:end])) < n:
                return None
        if is_all or complete == number:
            break
        if len(r) and distances[-1] - distances[starts[-1]] > _WIDEST:
            return None
        radius *= _GROWTH
    starts, ends = starts[:number], ends[:number]
    inner = (distances[ends[:-1] - 1] + distances[starts[1:]]) / 2
    beyond = distances[ends[-1]] if ends[-1] < len(r) else distances[-1] + 2 * _TOLERANCE
    last = (distances[ends[-1] - 1] + beyond) / 2
    radii = [float(distances[s:e].mean()) for s, e in zip(starts, ends, strict=True)]
    return Shells(kind="shells", radii=radii, bounds=[0.0, *inner.tolist(), float(last)])
