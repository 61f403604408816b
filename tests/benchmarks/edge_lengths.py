"""Compare radial bases and envelopes of edge lengths on rattled crystals, with labels of ASE's EMT potential.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.edge_lengths FOLDER [--structures 500] [--replicas 3] [--epochs 80]

Two data sets are written to FOLDER, fcc cells of 16 atoms of copper and gold in any order, and of copper; lattice
constants vary by 4 % and atoms are displaced by up to 0.2 Å root mean square, so that neighbours cross the cutoff. A
campaign on each learns energies of cells (E) and of atoms (A) without edge lengths, and with every basis and envelope.
The table shows RMSE at the best epoch, of the validation set scaled and of the test set in meV, mean ± standard
deviation over replicas.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk

import hydragnn_hpc
from hydragnn_hpc.member.engine.edges import BASES, ENVELOPES
from tests.benchmarks.any_data import rattled
from tests.benchmarks.program import command

DATA = {"copper and gold": ("Cu", "Au"), "copper": ("Cu",)}
LATTICE = {"Cu": 3.61, "Au": 4.08}
"""Å."""
CUTOFF = "4.8angstrom"
"""Between the third shells of copper and of gold."""
TASKS = {"E": {"level": "graph", "field": "energy"}, "A": {"level": "node", "field": "energies"}}


def structure(rng: np.random.Generator, elements: tuple[str, ...]) -> Atoms:
    """One strained and rattled cell with its labels."""
    atoms = bulk("Cu", cubic=True).repeat((2, 2, 1))
    atoms.symbols = rng.choice(elements, len(atoms))
    lattice = np.mean([LATTICE[symbol] for symbol in atoms.symbols]) * rng.uniform(0.96, 1.04)
    atoms.set_cell(atoms.cell * lattice / LATTICE["Cu"], scale_atoms=True)
    return rattled(atoms, rng)


def variants() -> list[dict[str, object]]:
    """The network without edge lengths, and with each basis and envelope."""
    edges = [{"basis": basis, "envelope": envelope} for basis in BASES for envelope in ENVELOPES]
    with_edges = [
        {"name": f"{e['basis']}-{e['envelope']}", "tasks": list(TASKS), "model": {"edges": {"number": 20, **e}}}
        for e in edges
    ]
    return [{"name": "no-lengths", "tasks": list(TASKS)}, *with_edges]


def measure(folder: Path, elements: tuple[str, ...], options: argparse.Namespace) -> None:
    """Make a data set, train, and print a table."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    ase.io.write(folder / "data.extxyz", [structure(rng, elements) for _ in range(options.structures)])
    targets = ["--target", "energy=graph:energy:eV", "--target", "energies=node:energies:eV"]
    files = [folder / name for name in ("data.extxyz", "data.bp")]
    command("data", "prepare", *files, *targets, "--cutoff", CUTOFF, "--split-by", "random", "--boundary", "periodic")
    campaign = {
        "name": "edges",
        "dataset": "data.bp",
        "tasks": TASKS,
        "variants": variants(),
        "replicas": options.replicas,
        "model": {"layers": 3, "pooling": "sum"},
        "training": {
            "epochs": options.epochs,
            "batch_size": 32,
            "optimizer": {"learning_rate": 0.005},
            "schedule": "cosine",
            "early_stopping": None,
        },
        "launch": {"stack": options.replicas},
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(campaign))
    command("run", folder / "campaign.yaml", folder / "run")
    show(folder / "run")


def show(run: Path) -> None:
    """Print a row for each variant."""
    found = [member.result for member in hydragnn_hpc.load(run).members if member.result]
    print("| edges | validation E, 10⁻³ | validation A, 10⁻³ | test E, meV | test A, meV |\n|---|---:|---:|---:|---:|")
    for variant in dict.fromkeys(result.variant for result in found):
        errors = [result.tasks for result in found if result.variant == variant]
        columns = [[1e3 * e[task].rmse_validation for e in errors] for task in TASKS]
        columns += [[1e3 * e[task].rmse_unit for e in errors] for task in TASKS]
        cells = [f"{np.mean(column):.2f} ± {np.std(column, ddof=1):.2f}" for column in columns]
        print(f"| {variant} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--structures", type=int, default=500)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=80)
    options = parser.parse_args()
    for name, elements in DATA.items():
        print(f"\n{name}\n")
        measure(options.folder / name.replace(" ", "-"), elements, options)


if __name__ == "__main__":
    main()
