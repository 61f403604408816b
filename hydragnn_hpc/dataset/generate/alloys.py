"""Surrogate alloys of coinage metals as extended XYZ: crystals of several sizes, energies, forces and charges.

The energy is that of the tight-binding potential in the second-moment approximation, with the parameters of Cleri &
Rosato, Phys. Rev. B 48, 22 (1993), for the pure metals:
``E = sum_i (sum_j A exp(-p (r/r0 - 1)) - sqrt(sum_j xi^2 exp(-2 q (r/r0 - 1))))``. Unlike metals interact with the
mean parameters, xi raised a little so that they mix. Charges follow an invented law: each neighbour contributes in
proportion to the difference in Pauling's electronegativity. A smooth step truncates both, so that they are
shorter-ranged than the originals. These data are for trying out the program, not for studying alloys. Lengths are in
ångström, energies in eV.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from hydragnn_hpc import atomic
from hydragnn_hpc.dataset.graphs import Geometry, find_neighbours
from hydragnn_hpc.dataset.read.formats.extxyz_writer import format_frame
from hydragnn_hpc.dataset.read.units import to_bohr
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.logs import ProgressCallback

SYSTEMS = {"CuAu": (29, 79), "ternary": (29, 47, 79)}
"""Proton numbers of each system's metals."""


@dataclass(frozen=True)
class _Metal:
    a: float  # eV
    xi: float  # eV
    p: float
    q: float
    r0: float  # Å, distance of nearest neighbours
    electronegativity: float


_METALS = {
    29: _Metal(0.0855, 1.224, 10.960, 2.278, 2.556, 1.90),
    47: _Metal(0.1028, 1.178, 10.928, 3.139, 2.889, 1.93),
    79: _Metal(0.2061, 1.790, 10.229, 4.036, 2.884, 2.54),
}
_UNLIKE = 1.03  # raises xi between unlike metals
_FADE, _CUTOFF = 4.2, 5.4  # Å: where a smooth step ends all interactions, beyond the second neighbours
_RATTLE = 0.06  # Å, standard deviation of an atom's displacement
_CHARGE = 0.1  # e per neighbour and unit of electronegativity
_DECIMALS = 8


def mixed(z_i: np.ndarray, z_j: np.ndarray) -> dict[str, np.ndarray]:
    """Return the potential's parameters for pairs of metals, by name."""
    first, second = ({k: np.array([getattr(_METALS[z], k) for z in zs.tolist()]) for k in ("a", "xi", "p", "q", "r0")}
                     for zs in (z_i, z_j))  # fmt: skip
    pairs = {k: (first[k] + second[k]) / 2 for k in ("p", "q", "r0")}
    pairs["a"] = np.sqrt(first["a"] * second["a"])
    pairs["xi"] = np.sqrt(first["xi"] * second["xi"]) * np.where(z_i == z_j, 1.0, _UNLIKE)
    return pairs


