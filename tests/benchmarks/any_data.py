"""What ``init`` proposes, trained on data of several kinds: does every task beat the baselines without a network?

    OMP_NUM_THREADS=1 python -m tests.benchmarks.any_data FOLDER [--only NAME] [--structures 500] [--for speed]

Each data set is written to a folder in FOLDER, and then prepared, given to ``init``, trained and reported without any
choice made by hand. Labels are those of ASE's EMT potential, and of the surrogate of ``hydragnn-hpc data generate``.
The table shows RMSE on the test set: of the ensemble's mean, of one member on average, and of the better baseline; the
ratio of the baseline's to the mean's; and R² of one member on average.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cluster import Octahedron

from tests.benchmarks.program import command

ENERGIES = ["energy=graph:energy:eV", "energies=node:energies:eV"]
FORCES = ["energy=graph:energy:eV", "forces=node:forces:eV/Ang"]
METALS = ["Al", "Ni", "Cu", "Pd", "Au"]


def rattled(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Displace the atoms at random, by 0.02 to 0.2 Å root mean square; return the structure with its labels."""
    atoms.positions += rng.uniform(0.02, 0.2) * rng.standard_normal(atoms.positions.shape) / np.sqrt(3)
    atoms.calc = EMT()
    energies, forces = atoms.get_potential_energies(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=float(energies.sum()), forces=forces)
    atoms.arrays["energies"] = energies
    return atoms


def strained(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Scale a cell and its atoms by up to 3 %."""
    atoms.set_cell(atoms.cell * rng.uniform(0.97, 1.03), scale_atoms=True)
    return atoms


def copper(rng: np.random.Generator) -> Atoms:
    """A cell of copper, always of the same composition."""
    return rattled(strained(bulk("Cu", cubic=True), rng), rng)


def five_elements(rng: np.random.Generator) -> Atoms:
    """A cell of 4 or 8 atoms of five metals in any order."""
    atoms = bulk("Cu", a=3.85, cubic=True).repeat((1, 1, int(rng.integers(1, 3))))
    atoms.symbols = rng.choice(METALS, len(atoms))
    return rattled(strained(atoms, rng), rng)


def cluster(rng: np.random.Generator) -> Atoms:
    """An octahedron of copper and gold without some of its atoms."""
    atoms = Octahedron("Cu", 3, latticeconstant=3.8 * rng.uniform(0.97, 1.03))
    del atoms[rng.permutation(len(atoms))[: int(rng.integers(1, 7))]]
    atoms.symbols = rng.choice(["Cu", "Au"], len(atoms))
    return rattled(Atoms(atoms.symbols, atoms.positions), rng)


DATA: dict[str, tuple[Callable[[np.random.Generator], Atoms] | None, list[str]]] = {
    "rattled": (copper, FORCES),
    "five-elements": (five_elements, ENERGIES),
    "clusters": (cluster, FORCES),
    "ternary": (None, ["mixing=mixing:energy:eV", "charge=node:charge:e"]),
}
"""By name: what makes a structure (None: the program's surrogate), and the targets."""


def measure(folder: Path, name: str, options: argparse.Namespace) -> None:
    """Make a data set, train the proposed campaign, and print its rows; a second call continues the first."""
    make, targets = DATA[name]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "mine.bp").exists():
        if make is None:
            command("data", "generate", "data.extxyz", "--system", "ternary", "--cap", "20", "--force", folder=folder)
        else:
            rng = np.random.default_rng(1)
            ase.io.write(folder / "data.extxyz", [make(rng) for _ in range(options.structures)])
        words = [word for target in targets for word in ("--target", target)]
        command("data", "prepare", "data.extxyz", "mine.bp", *words, folder=folder)
    if not (folder / "mine.yaml").exists():
        command("init", "mine.bp", "--for", options.purpose, folder=folder)
    command("run", "mine.yaml", "out", folder=folder)
    command("report", "out", folder=folder)
    with (folder / "out" / "report" / "table1.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        if row["variant"].startswith("no network"):
            continue
        others = [r for r in rows if r["variant"].startswith("no network") and r["task"] == row["task"]]
        baseline = min(float(r["rmse_unit_mean"]) for r in others)
        mean, member = float(row["rmse_of_mean"]), float(row["rmse_unit_mean"])
        cells = [f"{x:.3g}" for x in (mean, member, baseline)]
        cells += [f"{baseline / mean:.1f}", f"{float(row['r2']):.4f}"]
        print(f"| {name} | {row['variant']} | {row['task']} | {row['unit']} | {' | '.join(cells)} |")
    sys.stdout.flush()


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=DATA)
    parser.add_argument("--structures", type=int, default=500)
    parser.add_argument("--for", dest="purpose", default="speed")
    options = parser.parse_args()
    print("| data | variant | task | unit | mean of members | one member | no network | times better | R² |")
    print("|---|---|---|---|---:|---:|---:|---:|---:|", flush=True)
    for name in [options.only] if options.only else DATA:
        measure(options.folder / name, name, options)


if __name__ == "__main__":
    main()
