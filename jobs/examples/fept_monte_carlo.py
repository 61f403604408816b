"""Lattice Monte Carlo of FePt with a finished ensemble: does the alloy order, and does the ensemble know its energies?

    python jobs/examples/fept_monte_carlo.py runs/paper --variant HCM --out runs/monte-carlo

Walkers at different temperatures share the lattice of 32 sites, half Fe, half Pt. In each round every walker proposes
to swap two unlike atoms; the mixing enthalpies of all proposals are predicted in one batch, which makes it fast; each
is accepted by Metropolis' rule. At fixed composition the mixing enthalpy and the energy differ by a constant.

OUT.csv has the order parameter, the enthalpy and the members' spread of each walker along the way, and OUT.png shows
them. The order parameter is that of L1_0: 1 where planes of Fe and Pt alternate along one of three directions.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units

from hydragnn_hpc import Ensemble

EDGES = np.array([5.218, 5.218, 7.058]) * units.Bohr  # a, a and c of the body-centred tetragonal cell
CELLS = (4, 2, 2)
TO_EV = {"Ry": units.Ry, "eV": 1.0}
MOST_RECORDED = 200  # rounds that are written, at most
IRON, PLATINUM = 26, 78


def lattice() -> tuple[Atoms, np.ndarray]:
    """Return the supercell, all iron, and the signs [3, n] with which its sites enter the three order parameters."""
    corners = np.array([(i, j, k) for i in range(CELLS[0]) for k in range(CELLS[2]) for j in range(CELLS[1])]) * 2
    halves = np.concatenate([corners[:, None], corners[:, None] + 1], axis=1).reshape(-1, 3)  # in half cells
    i, j, k = halves.T
    signs = (-1.0) ** np.array([k, (i + j) // 2, (i - j) // 2])
    return Atoms(f"Fe{len(halves)}", halves * EDGES / 2), signs


class Walkers:
    """Configurations at several temperatures, which move together."""

    def __init__(self, ensemble: Ensemble, task: str, temperatures: np.ndarray, rng: np.random.Generator) -> None:
        self._ensemble, self._task, self._rng = ensemble, task, rng
        sites, self._signs = lattice()
        self.structures = [sites.copy() for _ in temperatures]
        for atoms in self.structures:
            atoms.numbers[rng.permutation(len(atoms))[: len(atoms) // 2]] = PLATINUM
        self._in_ev = TO_EV[ensemble.facts.tasks[task].unit]
        self._beta = 1 / (units.kB * temperatures)
        self.enthalpy, self.spread = self._predict()
        self.accepted = np.zeros(len(temperatures), int)

    def _predict(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and spread of the members for every walker, eV."""
        predicted = self._ensemble.predict(self.structures)[self._task]
        return predicted.mean[:, 0] * self._in_ev, predicted.std[:, 0] * self._in_ev

    def step(self) -> None:
        """Propose a swap in every walker, and accept or undo it."""
        pairs = [[self._rng.choice(np.flatnonzero(a.numbers == z)) for z in (IRON, PLATINUM)] for a in self.structures]
        for atoms, pair in zip(self.structures, pairs, strict=True):
            atoms.numbers[pair] = atoms.numbers[pair[::-1]]
        enthalpy, spread = self._predict()
        downhill = np.minimum(0.0, -self._beta * (enthalpy - self.enthalpy))
        accept = self._rng.random(len(pairs)) < np.exp(downhill)
        for number in np.flatnonzero(~accept):
            atoms, pair = self.structures[number], pairs[number]
            atoms.numbers[pair] = atoms.numbers[pair[::-1]]
        self.enthalpy, self.spread = (
            np.where(accept, new, old) for new, old in ((enthalpy, self.enthalpy), (spread, self.spread))
        )
        self.accepted += accept

    def order(self) -> np.ndarray:
        """Return the order parameter of each walker, 0 to 1."""
        occupied = np.array([np.where(atoms.numbers == IRON, 1.0, -1.0) for atoms in self.structures])
        order: np.ndarray = np.abs(occupied @ self._signs.T).max(axis=1) / occupied.shape[1]
        return order


def plot(rows: np.ndarray, temperatures: np.ndarray, path: Path) -> None:
    """Draw order parameter, enthalpy and spread along the way; ``rows`` [recorded rounds, walkers, 4]."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    colours = plt.get_cmap("coolwarm")(np.linspace(0, 1, len(temperatures)))
    titles = ("order parameter of L1$_0$", "mixing enthalpy, eV per cell", "spread of the members, eV per cell")
    for column, (axis, title) in enumerate(zip(axes, titles, strict=True), start=1):
        for walker, colour in enumerate(colours):
            axis.plot(rows[:, walker, 0], rows[:, walker, column], color=colour, lw=0.9)
        axis.set(title=title, xlabel="swaps proposed to each walker")
    low, high = temperatures[[0, -1]]
    scale = plt.cm.ScalarMappable(plt.Normalize(low, high), "coolwarm")
    figure.colorbar(scale, ax=axes, label="temperature, K")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the walkers that the command line asks for; write and draw what they recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", help="the folder of a finished campaign on FePt, trained with open boundaries")
    parser.add_argument("--variant", default="HCM")
    parser.add_argument("--task", default="H", help="the mixing enthalpy")
    parser.add_argument("--steps", type=int, default=100_000, help="swaps proposed to all walkers together")
    parser.add_argument("--walkers", type=int, default=32)
    parser.add_argument("--temperatures", type=float, nargs=2, default=(300.0, 3000.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="OUT.csv and OUT.png are written")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    table, picture = (arguments.out.with_name(arguments.out.name + suffix) for suffix in (".csv", ".png"))
    temperatures = np.geomspace(*arguments.temperatures, arguments.walkers)
    ensemble = Ensemble(arguments.campaign, arguments.variant, device="cpu")
    walkers = Walkers(ensemble, arguments.task, temperatures, np.random.default_rng(arguments.seed))
    rounds = math.ceil(arguments.steps / arguments.walkers)
    interval = max(1, math.ceil(rounds / MOST_RECORDED))
    rows, started = [], time.monotonic()
    for number in range(rounds + 1):
        if number % interval == 0 or number == rounds:
            state = (np.full(arguments.walkers, number), walkers.order(), walkers.enthalpy, walkers.spread)
            rows.append(np.stack(state, axis=1))
        if number < rounds:
            walkers.step()
    seconds = time.monotonic() - started
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("temperature_K", "swaps", "order", "enthalpy_eV", "spread_eV"))
        for row in rows:
            writer.writerows((t, int(n), *values) for t, (n, *values) in zip(temperatures, row.tolist(), strict=True))
    plot(np.array(rows), temperatures, picture)
    print(f"{rounds * arguments.walkers:,} swaps proposed in {seconds:.0f} s with {len(ensemble.replicas)} members")
    for walker in (0, -1):
        print(f"{temperatures[walker]:.0f} K: order {rows[-1][walker, 1]:.2f}, accepted {walkers.accepted[walker]}")


if __name__ == "__main__":
    main()