def _step(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the step that falls from 1 to 0 between fade and cutoff, twice differentiable, and its slope."""
    t = np.clip((r - _FADE) / (_CUTOFF - _FADE), 0, 1)
    return 1 - t**3 * (10 - 15 * t + 6 * t**2), -30 * t**2 * (1 - t) ** 2 / (_CUTOFF - _FADE)


def properties(z: np.ndarray, pos: np.ndarray, cell: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Return energy (eV), forces ``[n, 3]`` (eV/Å) and charges ``[n]`` (e) of a periodic crystal (Å)."""
    near = find_neighbours(Geometry(pos, cell, (True, True, True)), _CUTOFF)
    i = np.repeat(np.arange(len(z)), np.diff(near.offsets))
    j, r = near.neighbours, np.linalg.norm(near.vectors, axis=1)
    k = mixed(z[i], z[j])
    step, slope = _step(r)
    x = r / k["r0"] - 1
    repulsion, hopping = k["a"] * np.exp(-k["p"] * x), k["xi"] ** 2 * np.exp(-2 * k["q"] * x)
    density = np.bincount(i, hopping * step, minlength=len(z))
    band = np.sqrt(density)
    energy = float((repulsion * step).sum() - band.sum())
    along = repulsion * (slope - k["p"] / k["r0"] * step)
    along -= hopping * (slope - 2 * k["q"] / k["r0"] * step) / (2 * band[i])
    pull = (along / r)[:, None] * near.vectors
    forces = np.zeros((len(z), 3))
    np.add.at(forces, i, pull)
    np.add.at(forces, j, -pull)
    chi = np.array([_METALS[s].electronegativity for s in z.tolist()])
    given = _CHARGE * (chi[j] - chi[i]) * np.exp(-4 * x) * step
    return energy, forces, np.bincount(i, given, minlength=len(z))


def parse_sizes(text: str) -> tuple[tuple[int, int, int], ...]:
    """Read ``"1x1x1,2x2x1"``: how often the cube of 4 atoms is repeated.

    Raises
    ------
    UserError
        If a size is not three positive numbers, gives more than 4,000 atoms, or is named twice.
    """
    sizes = []
    for word in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d?)x([1-9]\d?)x([1-9]\d?)\s*", word)
        if match is None or (size := tuple(map(int, match.groups()))) in sizes or 4 * np.prod(size) > 4000:
            raise UserError(
                f"--sizes {text}: '{word}': expected distinct repetitions of the 4-atom cube, of at most 4,000"
                " atoms, such as 1x1x1,2x2x2"
            )
        sizes.append(size)
    return tuple((s[0], s[1], s[2]) for s in sizes)


def compositions(n_atoms: int, n_metals: int) -> list[tuple[int, ...]]:
    """Return numbers of atoms of each metal on a grid of steps of an eighth of the cell (at least one atom)."""
    step = max(1, n_atoms // 8)
    grid = [*range(0, n_atoms, step), n_atoms]
    return [(*counts, n_atoms - sum(counts)) for counts in product(grid, repeat=n_metals - 1) if sum(counts) <= n_atoms]


def structures(
    metals: tuple[int, ...], cap: int, seed: int, sizes: tuple[tuple[int, int, int], ...]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield proton numbers, positions and cell (Å) of all structures: ``cap`` of each size and composition.

    The same ``seed`` gives the same structures; ``sizes`` are those of `parse_sizes`.
    Pure metals come once, on their ideal lattice; the others have random decorations, a lattice constant by Vegard's
    rule, and every atom displaced a little from its site.
    """
    cube = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    for number, size in enumerate(sizes):
        corners = np.array(list(product(*map(range, size))), float)
        sites = (corners[:, None] + cube).reshape(-1, 3)
        for which, counts in enumerate(compositions(len(sites), len(metals))):
            z = np.repeat(metals, counts)
            a = np.sqrt(2) * float(np.mean([_METALS[s].r0 for s in z.tolist()]))
            cell = np.round(np.diag(np.array(size) * a), _DECIMALS)
            # One generator for each composition: what it draws does not depend on the others.
            rng = np.random.default_rng([seed, number, which])
            pure = len(set(z.tolist())) == 1
            for _ in range(1 if pure else cap):
                rattled = sites * a + (0 if pure else _RATTLE) * rng.normal(size=sites.shape)
                yield rng.permutation(z), np.round(rattled, _DECIMALS), cell


def write(
    out: Path,
    generated: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> int:
    """Write `structures` with their energies, forces and charges as extended XYZ; return their number.

    Raises
    ------
    UserError
        If ``out`` exists (and not ``force``) or cannot be written.
    """
    atomic.refuse_file(out, force)
    done = 0
    with atomic.new_file(out) as stream:
        for z, pos, cell in generated:
            stream.write(_frame(z, pos, cell).encode())
            done += 1
            if progress:
                progress(done, 0)
    return done


def _frame(z: np.ndarray, pos: np.ndarray, cell: np.ndarray) -> str:
    energy, forces, charge = properties(z, pos, cell)
    columns = {"forces": np.round(forces, 6) + 0.0, "charge": np.round(charge, 6) + 0.0}  # + 0.0: no -0.0
    values = {"energy": round(energy, _DECIMALS)}
    return format_frame(z, to_bohr(pos), to_bohr(cell), (True, True, True), values, columns)
