"""Electrostatic potentials between sites: of a crystal by Ewald's sum, of a cluster by Coulomb's law."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from hydragnn_hpc.dataset.graphs import Geometry
from hydragnn_hpc.errors import UserError


def potential_matrix(geometry: Geometry) -> np.ndarray:
    """Return the potential at site i of unit charges at site j and all its images, ``[n, n]`` float64, 1/bohr.

    Raises
    ------
    UserError
        If the boundary is periodic along one or two vectors only.
    """
    pos, n = geometry.pos, len(geometry.pos)
    if all(geometry.periodic):
        inside = np.linalg.solve(geometry.cell.T, pos.T).T % 1.0 @ geometry.cell
        volume = abs(float(np.linalg.det(geometry.cell)))
        # Balances the work of both sums; below 0.25 / bohr² for cells of a few atoms.
        return madelung_matrix(inside, geometry.cell, min(0.25, np.pi * (n / volume**2) ** (1 / 3)))
    if any(geometry.periodic):
        raise UserError(
            "inputs: ewald needs cells that are periodic along all three vectors, or along none; leave 'ewald' out, or"
            " prepare the data set with --boundary periodic or open"
        )
    r = np.linalg.norm(pos[:, None] - pos, axis=2)
    np.fill_diagonal(r, np.inf)
    inverse: np.ndarray = 1.0 / r
    return inverse


def madelung_matrix(pos: np.ndarray, cell: np.ndarray, eta: float = 0.25) -> np.ndarray:
    """Return the Madelung matrix of a crystal: the potential at site i of unit charges at site j and all its images.

    Parameters
    ----------
    pos, cell : numpy.ndarray
        ``[n, 3]`` and ``[3, 3]`` float64, bohr; the sites lie within the cell, whose rows are the lattice vectors.
    eta : float
        Splitting parameter of Ewald's sum, 1/bohr². Both of its parts are truncated where terms fall below 1e-15.

    Returns
    -------
    numpy.ndarray
        ``[n, n]`` float64, 1/bohr. A uniform neutralising background makes the average potential zero.
    """
    from scipy.special import erfc

    volume = abs(np.linalg.det(cell))
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    d = pos[:, None] - pos[None]
    real = np.zeros(d.shape[:2])
    # Beyond 6 / sqrt(eta), erfc is below 1e-16; d itself may add up to one cell in each direction.
    for step in _within(6 / math.sqrt(eta), reciprocal, extra=1):
        r = np.linalg.norm(d + step @ cell, axis=2)
        real += np.where(r > 1e-9, erfc(math.sqrt(eta) * r) / np.maximum(r, 1e-9), 0.0)
    waves = _within(12 * math.sqrt(eta), cell) @ reciprocal
    waves = waves[np.any(waves != 0, axis=1)]
    g2 = (waves**2).sum(axis=1)
    factor = 4 * np.pi / volume * np.exp(-g2 / (4 * eta)) / g2
    # cos(G (r_i - r_j)) splits into products over i and j, which makes the sum a matrix product.
    phase = pos @ waves.T
    wave = (np.cos(phase) * factor) @ np.cos(phase).T + (np.sin(phase) * factor) @ np.sin(phase).T
    matrix: np.ndarray = real + wave - np.pi / (eta * volume)
    matrix[np.diag_indices(len(pos))] -= 2 * math.sqrt(eta / np.pi)
    return matrix


def _within(radius: float, dual: np.ndarray, extra: int = 0) -> np.ndarray:
    """Return lattice points (integers) that cover a sphere, and ``extra`` more of them in each direction.

    ``dual`` holds the reciprocal vectors as rows.
    """
    reach = [math.ceil(radius * float(np.linalg.norm(row)) / (2 * np.pi)) + extra for row in dual]
    return np.array(list(product(*(range(-n, n + 1) for n in reach))))
