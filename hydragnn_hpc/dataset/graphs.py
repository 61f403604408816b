"""Neighbour lists of geometries: which sites interact, and along which vector."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.imports import without_torch
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import BOHR_IN_ANGSTROM

_MARGIN = 1e-9  # bohr: distances this close to the cutoff equal it up to rounding
_COINCIDE = 1e-3  # bohr: closer than any two nuclei
_MOST_EDGES = 20_000_000  # in one geometry: about 1 GB, far beyond any sensible cutoff
_MOST_IMAGES = 1e9  # of a cell within the cutoff: half a minute; a nearly flat cell has far more than neighbours
# vesin divides a cell into boxes of about a cutoff; from about 1e5 boxes along one vector on, their number overflows.
_LONGEST_CELL = 10_000  # cutoffs


@dataclass(frozen=True, slots=True)
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
        """Return bytes that are equal only for equal geometries."""
        return self.pos.tobytes() + self.cell.tobytes() + bytes(self.periodic)


def geometry_of(arrays: Mapping[str, np.ndarray], number: int) -> Geometry:
    """Return the geometry with this ``number`` of a data set's arrays (`fields`)."""
    sites = slice(*arrays["geometry_atom_offsets"][number : number + 2])
    periodic = tuple(bool(p) for p in arrays["periodic"][number])
    return Geometry(np.array(arrays["pos"][sites]), np.array(arrays["cell"][number]), periodic)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Neighbours:
    """The neighbour list of one geometry, sorted by site, then neighbour, then image.

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

    def key(self, *, vectors: bool) -> str:
        """Return a hash that is the same for the same lists; with ``vectors``, to 1e-6 bohr."""
        digest = hashlib.sha256(np.asarray(self.offsets, np.int64).tobytes())
        digest.update(np.asarray(self.neighbours, np.int32).tobytes())
        if vectors:
            digest.update(np.rint(self.vectors * 1e6).astype(np.int64).tobytes())
        return digest.hexdigest()

    def shortest(self) -> float:
        """Return the length of the shortest vector, bohr; infinite if there is none."""
        return math.sqrt(float((self.vectors**2).sum(axis=1).min(initial=math.inf)))


def parse_length(text: str, what: str = "length") -> float:
    """Read a length with its unit, ``7bohr`` or ``3.7angstrom``; return bohr. Errors name the option ``what``.

    Raises
    ------
    UserError
        If the unit is missing or unknown, or the number is not positive.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*([^\W\d_]*)\s*", text)
    units = {"bohr": 1.0, "angstrom": 1 / BOHR_IN_ANGSTROM, "å": 1 / BOHR_IN_ANGSTROM}
    unit = match[2].lower() if match else ""
    if match is None or unit not in units:
        raise UserError(f"{what} '{text}': expected a number with its unit, such as 7bohr or 3.7angstrom")
    try:
        value = float(match[1]) * units[unit]
    except ValueError as error:
        raise UserError(f"{what} '{text}': '{match[1]}' is not a number") from error
    if not 0 < value < float("inf"):
        raise UserError(f"{what} '{text}': must be positive and finite")
    return value


def find_neighbours(geometry: Geometry, cutoff: float, *, sharp: bool = True) -> Neighbours:
    """Find all pairs closer than ``cutoff`` (bohr).

    Under a periodic boundary every image is an edge of its own, including an atom's own images. The list is symmetric:
    for i -> j along v there is j -> i along exactly -v.

    Parameters
    ----------
    geometry : Geometry
    cutoff : float
    sharp : bool
        Refuse neighbours at the cutoff to within rounding; False where nothing depends on whether they are listed.

    Raises
    ------
    UserError
        If two atoms coincide, a periodic geometry's cell has no volume or is absurdly long, the list would be absurdly
        large, or neighbours lie at the cutoff to within rounding (``sharp``).
    """
    with without_torch():
        from vesin import NeighborList

    n = len(geometry.pos)
    check_cell(geometry)
    normals = _open_directions(geometry)
    pos = _without_gaps(geometry.pos, normals, cutoff)
    box = _box(geometry, normals, pos, cutoff)
    _check_edge_count(n, box, cutoff)
    pos, turns = _inside(pos, box, geometry.periodic)
    # One thread: most lists are short. The margin reveals what lies exactly at the cutoff.
    calculator = NeighborList(cutoff=cutoff + 2 * _MARGIN, full_list=True, n_threads=1)
    i, j, images = calculator.compute(pos, box, list(geometry.periodic), quantities="ijS")
    i, j = np.asarray(i, np.int64), np.asarray(j, np.int64)
    images = np.asarray(images, np.int64).reshape(-1, 3) + turns[i] - turns[j]
    order = np.lexsort((images[:, 2], images[:, 1], images[:, 0], j, i))
    i, j, images = i[order], j[order], images[order]
    # Computed here, in a fixed order of operations: the same bits everywhere, and exactly opposite in both directions.
    shift = images[:, :1] * geometry.cell[0] + images[:, 1:2] * geometry.cell[1] + images[:, 2:] * geometry.cell[2]
    vectors = (geometry.pos[j] - geometry.pos[i]) + shift
    lengths = np.sqrt((vectors**2).sum(axis=1))
    _check_lengths(i, j, lengths, cutoff, sharp)
    inside = lengths < cutoff
    i, j, images, vectors = i[inside], j[inside], images[inside], vectors[inside]
    _check_symmetric(i, j, images)
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(i, minlength=n), out=offsets[1:])
    return Neighbours(offsets, j.astype(np.int32), np.ascontiguousarray(vectors))


