"""Measure the engines against baseline A on one core: the paper's network, batches of 64, with the optimiser.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.engines [--cases shared varying] [--members 1 4] [--json]

`shared` is the FePt lattice of 32 sites, 714 edges; `varying` gives every sample a geometry and an atom count of its
own (20 to 44 atoms, about as many edges). Variants alternate in one process and medians are taken, so that the ratios
hold on a busy machine; single times do not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.utils import degree

from hydragnn_hpc.config import Optimizer
from hydragnn_hpc.dataset.stage import atoms_of
from hydragnn_hpc.member.engine import Engine, FusedCpu
from hydragnn_hpc.member.fused.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.optimize import Adam
from hydragnn_hpc.member.samples import Samples, Structure
from hydragnn_hpc.member.torch_engine import TorchEngine
from tests.benchmarks.baseline import BaselineModel, Task, train_epoch
from tests.benchmarks.kernels import CUTOFFS, lattice, seconds

BATCH, SAMPLES, CHANNELS = 64, 384, (20,) * 6
TASKS = (TaskSizes("H", "graph", 1), TaskSizes("C", "node", 1), TaskSizes("M", "node", 1))
NEAR = 22
"""Nearest neighbours of an atom in the varying case, before the relation is made symmetric."""


def shared_structure() -> Structure:
    """All samples decorate the FePt lattice, cut off at 7 angstrom."""
    geometry = lattice(CUTOFFS[714])
    n = geometry.n_atoms
    offsets = np.arange(SAMPLES + 1) * n
    first, neighbour = np.asarray(geometry.first), np.asarray(geometry.neighbour)
    return Structure(offsets, np.zeros(SAMPLES, np.int32), np.array([0, n]), first, neighbour.astype(np.int32))


def varying_structure() -> Structure:
    """Every sample has random positions of its own, 20 to 44 of them; neighbours are near ones, both ways."""
    rng = np.random.default_rng(1)
    counts = rng.integers(20, 45, SAMPLES)
    lists: list[np.ndarray] = []
    degrees: list[int] = []
    for n in counts:
        pos = rng.random((n, 3))
        distance = np.linalg.norm(pos[:, None] - pos[None], axis=2)
        limit = np.sort(distance[~np.eye(n, dtype=bool)])[min(NEAR * n, n * (n - 1)) - 1]
        near = (distance <= limit) & ~np.eye(n, dtype=bool)
        lists.append(np.nonzero(near)[1])
        degrees.extend(near.sum(1))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    first = np.concatenate([[0], np.cumsum(degrees)])
    return Structure(
        offsets, np.arange(SAMPLES, dtype=np.int32), offsets, first, np.concatenate(lists).astype(np.int32)
    )


def make_samples(structure: Structure) -> Samples:
    """Random species and targets."""
    rng = np.random.default_rng(0)
    atoms = int(structure.atom_offsets[-1])
    rows = {"node": atoms, "graph": SAMPLES}
    return Samples(
        structure,
        rng.integers(0, 2, (atoms, 1)).astype(np.float32),
        {t.name: rng.random((rows[t.level], 1), np.float32) for t in TASKS},
        {t.name: t.level for t in TASKS},
        (np.arange(SAMPLES), np.arange(0), np.arange(0)),
    )


def baseline_epoch(samples: Samples) -> Callable[[], object]:
    """An epoch of baseline A."""
    data = [_graph(samples, number) for number in range(SAMPLES)]
    degrees = torch.cat([degree(d.edge_index[1], d.num_nodes, torch.long) for d in data])
    model = BaselineModel(1, CHANNELS, [Task(t.name, t.level) for t in TASKS], torch.bincount(degrees))
    loader = DataLoader(data, batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return lambda: train_epoch(model, loader, optimizer)


def _graph(samples: Samples, number: int) -> Data:
    s = samples.structure
    site = int(s.site_offsets[s.sample_geometry[number]])
    atoms = atoms_of(s.atom_offsets, np.array([number]))
    first = s.neighbour_offsets[site : site + len(atoms) + 1]
    receiver = np.repeat(np.arange(len(atoms)), np.diff(first))
    edges = np.stack([s.neighbours[first[0] : first[-1]], receiver])
    data = Data(x=torch.tensor(samples.inputs[atoms]), edge_index=torch.tensor(edges, dtype=torch.long))
    for task in TASKS:
        rows = atoms if task.level == "node" else np.array([number])
        data[f"y_{task.name}"] = torch.tensor(samples.targets[task.name][rows])
    return data


def engine_epoch(engine: Engine, members: int) -> Callable[[], object]:
    """An epoch of an engine with the flat Adam, as a stack's training does it."""
    parameters = torch.stack([engine.layout.initial_parameters(e) for e in range(members)])
    buffers = torch.stack([engine.layout.initial_buffers()] * members)
    gradients, adam = torch.zeros_like(parameters), Adam.fresh(Optimizer(), parameters)
    rng = np.random.default_rng(0)

    def epoch() -> float:
        order = np.stack([rng.permutation(SAMPLES) for _ in range(members)])
        steps = SAMPLES // BATCH
        factors = adam.plan(steps, np.full(members, 1e-3))
        total = torch.zeros(members, len(TASKS), dtype=torch.float64)
        for step in range(steps):
            index = np.ascontiguousarray(order[:, step * BATCH : (step + 1) * BATCH])
            total += engine.step(parameters, gradients, buffers, index)
            adam.step(parameters, gradients, factors[step])
        return float(total.sum())

    return epoch


def runs_of(case: str, members: list[int]) -> dict[tuple[str, int], Callable[[], object]]:
    """What is measured in one case: (name, members) -> an epoch."""
    samples = make_samples(shared_structure() if case == "shared" else varying_structure())
    sizes = NetworkSizes(1, CHANNELS, TASKS, samples.average_degree())
    cpu = torch.device("cpu")
    runs = {("A", 1): baseline_epoch(samples)}
    for e in members:
        runs["torch", e] = engine_epoch(TorchEngine(sizes, samples, cpu), e)
        if e > 1:
            runs["torch, together", e] = engine_epoch(TorchEngine(sizes, samples, cpu, together=True), e)
        if case == "shared":
            runs["fused", e] = engine_epoch(FusedCpu(sizes, samples), e)
    return runs


def measure(case: str, members: list[int], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each engine and stack: samples a second and member, and how many times A's that is."""
    runs = runs_of(case, members)
    for run in runs.values():
        run()
    times: dict[tuple[str, int], list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run) / (SAMPLES * name[1]))
    base = np.array(times["A", 1])
    return [
        {
            "case": case,
            "engine": name,
            "members": e,
            "samples_per_second": float(1 / np.median(found)),
            "times_baseline": float(np.median(base / np.array(found))),
        }
        for (name, e), found in times.items()
    ]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=["shared", "varying"], default=["shared", "varying"])
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for case in arguments.cases for row in measure(case, arguments.members, arguments.rounds)]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'case':8s} {'engine':16s} {'members':>7s} {'samples/s':>10s} {'x A':>6s}")
    for r in rows:
        print(
            f"{r['case']:8s} {r['engine']:16s} {r['members']:7d} {r['samples_per_second']:10.0f}"
            f" {r['times_baseline']:6.1f}"
        )


if __name__ == "__main__":
    main()
