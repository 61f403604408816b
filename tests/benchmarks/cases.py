"""The benchmark cases: graphs, the paper's network, random species and targets; their training, and its least work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from hydragnn_hpc.convolutions import CONVOLUTIONS, why_not
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.graphs import Geometry, find_neighbours
from hydragnn_hpc.member.engine.captured import steps_of
from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.resample import Split
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.steps import EpochPlan, StackState, Steps
from hydragnn_hpc.member.engine.training_data import SampleGraphs, TrainingData
from hydragnn_hpc.sections import AdamOptimizer

BATCH, RATE = 64, 1e-3
"""Samples of a batch, and learning rate."""
SAMPLES = 384
"""Samples of a case."""
CHANNELS = (20,) * 6
"""Widths of the layers of the paper's network."""
TASKS = (TaskSizes("H", "graph", 1), TaskSizes("C", "node", 1), TaskSizes("M", "node", 1))

CUTOFFS = {"206": (7.0, False), "620": (11.4, False), "714": (13.228, False), "periodic": (13.228, True)}
"""Shared geometries by directed edges per graph: cutoff in bohr, and whether periodic (a multigraph of 2,752 edges)."""
LENGTHS = "+lengths"
"""Suffix of a case whose edges have 20 features of their lengths."""
OTHERS = tuple(
    f"{name}{LENGTHS if edges else ''}"
    for name in CONVOLUTIONS
    for edges in (False, True)
    if name != "PNA" and not why_not(name, edges)
)
"""Cases of the other convolutions, over 206 edges."""
PNA_CASES = (*CUTOFFS, "varying", *(f"{case}{LENGTHS}" for case in (*CUTOFFS, "varying")))
CASES = (*PNA_CASES, *OTHERS)
NEAR = 22
"""Neighbours of an atom in the varying case, on average; fewer where a sample has fewer atoms."""
AGGREGATION = 5 + 8
"""Instructions forward (subtract, add, multiply-add, minimum, maximum) and backward (multiply-add, add, and twice
compare, masked add, masked clear)."""
ADDITION = 1 + 2
"""Further instructions with edge features: one forward for the message, two backward for neighbour and edge."""


def supercell(periodic: bool) -> Geometry:
    """The 32 sites of the FePt supercell, in the data set's order."""
    return Geometry(*surrogate.sites(), (periodic,) * 3)


def shared(case: str) -> SampleGraphs:
    """Samples that all decorate the FePt lattice."""
    cutoff, periodic = CUTOFFS[case]
    found = find_neighbours(supercell(periodic), cutoff)
    n = len(found.offsets) - 1
    offsets = np.arange(SAMPLES + 1) * n
    which = np.zeros(SAMPLES, np.int32)
    return SampleGraphs(offsets, which, np.array([0, n]), found.offsets, found.neighbours, found.vectors, cutoff)


def varying() -> SampleGraphs:
    """Every sample has its own random positions, 20 to 44 of them; the neighbour relation is symmetric."""
    rng = np.random.default_rng(1)
    counts = rng.integers(20, 45, SAMPLES)
    lists: list[np.ndarray] = []
    vectors: list[np.ndarray] = []
    degrees: list[int] = []
    for n in counts:
        pos = rng.random((n, 3))
        distance = np.linalg.norm(pos[:, None] - pos[None], axis=2)
        limit = np.sort(distance[~np.eye(n, dtype=bool)])[min(NEAR * n, n * (n - 1)) - 1]
        near = (distance <= limit) & ~np.eye(n, dtype=bool)
        lists.append(np.nonzero(near)[1])
        vectors.append((pos[None] - pos[:, None])[near])
        degrees.extend(near.sum(1))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    first = np.concatenate([[0], np.cumsum(degrees)])
    neighbours, which = np.concatenate(lists).astype(np.int32), np.arange(SAMPLES, dtype=np.int32)
    return SampleGraphs(offsets, which, offsets, first, neighbours, np.concatenate(vectors), 1.0)


def make_samples(case: str) -> TrainingData:
    """Random species and targets on the graphs of a case."""
    kind = case.removesuffix(LENGTHS)
    graphs = varying() if kind == "varying" else shared("206" if case in OTHERS else kind)
    if kind == case:
        graphs = dataclasses.replace(graphs, edge_vectors=np.empty((0, 3)))
    rng = np.random.default_rng(0)
    rows = {"node": int(graphs.atom_offsets[-1]), "graph": SAMPLES}
    return TrainingData(
        graphs,
        rng.integers(0, 2, (rows["node"], 1)).astype(np.float32),
        {t.name: rng.random((rows[t.level], 1), np.float32) for t in TASKS},
        {t.name: t.level for t in TASKS},
        Split(np.arange(SAMPLES), np.arange(0), np.arange(0)),
    )


def network_sizes(data: TrainingData) -> NetworkSizes:
    """The paper's HCM network, with features of the edges where they have lengths."""
    basis = EdgeBasis(20, data.graphs.cutoff) if len(data.graphs.edge_vectors) else None
    return NetworkSizes(1, CHANNELS, TASKS, data.average_degree(), edges=basis)


ADAM = AdamOptimizer(name="Adam")


def new_stack(engine: Engine, members: int) -> StackState:
    """A stack with Adam."""
    return StackState.untrained(engine, range(members), ADAM)


def train(steps: Steps, stack: StackState, order: np.ndarray) -> None:
    """Train on the samples in ``order`` [E, N], batch by batch."""
    for _ in steps.run(stack, EpochPlan.of(order, BATCH, stack.optimizer, np.full(len(order), RATE))):
        pass


def stacked_epoch(engine: Engine, members: int, samples: int = SAMPLES) -> Callable[[], object]:
    """An epoch of a stack over all whole batches, as in training."""
    stack, steps, rng = new_stack(engine, members), steps_of(engine), np.random.default_rng(0)
    whole = samples // BATCH * BATCH

    def epoch() -> float:
        order = np.stack([rng.permutation(samples)[:whole] for _ in range(members)])
        train(steps, stack, order)
        return float(stack.losses.sum())

    return epoch


def edges_per_sample(data: TrainingData) -> float:
    """Directed edges of a sample, on average."""
    graphs = data.graphs
    edges = np.add.reduceat(graphs.degrees(), graphs.site_offsets[:-1])
    return float(edges[graphs.sample_geometry].mean())


def floor_megaflop(data: TrainingData) -> float:
    """Least work per sample and step, forward and backward: matrix products, and aggregation in the same unit.

    Per atom and layer: W2 x, and one matrix of the atom's degree on [x, mean, min, max, std]; the heads; three times
    that with the backward pass. (The first layer needs no gradient of its input: 0.02 MFLOP, left in.) Aggregation
    takes AGGREGATION vector instructions per edge and feature, each as long as a multiply-add; ADDITION more with edge
    features, and where samples share no edges a product of them.
    """
    sizes = network_sizes(data)
    atoms = int(data.graphs.atom_offsets[-1]) / SAMPLES
    trunk = sum(fan_in * fan_in + 5 * fan_in * out for fan_in, out in sizes.layers) * atoms
    heads = sum(
        sum(fan_in * out for fan_in, out in sizes.linears(task)) * (atoms if task.level == "node" else 1)
        for task in sizes.tasks
    )
    instructions: float = AGGREGATION
    if sizes.edges:
        instructions += ADDITION + (0 if data.graphs.shared_geometry else 3 * (sizes.edges.number + 1))
    aggregation = instructions * edges_per_sample(data) * sum(fan_in for fan_in, _ in sizes.layers)
    return (3 * 2 * (trunk + heads) + 2 * aggregation) / 1e6
