"""Neighbour lists of geometries: which sites interact, and over which vector."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import BOHR_IN_ANGSTROM


@dataclass(frozen=True)
class Geometry:
    """Sites without species.

    Attributes
    ----------
    pos : numpy.ndarray
        ``[n, 3]`` float64, bohr.
    cell : numpy.ndarray
        ``[3, 3]`` float64, bohr, rows are vectors; zeros where there is none.
    periodic : tuple of bool
        Along each lattice vector.
    """

    pos: np.ndarray
    cell: np.ndarray
    periodic: tuple[bool, bool, bool]

    def key(self) -> bytes:
        """Return what is equal for equal geometries only."""
        return self.pos.tobytes() + self.cell.tobytes() + bytes(self.periodic)


@dataclass(frozen=True)
class Neighbours:
    """The neighbour list of one geometry, sorted by site, then neighbour, then vector.

    Attributes
    ----------
    offsets : numpy.ndarray
        ``[n + 1]`` int64: where each site's neighbours start.
    neighbours : numpy.ndarray
        ``[m]`` int32.
    vectors : numpy.ndarray
        ``[m, 3]`` float64, bohr, from the site to the neighbour's image.
    """

    offsets: np.ndarray
    neighbours: np.ndarray
    vectors: np.ndarray


def parse_length(text: str) -> float:
    """Read a length with its unit, ``7bohr`` or ``3.7angstrom``; returns bohr.

    Raises
    ------
    UserError
        If the unit is missing or unknown, or the number is not positive.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([A-Za-zÅ]*)\s*", text)
    units = {"bohr": 1.0, "angstrom": 1 / BOHR_IN_ANGSTROM, "å": 1 / BOHR_IN_ANGSTROM}
    unit = match[2].lower() if match else ""
    if match is None or unit not in units:
        raise UserError(f"length '{text}': expected a number with its unit, as 7bohr or 3.7angstrom")
    try:
        value = float(match[1]) * units[unit]
    except ValueError as error:
        raise UserError(f"length '{text}': '{match[1]}' is not a number") from error
    if not 0 < value < float("inf"):
        raise UserError(f"length '{text}': must be positive")
    return value


def find_neighbours(geometry: Geometry, cutoff: float) -> Neighbours:
    """Find all pairs closer than ``cutoff`` (bohr). Under a periodic boundary every image is an edge of its own.

    The relation is symmetric: with i -> j over v there is j -> i over -v.

    Raises
    ------
    UserError
        If a periodic geometry's cell has no volume.
    """
    from vesin import NeighborList

    n = len(geometry.pos)
    if any(geometry.periodic):
        volume = abs(float(np.linalg.det(geometry.cell)))
        lengths = np.linalg.norm(geometry.cell, axis=1)
        if not np.isfinite(volume) or volume <= 1e-6 * float(np.prod(lengths)) or not lengths.all():
            raise UserError(
                f"a periodic boundary needs a cell with a volume, found {geometry.cell.tolist()} bohr; give --cell or"
                " use --boundary open"
            )
    calculator = NeighborList(cutoff=cutoff, full_list=True)
    box = geometry.cell if any(geometry.periodic) else np.zeros((3, 3))
    i, j, vectors = calculator.compute(geometry.pos, box, list(geometry.periodic), quantities="ijD")
    i, j, vectors = np.asarray(i, np.int64), np.asarray(j, np.int64), np.asarray(vectors, np.float64).reshape(-1, 3)
    # Vectors of symmetric images differ in their last bits: order by rounded ones, so that it is the same everywhere.
    rounded = np.round(vectors, 6)
    order = np.lexsort((rounded[:, 2], rounded[:, 1], rounded[:, 0], j, i))
    i, j, vectors = i[order], j[order], vectors[order]
    _check_symmetric(i, j, n)
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(i, minlength=n), out=offsets[1:])
    return Neighbours(offsets, j.astype(np.int32), np.ascontiguousarray(vectors))


def _check_symmetric(i: np.ndarray, j: np.ndarray, n: int) -> None:
    forward, backward = np.sort(i * n + j), np.sort(j * n + i)
    if not np.array_equal(forward, backward):
        k = int(np.argmax(forward != backward))
        pair = divmod(int(forward[k]), n)
        raise UserError(
            f"the neighbour list is not symmetric at sites {pair}: their distance equals the cutoff to the last bit;"
            " change --cutoff a little"
        )
