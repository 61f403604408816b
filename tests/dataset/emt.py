"""Small crystals with energies, forces and stresses of ASE's effective medium theory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT


def crystals(n: int = 60, sizes: tuple[int, ...] = (1,), symbols: str = "Cu", rattle: float = 0.1) -> list[Atoms]:
    """Periodic crystals of a few atoms with what EMT gives for them.

    The energy (eV) is under the key ``e``, the forces (eV/Å) under ``f``, and the nine components of stress times
    volume (eV) under ``s``.
    """
    return [atoms.copy() for atoms in _crystals(n, sizes, symbols, rattle)]


@cache
def _crystals(n: int, sizes: tuple[int, ...], symbols: str, rattle: float) -> list[Atoms]:
    """The same, computed once: EMT takes milliseconds for each, and many tests use the same ones."""
    rng, made = np.random.default_rng(0), []
    elements = symbols.split()
    for k in range(n):
        atoms = bulk("Cu", cubic=True) * (sizes[k % len(sizes)], 1, 1)
        atoms.symbols = rng.choice(elements, len(atoms))
        atoms.rattle(rattle, seed=k)
        atoms.calc = EMT()
        atoms.info["e"], forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.arrays["f"] = forces
        atoms.info["s"] = (atoms.get_stress(voigt=False) * atoms.get_volume()).ravel()
        atoms.calc = None
        made.append(atoms)
    return made


def changed(made: list[Atoms], change: Callable[[int, Atoms], Any], key: str = "e") -> list[Atoms]:
    """Set a key of each structure to ``change(number, structure)``; None removes it from the structure's own values."""
    for k, atoms in enumerate(made):
        where = atoms.arrays if np.shape(value := change(k, atoms))[:1] == (len(atoms),) else atoms.info
        where.pop(key, None)
        if value is not None:
            where[key] = value
    return made
