"""A surrogate of the FePt data set: LSMS text of the same shape and difficulty, where the open data are not available.

The physics is a charge-excess functional (Bruno, Zingales & Wang, Phys. Rev. Lett. 91, 166401 (2003)) with an Ewald
Madelung matrix, its parameters fitted to the open FePt data (doi.org/10.13139/OLCF/1762742): the charge of every site
solves ``g_s(q_i) + lambda V_i + chi_i = mu`` with the cell neutral, ``V = M q``; energies and moments are polynomials
of it. Lengths in bohr, charges in e, energies in Ry, moments in μB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np

from hydragnn_hpc.atomic import new_folder
from hydragnn_hpc.dataset.features.ewald import madelung_matrix
from hydragnn_hpc.dataset.read.formats.lsms import LsmsSample, format_sample, new_sample, refuse_folder
from hydragnn_hpc.logs import ProgressCallback

A, C = 5.218, 7.058  # lattice constants of the body-centred tetragonal cell, bohr
N_SITES = 32
FE, PT = 26, 78
PURE_FE, PURE_PT = -81312.254486010526307, -1179752.354600224411115  # total energies of the pure cells, Ry

_SHELLS = (5.1064, 5.218, 7.058, 7.3793)  # neighbour distances, bohr
_G = {FE: (0.10488, 0.02543, 0.00247), PT: (0.03794, 0.17178, 0.0)}  # g_s(q) = sum_k c_k q^k, k = 1, 2, 3
_LAMBDA = -0.0045
_CHI_FE = 0.23748
_KAPPA = {FE: (-0.0046, -0.00282, 0.0012, 0.00109), PT: (0.00485, 0.00363, -0.00014, 0.00001)}
_BLOCK = 512  # configurations that are solved at once
_STEEPNESS_FLOOR, _LARGEST_STEP, _TOLERANCE, _ITERATIONS = 0.02, 0.8, 1e-9, 60


def sites() -> tuple[np.ndarray, np.ndarray]:
    """Return the positions ``[32, 3]`` and the cell ``[3, 3]``, float64, bohr, in the open data's atom order."""
    corners = [((2 * bx + i) * A, j * A, k * C) for bx, k, j, i in product((0, 1), repeat=4)]
    centre = (A / 2, A / 2, C / 2)
    pos = [p for o in corners for p in (o, tuple(a + b for a, b in zip(o, centre, strict=True)))]
    return np.array(pos), np.diag([4 * A, 2 * A, 2 * C])


@dataclass(frozen=True)
class Lattice:
    """The sites of a lattice, and the matrices between them that the functional needs.

    Attributes
    ----------
    pos, cell : numpy.ndarray
        Sites ``[n, 3]`` and cell ``[3, 3]``, bohr.
    madelung : numpy.ndarray
        ``[n, n]``, 1/bohr.
    shells : numpy.ndarray
        ``[4, n, n]``: number of images of site j in each neighbour shell of site i.
    """

    pos: np.ndarray
    cell: np.ndarray
    madelung: np.ndarray
    shells: np.ndarray


def fept_lattice() -> Lattice:
    """Return the FePt lattice."""
    pos, cell = sites()
    d = pos[:, None] - pos[None]
    shells = np.zeros((len(_SHELLS), N_SITES, N_SITES))
    for step in product((-1, 0, 1), repeat=3):
        r = np.linalg.norm(d + np.array(step) @ cell, axis=2)
        for k, radius in enumerate(_SHELLS):
            shells[k] += np.abs(r - radius) < 1e-3
    return Lattice(pos, cell, madelung_matrix(pos, cell), shells)


