"""Structures to predict, and comparisons of what is predicted for them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from hydragnn_hpc import TaskPrediction
from tests.campaigns import called, done


def some(folder: Path) -> list[Atoms]:
    """Return every 40th structure without values, as ASE reads them from ``few.extxyz``, which is written first."""
    few = folder / "few.extxyz"
    if not few.exists():
        if not (folder / "raw.extxyz").exists():
            done(folder, "data", "convert", "raw", "raw.extxyz")
        every = ase.io.read(folder / "raw.extxyz", "::40")
        ase.io.write(few, [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc) for a in every])
    return ase.io.read(few, ":")


def rows(folder: Path, out: str, variant: str, *options: str, run: Callable = called) -> list[dict[str, str]]:
    """Return the command's table of the same structures."""
    some(folder)
    found = run(folder, "predict", out, "few.extxyz", "--variant", variant, "--out", "few.csv", *options)
    assert found.returncode == 0, found.stderr
    return list(csv.DictReader((folder / "few.csv").open()))


def rotated(atoms: Atoms) -> Atoms:
    """Return the same structure elsewhere, along other axes."""
    copy = atoms.copy()
    copy.rotate(37, (1, 2, 3), rotate_cell=True)
    copy.translate((0.3, -1.1, 2.7))
    return copy


def same(one: TaskPrediction, other: TaskPrediction) -> bool:
    """Return whether two predictions have the same bits."""
    pairs = ((one.mean, other.mean), (one.std, other.std), (one.members, other.members))
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
