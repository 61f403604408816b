"""Measure the fused engine against baseline A on one core, and against the arithmetic floor.

Run it on the FePt lattice of the paper, random decorations and targets:

    OMP_NUM_THREADS=1 python -m tests.benchmarks.kernels [--edges 206 714] [--members 1 4 12] [--rounds 7]

Variants alternate in one process and medians are taken, so the ratios hold on a busy machine; single times do not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch_geometric.loader import DataLoader
from torch_geometric.utils import degree

from hydragnn_hpc.member.fused import FusedEngine, Geometry, NetworkSizes, TaskSizes
from tests.benchmarks.baseline import BaselineModel, Task, make_samples, train_epoch
from tests.member.fused.reference import FlatTable, edge_index

LATTICE = (5.218, 7.058)
"""a and c of the body-centred tetragonal cell, bohr."""
CUTOFFS = {206: 7.0, 714: 13.228}
"""Directed edges of a graph with open boundaries -> cutoff, bohr."""
AGGREGATION = 5 + 8
"""Instructions forward (subtract, add, multiply-add, minimum, maximum) and backward (multiply-add, add, and twice
compare, masked add, masked clear)."""
BATCH, SAMPLES = 64, 512
CHANNELS = (20,) * 6
TASKS = (TaskSizes("H", "graph", 1), TaskSizes("C", "node", 1), TaskSizes("M", "node", 1))


def lattice(cutoff: float) -> Geometry:
    """The 32 sites of the FePt supercell, open boundaries; in the data set's order."""
    a, c = LATTICE
    corners = [((2 * bx + i) * a, j * a, k * c) for bx in (0, 1) for k in (0, 1) for j in (0, 1) for i in (0, 1)]
    sites = np.array([np.add(corner, shift) for corner in corners for shift in ((0, 0, 0), (a / 2, a / 2, c / 2))])
    distance = np.linalg.norm(sites[:, None] - sites[None], axis=2)
    near = (distance < cutoff) & ~np.eye(len(sites), dtype=bool)
    return Geometry(np.concatenate([[0], np.cumsum(near.sum(1))]), np.nonzero(near)[1])


def problem(geometry: Geometry) -> tuple[NetworkSizes, np.ndarray, dict[str, np.ndarray]]:
    """The HCM network, random node inputs and targets, float32."""
    rng = np.random.default_rng(0)
    degrees = np.diff(geometry.first)
    average = float(degrees.mean()), float(np.log(degrees + 1).mean())
    inputs = rng.integers(0, 2, (SAMPLES, geometry.n_atoms, 1)).astype(np.float32)
    shapes = {"H": (SAMPLES, 1), "C": (SAMPLES, geometry.n_atoms, 1), "M": (SAMPLES, geometry.n_atoms, 1)}
    targets = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    return NetworkSizes(1, CHANNELS, TASKS, average), inputs, targets


def baseline_epoch(geometry: Geometry, inputs: np.ndarray, targets: dict[str, np.ndarray]) -> Callable[[], object]:
    """An epoch of baseline A."""
    edges = edge_index(geometry)
    histogram = torch.bincount(degree(edges[1], dtype=torch.long))
    model = BaselineModel(1, CHANNELS, [Task(t.name, t.level) for t in TASKS], histogram)
    loader = DataLoader(make_samples(edges, inputs, targets), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return lambda: train_epoch(model, loader, optimizer)


def fused_epoch(
    geometry: Geometry, sizes: NetworkSizes, data: tuple[np.ndarray, dict[str, np.ndarray]], members: int
) -> Callable[[], object]:
    """An epoch of the fused engine with Adam over the flat parameters of all members."""
    table = FlatTable.of(sizes)
    engine = FusedEngine(sizes, table, geometry, *data)
    parameters = torch.empty(members, table.parameter_size).uniform_(-0.2, 0.2)
    gradients, buffers = torch.zeros_like(parameters), torch.ones(members, table.buffer_size)
    moments = torch.zeros_like(parameters), torch.zeros_like(parameters)
    factors = torch.tensor([[1e-8] * members, [-1e-3] * members])
    rng = np.random.default_rng(0)

    def epoch() -> float:
        order = np.stack([rng.permutation(SAMPLES) for _ in range(members)])
        total = 0.0
        for start in range(0, SAMPLES, BATCH):
            losses = engine.step(parameters, gradients, buffers, order[:, start : start + BATCH])
            engine.adam(parameters, gradients, moments, factors, (0.9, 0.999))
            total += float(losses.sum())
        return total

    return epoch


def floor_megaflop(geometry: Geometry, sizes: NetworkSizes) -> tuple[float, float]:
    """Least work a sample and step, forward and backward: matrix products, and aggregation in the same coin.

    Per atom and layer: W2 x, and one matrix of the atom's degree on [x, mean, min, max, std]; the heads; three times
    that with the backward pass. (The first layer needs no gradient of its input: 0.02 MFLOP, left in.) Aggregation
    takes AGGREGATION vector instructions per edge and feature, each as long as a multiply-add.
    """
    atoms = geometry.n_atoms
    trunk = sum(fan_in * fan_in + 5 * fan_in * out for fan_in, out in sizes.layers) * atoms
    heads = sum(
        sum(fan_in * out for fan_in, out in sizes.linears(task)) * (atoms if task.level == "node" else 1)
        for task in sizes.tasks
    )
    aggregation = AGGREGATION * len(geometry.neighbour) * sum(fan_in for fan_in, _ in sizes.layers)
    return 3 * 2 * (trunk + heads) / 1e6, 2 * aggregation / 1e6


def peak_gigaflops() -> float:
    """Usual rate of a 512 x 512 float32 matrix product in torch."""
    a, out = torch.randn(512, 512), torch.empty(512, 512)
    return 2 * 512**3 / float(np.median([seconds(lambda: torch.mm(a, a, out=out)) for _ in range(60)])) / 1e9


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(edges: int, members: list[int], rounds: int) -> None:
    """Print a table for one geometry."""
    geometry = lattice(CUTOFFS[edges])
    sizes, inputs, targets = problem(geometry)
    runs = {"A": baseline_epoch(geometry, inputs, targets)}
    runs |= {f"fused E={e}": fused_epoch(geometry, sizes, (inputs, targets), e) for e in members}
    counts = {"A": 1} | {f"fused E={e}": e for e in members}
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks = []
    for _ in range(rounds):
        peaks.append(peak_gigaflops())
        for name, run in runs.items():
            times[name].append(seconds(run))
    peak, (products, aggregation) = float(np.median(peaks)), floor_megaflop(geometry, sizes)
    floor = (products + aggregation) / peak * 1e3
    work = f"{products:.2f} + {aggregation:.2f} MFLOP a sample (products + aggregation) at {peak:.0f} GFLOP/s"
    print(f"{len(geometry.neighbour)} edges: {work}: {floor:.1f} us")
    for name in runs:
        each = np.array(times[name]) / (SAMPLES * counts[name])
        ratio = float(np.median(np.array(times["A"]) / SAMPLES / each))
        micro = float(np.median(each)) * 1e6
        share = floor / micro
        print(f"  {name:12s} {1e6 / micro:8.0f} samples/s {micro:8.1f} us {ratio:5.1f} x A {share:6.1%} of the floor")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs="+", choices=CUTOFFS, default=list(CUTOFFS))
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 12])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for edges in arguments.edges:
        measure(edges, arguments.members, arguments.rounds)


if __name__ == "__main__":
    main()
