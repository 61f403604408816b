"""Measure what an ensemble predicts per second from Python, beside plain PyTorch Geometric, on one core.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.predictions [--members 12] [--structures 2048] [--rounds 5]

Twelve HCM members of the paper's network, trained for one epoch, predict decorations of the FePt lattice of 32 sites,
from ``ase.Atoms`` to mean and spread. They are compared with the same network on PyTorch Geometric: DataLoader, batches
of 64, one member after the other; the edges of its graphs are given. In a third row, each structure has a geometry of
its own. The three alternate in one process; times are CPU times, whatever else runs, and medians are taken.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from hydragnn_hpc import Ensemble
from hydragnn_hpc.dataset.graphs import find_neighbours
from hydragnn_hpc.fields import BOHR_IN_ANGSTROM
from tests.benchmarks import cases
from tests.benchmarks.baseline import BaselineModel, Task
from tests.benchmarks.program import command

CAMPAIGN = Path(__file__).parents[2] / "jobs" / "campaigns" / "paper.yaml"


def trained(folder: Path, members: int, variant: str = "HCM") -> Ensemble:
    """Members of the paper's network, trained for one epoch: how well they predict does not matter."""
    settings = [f"dataset={folder}/fept.bp", f"variants=[{variant}]", f"replicas={members}", f"launch.stack={members}"]
    command("data", "generate", folder / "raw", "--cap", 20)
    command("data", "prepare", folder / "raw", folder / "fept.bp")
    command("run", CAMPAIGN, folder / "out", *(f"--set={word}" for word in (*settings, "training.epochs=1")))
    return Ensemble(folder / "out", variant, device="cpu")


def decorations(number: int, moved: float) -> list[Atoms]:
    """Random Fe and Pt on the lattice, whose sites are displaced by up to ``moved`` ångström."""
    sites, rng = cases.supercell(False).pos * BOHR_IN_ANGSTROM, np.random.default_rng(0)
    return [
        Atoms(rng.choice([26, 78], len(sites)), sites + rng.uniform(-moved, moved, sites.shape)) for _ in range(number)
    ]


def plain_loop(structures: list[Atoms], members: int) -> Callable[[], object]:
    """The same on PyTorch Geometric, as its tutorials use it."""
    found = find_neighbours(cases.supercell(False), cases.CUTOFFS["206"][0])
    degrees = np.diff(found.offsets)
    edges = torch.tensor(np.stack([found.neighbours, np.repeat(np.arange(len(degrees)), degrees)]), dtype=torch.long)
    tasks = [Task(t.name, t.level, t.width, t.hidden) for t in cases.TASKS]
    histogram = torch.bincount(torch.tensor(degrees))
    models = [BaselineModel(1, cases.CHANNELS, tasks, histogram).eval() for _ in range(members)]

    @torch.no_grad()
    def predict() -> list[torch.Tensor]:
        graphs = [
            Data(x=torch.tensor(a.numbers[:, None] / 78, dtype=torch.float32), edge_index=edges) for a in structures
        ]
        values = [[model(batch) for model in models] for batch in DataLoader(graphs, batch_size=cases.BATCH)]
        return [torch.cat([torch.stack([v[t.name] for v in each]).mean(0) for each in values]) for t in tasks]

    return predict


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=12)
    parser.add_argument("--structures", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    number = arguments.structures
    with tempfile.TemporaryDirectory() as folder:
        ensemble = trained(Path(folder), arguments.members)
    one_lattice, own = decorations(number, 0.0), decorations(number // 8, 0.02)
    few = one_lattice[: number // 16]
    runs: dict[str, tuple[int, Callable[[], object]]] = {
        "PyTorch Geometric": (len(few), plain_loop(few, arguments.members)),
        "Ensemble, one lattice": (number, lambda: ensemble.predict(one_lattice)),
        "Ensemble, a geometry each": (len(own), lambda: ensemble.predict(own)),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, (_, run) in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    base = np.array(times["PyTorch Geometric"]) / len(few)
    print(f"{arguments.members} members, 32 atoms\n")
    print("| from ase.Atoms | structures per CPU second | best round | x |\n|---|---:|---:|---:|")
    for name, (count, _) in runs.items():
        each = np.array(times[name]) / count
        print(f"| {name} | {1 / np.median(each):,.0f} | {1 / each.min():,.0f} | {np.median(base / each):.1f} |")


if __name__ == "__main__":
    main()
