"""Random problems: the same data and the same weights for every engine, and a reference in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.resample import Split
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import SampleGraphs, TrainingData
from hydragnn_hpc.member.fused.engine import FusedEngine
from hydragnn_hpc.member.library.engine import LibraryEngine
from hydragnn_hpc.member.torch_engine.engine import TorchEngine

CPU = torch.device("cpu")
CUTOFF = 7.0
"""Bohr."""
Adjacency = tuple[np.ndarray, np.ndarray]
"""Offsets [n + 1] and neighbours [m] of one geometry."""

TASKS = (
    TaskSizes("H", "graph", 1, (7, 5)),
    TaskSizes("C", "node", 1, (7, 5), 2.0),
    TaskSizes("V", "node", 3, (4,), 0.5),
)

ENGINES: dict[str, Callable[[NetworkSizes, TrainingData, torch.dtype], Engine]] = {
    "fused": FusedEngine,
    "fused varying": lambda sizes, data, dtype: FusedEngine(sizes, data, dtype, shared=False),
    "torch": lambda sizes, data, dtype: TorchEngine(sizes, data, CPU, dtype),
    "torch together": lambda sizes, data, dtype: TorchEngine(sizes, data, CPU, dtype, together=True),
    "library": lambda sizes, data, dtype: LibraryEngine(sizes, "PNA", data, CPU, dtype, shared=False),
}
if find_spec("triton"):  # tests/member/triton_engine requires it; here kernels run in Triton's interpreter
    from hydragnn_hpc.member.triton_engine.engine import TritonEngine
    from tests.triton_interpreter import accelerate

    accelerate()
    ENGINES["triton"] = lambda sizes, data, dtype: TritonEngine(sizes, data, CPU, dtype)


def random_neighbours(rng: np.random.Generator, n: int, pairs: int) -> Adjacency:
    """A symmetric multigraph: pairs may repeat, an atom may be its own neighbour, atoms may be isolated."""
    ends = rng.integers(0, n, (pairs, 2))
    both = np.concatenate([ends, ends[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(both[:, 0], minlength=n))]).astype(np.int64)
    return offsets, both[:, 1].astype(np.int32)


def with_vectors(graphs: SampleGraphs) -> SampleGraphs:
    """Add random edge vectors shorter than the cutoff; that of an edge is minus that of its reverse.

    They depend on the pair of atoms alone, not on the order of the edges.
    """
    receiver = np.repeat(np.arange(len(graphs.degrees())), graphs.degrees())
    first_site = np.repeat(graphs.site_offsets[:-1], np.diff(graphs.site_offsets))[receiver]
    sender = graphs.neighbours + first_site
    vectors = np.zeros((len(sender), 3))
    # The reverse of the k-th edge from i to j is the k-th from j to i.
    seen: dict[tuple[int, int], int] = {}
    drawn: dict[tuple[int, int, int], np.ndarray] = {}
    for edge, (i, j) in enumerate(zip(receiver.tolist(), sender.tolist(), strict=True)):
        k = seen[i, j] = seen.get((i, j), -1) + 1
        key = (min(i, j), max(i, j), k if i != j else k // 2)
        if key not in drawn:
            rng = np.random.default_rng(key)
            drawn[key] = rng.normal(size=3)
            drawn[key] *= rng.uniform(1.0, CUTOFF) / np.linalg.norm(drawn[key])
        vectors[edge] = drawn[key] if i < j or (i == j and k % 2 == 0) else -drawn[key]
    return dataclasses.replace(graphs, edge_vectors=vectors, cutoff=CUTOFF)


def graphs_of(geometries: list[Adjacency], which: np.ndarray) -> SampleGraphs:
    """Samples over these geometries; ``which`` [S] is the number of each sample's geometry."""
    atoms = np.array([len(offsets) - 1 for offsets, _ in geometries])
    degrees = np.concatenate([np.diff(offsets) for offsets, _ in geometries])
    return SampleGraphs(
        np.concatenate([[0], np.cumsum(atoms[which])]).astype(np.int64),
        which.astype(np.int32),
        np.concatenate([[0], np.cumsum(atoms)]).astype(np.int64),
        np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64),
        np.concatenate([neighbours for _, neighbours in geometries]).astype(np.int32),
    )


def random_samples(
    rng: np.random.Generator,
    geometries: list[Adjacency],
    number: int = 14,
    tasks: tuple[TaskSizes, ...] = TASKS,
    inputs: int = 1,
    spread: float = 0.1,
) -> TrainingData:
    """Samples whose inputs are 0 or 1 with a deviation of ``spread``: without it, most neighbours would tie."""
    graphs = graphs_of(geometries, np.arange(number) % len(geometries))
    graphs = with_vectors(graphs)
    rows = {"node": int(graphs.atom_offsets[-1]), "graph": number}
    values = rng.integers(0, 2, (rows["node"], inputs)) + spread * rng.standard_normal((rows["node"], inputs))
    return TrainingData(
        graphs,
        values,
        {t.name: rng.standard_normal((rows[t.level], t.width)) for t in tasks},
        {t.name: t.level for t in tasks},
        Split(*(np.arange(number)[k::3] for k in range(3))),
    )


