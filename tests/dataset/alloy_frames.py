"""Structures of several elements and sizes with random properties, as ASE objects and as extended XYZ."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

PURE = {"Cu": -3.5, "Au": -3.2, "Pd": -5.1}  # eV per atom


def frames(n: int = 40, seed: int = 0, periodic: tuple[bool, bool, bool] = (True, True, True)) -> list[Atoms]:
    """Cu-Au-Pd crystals of 2 or 4 atoms, randomly distorted, with energy, forces, dipole moment and Bader charges."""
    rng = np.random.default_rng(seed)
    structures = []
    for k in range(n):
        size = 2 + 2 * (k % 2)
        cell = np.diag([3.9, 3.9, 3.9 * size / 2]) + rng.uniform(-0.1, 0.1, (3, 3))
        grid = np.array([[0, 0, 0], [0.5, 0.5, 0.25], [0, 0.02, 0.5], [0.5, 0.5, 0.75]])[:size]
        symbols = [list(PURE)[k]] * size if k < 3 else sorted(rng.choice(list(PURE), size).tolist())
        atoms = Atoms(symbols, positions=grid @ cell + rng.uniform(-0.1, 0.1, (size, 3)), cell=cell, pbc=periodic)
        energy = sum(PURE[s] for s in symbols) + (0.0 if len(set(symbols)) == 1 else rng.uniform(-0.5, 0))
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=rng.normal(size=(size, 3)))
        atoms.info["dipole_moment"] = rng.normal(size=3)
        atoms.new_array("bader", rng.normal(size=size))
        structures.append(atoms)
    return structures


def write(path: Path, structures: list[Atoms]) -> Path:
    """Write extended XYZ as ASE does; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(path, structures, format="extxyz")
    return path