def charges(fe: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Solve the charge law for many configurations at once, by Newton's method with a bounded step.

    Parameters
    ----------
    fe : numpy.ndarray
        ``[S, 32]`` bool, True at sites of iron.
    lattice : Lattice

    Returns
    -------
    numpy.ndarray
        ``[S, 32]`` float64, e; zero in pure cells.
    """
    n = fe.shape[1]
    x = fe.mean(axis=1, keepdims=True)
    neighbours = np.einsum("kij,sj->ski", lattice.shells, fe.astype(float))
    kappa = np.where(fe[:, None], np.array(_KAPPA[FE])[:, None], np.array(_KAPPA[PT])[:, None])
    chi = _CHI_FE * fe + (kappa * neighbours).sum(axis=1)
    c1, c2, c3 = (np.where(fe, _G[FE][k], _G[PT][k]) for k in range(3))
    q = np.where(fe, -0.8 * (1 - x), 0.8 * x)
    q -= q.mean(axis=1, keepdims=True)
    mu = np.zeros((len(fe), 1))
    system = np.zeros((len(fe), n + 1, n + 1))
    system[:, :n, :n] = _LAMBDA * lattice.madelung
    system[:, :n, n] = -1.0
    system[:, n, :n] = 1.0
    diagonal = system[:, np.arange(n), np.arange(n)].copy()
    for _ in range(_ITERATIONS):
        law = q * (c1 + q * (c2 + q * c3)) + _LAMBDA * (q @ lattice.madelung) + chi - mu
        residual = np.concatenate([law, q.sum(axis=1, keepdims=True)], axis=1)
        steepness = np.maximum(c1 + q * (2 * c2 + 3 * q * c3), _STEEPNESS_FLOOR)
        system[:, np.arange(n), np.arange(n)] = diagonal + steepness
        step = np.linalg.solve(system, -residual[..., None])[..., 0]
        largest = np.abs(step[:, :n]).max(axis=1, keepdims=True)
        step *= np.minimum(1.0, _LARGEST_STEP / np.maximum(largest, 1e-300))
        q += step[:, :n]
        mu += step[:, n:]
        if largest.max() < _TOLERANCE:
            break
    occupied = fe.sum(axis=1, keepdims=True)
    return np.where((occupied == 0) | (occupied == n), 0.0, q)


def enthalpy(q: np.ndarray, fe: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Return the mixing enthalpy, Ry per cell, ``[S]``, from the charges ``[S, 32]``."""
    on_fe = q * (-2.9414 + q * (0.3349 + q * (-0.1423 - 0.0162 * q)))
    on_pt = -1.9314 * q**2
    total: np.ndarray = (np.where(fe, on_fe, on_pt) + 0.9853 * q * (q @ lattice.madelung)).sum(axis=1)
    return total


def moments(q: np.ndarray, fe: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Return the magnetic moments, μB, ``[S, 32]``; zero in pure Pt."""
    x = fe.mean(axis=1, keepdims=True)
    n = np.einsum("kij,sj->ksi", lattice.shells, fe.astype(float))
    on_fe = 3.19583 + q * (0.18718 + q * (1.13433 + q * (0.74729 + q * (0.1575 + 0.01115 * q))))
    on_fe += -0.05467 * n[0] - 0.03678 * n[1] + 0.00783 * n[2] + 0.00696 * n[3]
    on_pt = -0.1069 + q * (0.1776 + q * (-0.3002 - 0.1327 * q)) + x * (1.338 + x * (-2.0659 + 1.0299 * x))
    return np.where(fe, on_fe, np.where(x > 0, on_pt, 0.0))


def configurations(cap: int, seed: int) -> np.ndarray:
    """Return configurations ``[S, 32]`` bool, True at sites of iron; the pure cells come last.

    A composition has all of its configurations if there are at most ``cap``, otherwise ``cap`` distinct random ones.
    """
    rng = np.random.default_rng(seed)
    blocks = []
    for k in range(1, N_SITES):
        if math.comb(N_SITES, k) <= cap:
            chosen = list(combinations(range(N_SITES), k))
        else:
            drawn: dict[tuple[int, ...], None] = {}
            while len(drawn) < cap:
                drawn[tuple(sorted(rng.choice(N_SITES, k, replace=False).tolist()))] = None
            chosen = list(drawn)
        block = np.zeros((len(chosen), N_SITES), dtype=bool)
        block[np.arange(len(chosen))[:, None], np.array(chosen)] = True
        blocks.append(block)
    return np.concatenate([*blocks, np.zeros((1, N_SITES), bool), np.ones((1, N_SITES), bool)])


def generate(out: Path, cap: int, seed: int, force: bool = False, progress: ProgressCallback | None = None) -> int:
    """Write a surrogate data set as LSMS text into the new folder ``out``; return the number of files.

    The folder appears when it is complete. Where ``out`` is a link, what it points to is replaced.

    Raises
    ------
    UserError
        If ``out`` is not empty (without ``force``), holds anything but such files, or cannot be written.
    """
    fe = configurations(cap, seed)
    refuse_folder(out, force)
    with new_folder(out, replace=force) as folder:
        for done, sample in enumerate(samples(fe), start=1):
            # Written plainly: the whole folder is renamed at the end.
            (folder / sample.name).write_text(format_sample(sample), encoding="ascii")
            if progress:
                progress(done, len(fe))
    return len(fe)


def samples(fe: np.ndarray) -> Iterator[LsmsSample]:
    """Yield a sample, as LSMS would write it, for each of the configurations ``[S, 32]``."""
    lattice = fept_lattice()
    for first in range(0, len(fe), _BLOCK):
        part = fe[first : first + _BLOCK]
        q = np.round(charges(part, lattice), 6)
        h, m = enthalpy(q, part, lattice), np.round(moments(q, part, lattice), 6)
        x = part.mean(axis=1)
        total = h + x * PURE_FE + (1 - x) * PURE_PT
        band = ((-8.0956 * x + 16.885) * x + 35.8973) * x + 87.5773
        fermi = ((0.3533 * x - 0.7418) * x + 0.5532) * x + 0.5149
        for k, occupied in enumerate(part):
            z = np.where(occupied, FE, PT)
            energies = np.array([total[k], band[k], fermi[k]])
            yield new_sample(f"out_{first + k}", energies, z, lattice.pos, (z + q[k], m[k]))
