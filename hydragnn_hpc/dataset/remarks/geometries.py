"""Remarks on geometries and the distances between atoms."""

from __future__ import annotations

import numpy as np

from hydragnn_hpc.dataset.remarks.view import DataView, Lines, evenly

_EXAMINED = 100  # geometries
_STEP = 2e-3  # bohr; lengths closer than this count as one
_MORE = 1.5  # all geometries together have at least this many times the lengths of any of them


def close_atoms(data: DataView) -> Lines:
    """Atoms that are closer than nuclei can be."""
    yield from _line(data, "close-atoms")


def no_neighbours(data: DataView) -> Lines:
    """Atoms without neighbours."""
    yield from _line(data, "no-neighbours")


def _line(data: DataView, name: str) -> Lines:
    if line := data.distance_lines.get(name):
        yield line, None


def distances(data: DataView) -> Lines:
    """Geometries that differ in the lengths of their edges, and not only in size or species."""
    n = len(data.arrays["cell"])
    lengths = [np.linalg.norm(data.graph_of(g).vectors, axis=1) for g in evenly(n, _EXAMINED).tolist()]
    lengths = [each for each in lengths if len(each)]
    if n < 2 or len(lengths) < 2 or not _differ(lengths):
        return
    nearest = [float(each.min()) for each in lengths]
    line = (
        f"{n:,} geometries differ in the distances between atoms (the shortest is {min(nearest):.3g} to"
        f" {max(nearest):.3g} bohr), which a model can see only through edge lengths: set model.edges={{number: 20}}"
    )
    yield line, None


def _differ(lengths: list[np.ndarray]) -> bool:
    """Whether all geometries together have clearly more distinct lengths than any of them.

    Equal lengths may be rounded to different steps at the border of two; hence two grids, one shifted by half a step.
    """
    ratios = []
    for shift in (0.0, 0.5):
        steps = [np.unique(np.floor(each / _STEP + shift)) for each in lengths]
        ratios.append(len(np.unique(np.concatenate(steps))) / max(map(len, steps)))
    return min(ratios) > _MORE