def with_missing(data: TrainingData, rng: np.random.Generator, share: float) -> TrainingData:
    """The same data with a share of the target values missing."""
    targets = {name: np.where(rng.random(v.shape) < share, np.nan, v) for name, v in data.targets.items()}
    return dataclasses.replace(data, targets=targets)


@dataclass(frozen=True)
class Outcome:
    """Results of a step: losses [E, T], and gradients and buffers [E, ...] by name, all float64."""

    losses: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


class Problem:
    """Data, a network, and the weights of E members in float64; ``network`` are options of `NetworkSizes`.

    Attributes
    ----------
    EDGES : EdgeBasis or None
        The edge features of every problem that names no others.
    """

    EDGES: EdgeBasis | None = None

    def __init__(
        self, data: TrainingData, tasks: tuple[TaskSizes, ...] = TASKS, members: int = 3, **network: object
    ) -> None:
        options: dict[str, object] = {"channels": (6, 6, 6), "edges": self.EDGES, **network}
        self.data = data
        self.sizes = NetworkSizes(
            data.inputs.shape[1],
            tasks=tasks,
            average_degree=(3.5, 1.375),  # exact in float32, in which the library keeps them
            **options,  # type: ignore[arg-type]
        )
        layout = ParameterLayout.of(self.sizes)
        flat = torch.stack([layout.initial_parameters(e) for e in range(members)]).double()
        generator = torch.Generator().manual_seed(1)
        self.parameters = {_common(name): value for name, value in layout.named(flat).items()}
        for name, value in self.parameters.items():
            if ".norm." in name:  # initially the identity, with which errors could cancel
                value.add_(0.2 * torch.rand(value.shape, generator=generator, dtype=torch.float64))
        self.buffers = layout.named_buffers(torch.stack([layout.initial_buffers()] * members).double())
        for value in self.buffers.values():
            value.add_(0.2 * torch.rand(value.shape, generator=generator, dtype=torch.float64))
        self.members = members

    def engine(self, name: str = "library", dtype: torch.dtype = torch.float64) -> Engine:
        """The engine of that name; the library's layers in float64 are the reference for the others."""
        return ENGINES[name](self.sizes, self.data, dtype)

    def index(self, batch: int, seed: int = 0) -> np.ndarray:
        """Sample numbers [E, B], drawn for each member by itself."""
        rng, number = np.random.default_rng(seed), len(self.data.graphs.sample_geometry)
        return np.stack([rng.permutation(number)[:batch] for _ in range(self.members)])

    def stack(self, engine: Engine, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Parameters [E, P] and buffers [E, Q] as that engine lays them out."""
        layout = engine.layout
        parameters, buffers = (
            [{name: named[_common(name)][e] for name in places} for e in range(self.members)]
            for named, places in ((self.parameters, layout.parameters), (self.buffers, layout.buffers))
        )
        return (
            torch.stack([layout.flat(p) for p in parameters]).to(dtype),
            torch.stack([layout.flat_buffers(b) for b in buffers]).to(dtype),
        )

    def step(self, engine: Engine, index: np.ndarray, dtype: torch.dtype = torch.float64) -> Outcome:
        """Take one step from the problem's weights."""
        parameters, buffers = self.stack(engine, dtype)
        gradients = torch.full_like(parameters, 7.0)
        losses = engine.step(parameters, gradients, buffers, index)
        return outcome(engine, losses, gradients, buffers)


def outcome(engine: Engine, losses: Tensor, gradients: Tensor, buffers: Tensor) -> Outcome:
    """Name a step's results; the padding must hold zeros."""
    layout = engine.layout
    used = sum(view[0].numel() for view in layout.named(gradients).values())
    assert used < layout.parameter_size and not gradients[:, used:].any(), "the padding has gradients"
    named, seen = layout.named(gradients.double()), layout.named_buffers(buffers.double())
    return Outcome(losses.double(), {_common(n): v for n, v in named.items()}, {_common(n): v for n, v in seen.items()})


def _common(name: str) -> str:
    return name.replace(".conv.conv.", ".conv.")  # the library's layer is in its own module


def agree(found: Outcome, expected: Outcome, dtype: torch.dtype = torch.float64, loose: float = 1.0) -> None:
    """Check that two outcomes agree to the rounding of ``dtype``, in float64 times ``loose``."""
    double = dtype == torch.float64
    close, near = (1e-12 * loose, 1e-10 * loose) if double else (1e-4, 5e-3)
    torch.testing.assert_close(found.losses, expected.losses, rtol=close, atol=close)
    scale = max(1.0, *(float(g.abs().max()) for g in expected.gradients.values()))
    for name, value in expected.buffers.items():
        torch.testing.assert_close(found.buffers[name], value, rtol=10 * close, atol=close, msg=_named(name))
    for name, value in expected.gradients.items():
        if double:
            torch.testing.assert_close(found.gradients[name], value, rtol=near, atol=near * scale, msg=_named(name))
        elif not (".conv." in name and name.endswith("bias")):  # before batch norm the true gradient is zero
            error = torch.linalg.vector_norm(found.gradients[name] - value)
            assert error <= near * torch.linalg.vector_norm(value), name


def _named(name: str) -> Callable[[str], str]:
    return lambda message: f"{name}: {message}"