def check_cell(geometry: Geometry) -> None:
    """Check that the lattice vectors along which a boundary is periodic span a volume (an area, a length).

    Raises
    ------
    UserError
        If they are infinite, zero, collinear or coplanar.
    """
    if not any(geometry.periodic):
        return
    vectors = geometry.cell[list(geometry.periodic)]
    finite = bool(np.isfinite(vectors).all())
    edges = np.linalg.norm(vectors, axis=1)
    # The volume, area or length that the periodic vectors span.
    spanned = math.sqrt(max(float(np.linalg.det(vectors @ vectors.T)), 0.0)) if finite else 0.0
    if not finite or spanned <= 1e-6 * float(np.prod(edges)) or not edges.all():
        raise UserError(
            f"a periodic boundary needs a cell with a volume, found {geometry.cell.tolist()} bohr; correct the cell"
            " (--cell, where the data hold none) or make the boundary open"
        )


def _open_directions(geometry: Geometry) -> np.ndarray:
    """Return orthonormal vectors ``[k, 3]`` perpendicular to all periodic ones."""
    if not any(geometry.periodic):
        return np.eye(3)
    # The right-singular vectors that belong to no singular value.
    return np.linalg.svd(geometry.cell[list(geometry.periodic)])[2][sum(geometry.periodic) :]


def _without_gaps(pos: np.ndarray, normals: np.ndarray, cutoff: float) -> np.ndarray:
    """Return positions with the same neighbours, between which no gap along an open direction exceeds two cutoffs.

    With one stray atom vesin would otherwise search a huge empty box, or overflow.
    """
    # Most geometries have no such gap, and are recognised in a tenth of the time.
    if (np.diff(np.sort(pos @ normals.T, axis=0), axis=0) <= 2 * cutoff).all():
        return pos
    for normal in normals:
        along = pos @ normal
        order = np.argsort(along)
        excess = np.maximum(np.diff(along[order]) - 2 * cutoff, 0.0)
        if excess.any():
            shift = np.zeros(len(pos))
            shift[order[1:]] = np.cumsum(excess)
            pos = pos - shift[:, None] * normal
    return pos


def _box(geometry: Geometry, normals: np.ndarray, pos: np.ndarray, cutoff: float) -> np.ndarray:
    """Return the cell with non-periodic vectors replaced by ones that reach beyond all atoms and the cutoff."""
    periodic = np.array(geometry.periodic)
    longest = float(np.linalg.norm(geometry.cell[periodic], axis=1).max(initial=0.0))
    if longest > _LONGEST_CELL * cutoff:
        raise UserError(
            f"a periodic cell of {longest:.6g} bohr is more than {_LONGEST_CELL:,} times the cutoff of {cutoff:g} bohr;"
            " check its unit, or make the boundary open along it"
        )
    box = geometry.cell.copy()
    for axis, normal in zip(np.flatnonzero(~periodic), normals, strict=True):
        box[axis] = normal * (float(np.ptp(pos @ normal)) + 2 * cutoff)
    return box


def _inside(pos: np.ndarray, box: np.ndarray, periodic: tuple[bool, bool, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Return positions inside the box, and by how many lattice vectors each was moved, ``[n, 3]`` int64.

    On atoms that are far outside, as at the end of a long trajectory, vesin crashes or does not return.
    """
    fractions = np.linalg.solve(box.T, pos.T).T
    moved = np.where(periodic, np.floor(fractions), fractions.min(axis=0))
    return pos - moved @ box, np.where(periodic, moved, 0).astype(np.int64)


def _check_edge_count(n: int, box: np.ndarray, cutoff: float) -> None:
    volume = abs(float(np.linalg.det(box)))
    expected = n**2 * 4 / 3 * math.pi * cutoff**3 / volume
    if expected > _MOST_EDGES:
        raise UserError(
            f"a cutoff of {cutoff:g} bohr gives about {expected:.1e} edges between {counted(n, 'atom')} in"
            f" {volume:g} bohr³; check the units of the cutoff, the positions and the cell (--cutoff and --cell of data"
            " prepare)"
        )
    # A cell's thickness along a vector is the inverse length of the reciprocal one.
    images = float(np.prod(2 * np.ceil(cutoff * np.linalg.norm(np.linalg.inv(box), axis=0)) + 1))
    if images > _MOST_IMAGES:
        raise UserError(
            f"the cell is nearly flat: about {images:.1e} images of it lie within the cutoff of {cutoff:g} bohr;"
            " correct its vectors, or give shorter ones of the same lattice"
        )


def _check_lengths(i: np.ndarray, j: np.ndarray, lengths: np.ndarray, cutoff: float, sharp: bool) -> None:
    if len(lengths) and lengths.min() < _COINCIDE:
        k = int(np.argmin(lengths))
        raise UserError(
            f"sites {i[k]} and {j[k]} are {lengths[k]:.3g} bohr apart; correct the positions, or the cell of a periodic"
            " boundary (--cell, where the data hold none)"
        )
    if sharp and (np.abs(lengths - cutoff) < _MARGIN).any():
        raise UserError(
            f"neighbours lie at the cutoff of {cutoff} bohr to within rounding, which would decide which of them count;"
            f" prepare the data with another --cutoff, for example {cutoff + 0.01:.6g}bohr, or displace the atoms"
        )


def _check_symmetric(i: np.ndarray, j: np.ndarray, images: np.ndarray) -> None:
    """Check that the list is symmetric, on which the engines' backward passes rely."""
    back = np.lexsort((-images[:, 2], -images[:, 1], -images[:, 0], i, j))
    if not (np.array_equal(i, j[back]) and np.array_equal(j, i[back]) and np.array_equal(images, -images[back])):
        raise RuntimeError("vesin's neighbour list is not symmetric: report the geometry and the version of vesin")
