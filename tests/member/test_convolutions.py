"""The contract of every convolution: one suite over all of them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch_geometric.nn.models.dimenet import BesselBasisLayer
from torch_geometric.nn.models.schnet import GaussianSmearing

from hydragnn_hpc.campaign_file import parse_campaign
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.convolutions import CONVOLUTIONS, why_not
from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.choose import choose
from hydragnn_hpc.member.engine.edges import BASES, ENVELOPES, EdgeBasis
from hydragnn_hpc.member.engine.sizes import POOLINGS, NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.library import shared
from hydragnn_hpc.member.library.engine import LibraryEngine
from hydragnn_hpc.sections import Edges, Model
from tests.member.contract.problem import CPU, CUTOFF, random_neighbours, random_samples, with_missing

TASKS = {"H": ("graph", 1), "C": ("node", 1), "V": ("node", 3)}
TASK_SIZES = tuple(TaskSizes(t, *of, (7, 5), 1.0 + k) for k, (t, of) in enumerate(TASKS.items()))
EVERY = [(name, edges) for name in CONVOLUTIONS for edges in (False, True) if not why_not(name, edges)]
ROTATION = np.linalg.qr(np.random.default_rng(11).normal(size=(3, 3)))[0]
every = pytest.mark.parametrize(("name", "edges"), EVERY, ids=[f"{n}{'+edges' if e else ''}" for n, e in EVERY])

# Every convolution with both ways of summing over neighbours, each with one pooling; --long adds the other poolings.
OVER_ONE_GEOMETRY = [
    pytest.param(
        name, edges, pooling, filled,
        id=f"{name}{'+edges' if edges else ''}-{pooling}-{way}",
        marks=() if pooling == POOLINGS[(number + way_number) % 3] else pytest.mark.long,
    )
    for number, (name, edges) in enumerate(EVERY)
    for way_number, (way, filled) in enumerate({"all pairs of sites": 0.0, "gathered": 2.0}.items())
    for pooling in POOLINGS
]  # fmt: skip


def small_samples(seed: int, sizes: list[int]) -> TrainingData:
    """Twelve random graphs, isolated atoms and repeated edges among them, with real-valued inputs."""
    rng = np.random.default_rng(seed)
    geometries = [random_neighbours(rng, n, int(rng.integers(0, 4 * n))) for n in sizes]
    return random_samples(rng, geometries, 12, TASK_SIZES, spread=1.0)


def make_engine(
    name: str, edges: bool, samples: TrainingData, pooling: str = "mean", shared: bool | None = None
) -> LibraryEngine:
    """A small network in float64."""
    basis = EdgeBasis(5, CUTOFF) if edges else None
    sizes = NetworkSizes(1, (6, 6), TASK_SIZES, samples.average_degree(), pooling, edges=basis)
    return LibraryEngine(sizes, name, samples, CPU, torch.float64, shared=shared)


def stack(engine: LibraryEngine, members: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Initial parameters and buffers of a stack, with other running statistics for each member."""
    parameters = torch.stack([engine.layout.initial_parameters(5 + e) for e in range(members)]).double()
    for name, value in engine.layout.named(parameters).items():
        if name.endswith(".eps"):  # initially 0: atoms that are each other's only neighbours would tie in a maximum
            value.fill_(0.1)
    buffers = torch.stack([engine.layout.initial_buffers()] * members).double()
    return parameters, buffers + 0.1 * torch.arange(members)[:, None]


def renumbered(samples: TrainingData, order: np.ndarray) -> TrainingData:
    """The same samples over one geometry with its atoms in another order: new atom k was ``order[k]``."""
    s = samples.graphs
    number = np.argsort(order)
    degrees = s.degrees()
    where = atoms_of(s.neighbour_offsets, order)
    offsets = np.concatenate([[0], np.cumsum(degrees[order])])
    graphs = dataclasses.replace(
        s,
        neighbour_offsets=offsets,
        neighbours=number[s.neighbours[where]].astype(np.int32),
        edge_vectors=s.edge_vectors[where],
    )
    rows = (np.arange(len(s.sample_geometry))[:, None] * len(order) + order).ravel()
    targets = {t: v[rows] if samples.levels[t] == "node" else v for t, v in samples.targets.items()}
    return dataclasses.replace(samples, graphs=graphs, inputs=samples.inputs[rows], targets=targets)


@every
def test_the_order_of_atoms_does_not_matter(name: str, edges: bool) -> None:
    samples = small_samples(1, [9])
    order = np.random.default_rng(2).permutation(9)
    engine, other = (make_engine(name, edges, s) for s in (samples, renumbered(samples, order)))
    parameters, buffers = stack(engine, 1)
    index = np.arange(12)
    found, again = (e.predict(parameters, buffers, index) for e in (engine, other))
    torch.testing.assert_close(again["H"], found["H"])
    for task in ("C", "V"):
        by_sample = found[task].view(1, 12, 9, -1)
        torch.testing.assert_close(again[task].view(1, 12, 9, -1), by_sample[:, :, order])


@every
def test_a_sample_alone_is_the_sample_in_a_batch(name: str, edges: bool) -> None:
    samples = small_samples(3, [1, 4, 9])
    engine = make_engine(name, edges, samples, "sum")
    parameters, buffers = stack(engine, 2)
    index = np.random.default_rng(4).permutation(12)
    together = engine.predict(parameters, buffers, index)
    alone = [engine.predict(parameters, buffers, index[k : k + 1]) for k in range(12)]
    for task in TASKS:
        torch.testing.assert_close(torch.cat([a[task] for a in alone], 1), together[task])


@every
def test_gradients_are_the_slopes_of_the_loss(name: str, edges: bool) -> None:
    samples = small_samples(5, [4, 7])
    engine = make_engine(name, edges, samples)
    parameters, buffers = stack(engine, 1)
    index = np.arange(6)[None]
    gradients = torch.full_like(parameters, 7.0)
    engine.step(parameters, gradients, buffers.clone(), index)
    weights = torch.tensor([t.weight for t in engine.sizes.tasks], dtype=torch.float64)

    def loss(at: torch.Tensor) -> float:
        return float(engine.step(at, torch.empty_like(at), buffers.clone(), index)[0] @ weights)

    generator = torch.Generator().manual_seed(6)
    for _ in range(5):
        along = torch.randn(parameters.shape, generator=generator, dtype=torch.float64)
        along[:, -len(engine._padding) :] = 0
        h = 1e-6
        slope = (loss(parameters + h * along) - loss(parameters - h * along)) / (2 * h)
        # Five directions, so that a kink (ReLU, minimum) within one step of h is not met in all.
        if slope == pytest.approx(float((gradients * along).sum()), rel=1e-4, abs=1e-7):
            break
    else:
        pytest.fail("the gradient is not the slope in any of five directions")
    assert not gradients[:, -len(engine._padding) :].any()


@every
def test_a_member_is_the_same_in_a_stack_and_alone(name: str, edges: bool) -> None:
    samples = small_samples(7, [5, 8])
    engine = make_engine(name, edges, samples)
    parameters, buffers = stack(engine, 3)
    index = np.stack([np.random.default_rng(e).permutation(12)[:6] for e in range(3)])
    gradients, seen = torch.zeros_like(parameters), buffers.clone()
    losses = engine.step(parameters, gradients, seen, index)
    for e in range(3):
        own, own_seen = torch.zeros_like(parameters[:1]), buffers[e : e + 1].clone()
        alone = engine.step(parameters[e : e + 1], own, own_seen, index[e : e + 1])
        assert torch.equal(alone[0], losses[e])
        assert torch.equal(own[0], gradients[e])
        assert torch.equal(own_seen[0], seen[e])


@pytest.mark.parametrize(("name", "edges", "pooling", "filled"), OVER_ONE_GEOMETRY)
def test_over_one_geometry_it_is_pytorch_geometrics_layer(
    name: str, edges: bool, pooling: str, filled: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edges repeat or do not, atoms are isolated, or have more neighbours than MFC has weights for."""
    monkeypatch.setattr(shared, "FILLED", filled)
    rng = np.random.default_rng(20)
    many = random_neighbours(rng, 3, 60)
    once = np.array([0, 2, 3, 4, 4]), np.array([1, 2, 0, 0], np.int32)
    for lists in (many, once, random_neighbours(rng, 12, 9)):
        samples = random_samples(rng, [lists], 12, TASK_SIZES, spread=1.0)
        index = np.stack([rng.permutation(12)[:7] for _ in range(2)])
        found = []
        for fast in (True, False):
            engine = make_engine(name, edges, samples, pooling, shared=fast)
            parameters, buffers = stack(engine, 2)
            gradients, seen = torch.full_like(parameters, 7.0), buffers.clone()
            losses = engine.step(parameters, gradients, seen, index)
            predicted = engine.predict(parameters, buffers, index[0])
            found.append({"losses": losses, "gradients": gradients, "seen": seen, **predicted})
        for key, expected in found[1].items():
            # To 1e-8: PyTorch's softplus is the identity from 20 on.
            torch.testing.assert_close(found[0][key], expected, rtol=1e-8, atol=1e-8, msg=key)


@every
def test_training_changes_nothing_but_what_is_saved(name: str, edges: bool) -> None:
    engine = make_engine(name, edges, small_samples(7, [5, 8]))
    parameters, buffers = stack(engine, 1)
    before = {n: b.clone() for n, b in engine._network.named_buffers()}
    engine.step(parameters, torch.zeros_like(parameters), buffers, np.arange(6)[None])
    for buffer, value in engine._network.named_buffers():
        assert ".norm.running_" in buffer or torch.equal(value, before[buffer])


@every
def test_weights_are_restored_from_a_file(name: str, edges: bool, tmp_path: Path) -> None:
    samples = small_samples(8, [5, 8])
    engine = make_engine(name, edges, samples)
    parameters, buffers = stack(engine, 1)
    named = {**engine.layout.named(parameters[0]), **engine.layout.named_buffers(buffers[0])}
    torch.save({n: v.clone() for n, v in named.items()}, tmp_path / "weights.pt")
    loaded = torch.load(tmp_path / "weights.pt", weights_only=True)
    other = make_engine(name, edges, samples)
    again = other.layout.flat(loaded)[None], other.layout.flat_buffers(loaded)[None]
    for task, values in engine.predict(parameters, buffers, np.arange(12)).items():
        assert torch.equal(other.predict(*again, np.arange(12))[task], values)


@every
def test_seeds_give_weights_of_their_own(name: str, edges: bool) -> None:
    layout = make_engine(name, edges, small_samples(9, [5])).layout
    state = torch.get_rng_state()
    one, again, other = (layout.initial_parameters(seed) for seed in (2**62 + 1, 2**62 + 1, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, again)
    for task in TASKS:
        assert not torch.equal(
            layout.named(one)[f"heads.{task}.0.weight"], layout.named(other)[f"heads.{task}.0.weight"]
        )


@pytest.mark.parametrize("name", [n for n, e in EVERY if e])
def test_edge_features_depend_on_lengths_alone(name: str) -> None:
    samples = small_samples(16, [9])
    engine = make_engine(name, True, samples)
    parameters, buffers = stack(engine, 3)  # GIN's first weights may leave every ReLU at 0

    def predicted(vectors: np.ndarray) -> torch.Tensor:
        changed = dataclasses.replace(samples, graphs=dataclasses.replace(samples.graphs, edge_vectors=vectors))
        return make_engine(name, True, changed).predict(parameters, buffers, np.arange(12))["C"]

    vectors = samples.graphs.edge_vectors
    torch.testing.assert_close(predicted(vectors @ ROTATION), predicted(vectors))
    assert not torch.allclose(predicted(0.9 * vectors), predicted(vectors))


def test_gaussians_are_those_of_pytorch_geometric() -> None:
    for dtype in (torch.float32, torch.float64):
        lengths = torch.linspace(0.3, 9.0, 1000, dtype=dtype)
        smearing = GaussianSmearing(0.0, CUTOFF, 20).to(dtype)
        assert torch.equal(EdgeBasis(20, CUTOFF).of(lengths), smearing(lengths))


def test_bessel_functions_are_those_of_pytorch_geometric() -> None:
    """PyTorch Geometric's layer, of DimeNet, includes 1 / x in the envelope: 1 / x + a x^5 + b x^6 + c x^7."""
    layer = BesselBasisLayer(7, CUTOFF, envelope_exponent=5).double()
    lengths = torch.linspace(0.3, CUTOFF, 500, dtype=torch.float64)
    found = EdgeBasis(7, CUTOFF, "bessel", "polynomial").of(lengths)
    torch.testing.assert_close(found, layer(lengths).detach(), rtol=1e-5, atol=1e-5)  # its frequencies are float32
    x = lengths[:, None] / CUTOFF
    plain = torch.sin(torch.pi * torch.arange(1, 8).double() * x) / x
    torch.testing.assert_close(EdgeBasis(7, CUTOFF, "bessel").of(lengths), plain)


@pytest.mark.parametrize("basis", BASES)
def test_features_under_an_envelope_vanish_smoothly_at_the_cutoff(basis: str) -> None:
    lengths = torch.tensor([CUTOFF, CUTOFF + 0.5], dtype=torch.float64, requires_grad=True)
    features = EdgeBasis(5, CUTOFF, basis, "polynomial").of(lengths)
    slope = torch.autograd.grad(features.square().sum() + features.sum(), lengths)[0]
    assert features.abs().max() < 1e-12 and slope.abs().max() < 1e-12
    just = EdgeBasis(5, CUTOFF, basis, "polynomial").of(torch.tensor([0.999 * CUTOFF], dtype=torch.float64))
    assert 0 < just.abs().max() < 1e-6


def test_a_campaign_can_name_every_basis_envelope_and_pooling() -> None:
    assert get_args(Model.model_fields["pooling"].annotation) == POOLINGS
    kinds = Edges.model_fields
    assert {*BASES} == {*get_args(kinds["basis"].annotation)}
    assert {*ENVELOPES} == {*get_args(kinds["envelope"].annotation)}
    asked = campaign(edges={"basis": "bessel", "envelope": "polynomial"})
    engine = choose(asked, asked.variants[0], small_samples(14, [5]), CPU)[0]
    assert engine.sizes.edges == EdgeBasis(20, CUTOFF, "bessel", "polynomial")


def rotated(samples: TrainingData, by: np.ndarray) -> TrainingData:
    """The same samples with their structures rotated (or mirrored)."""
    s = samples.graphs
    return dataclasses.replace(samples, graphs=dataclasses.replace(s, edge_vectors=s.edge_vectors @ by.T))


@pytest.mark.parametrize("name", [n for n, c in CONVOLUTIONS.items() if c.equivariant])
@pytest.mark.parametrize("by", [ROTATION, -np.eye(3)], ids=["rotated", "inverted"])
def test_vectors_rotate_with_the_structure_and_scalars_do_not(name: str, by: np.ndarray) -> None:
    """Targets are vectors and pairs of vectors, per atom and per sample, with a scale for each component."""
    rng = np.random.default_rng(17)
    samples = small_samples(16, [4, 9])
    widths = {"force": ("node", 3), "pair": ("node", 6), "dipole": ("graph", 3), "C": ("node", 1)}
    limits = {t: np.sort(rng.normal(size=(w, 2))) for t, (_, w) in widths.items() if w > 1}
    tasks = tuple(
        TaskSizes(t, level, w, (7,), limits=tuple(map(tuple, limits[t].tolist())) if w > 1 else ())
        for t, (level, w) in widths.items()
    )
    rows = {"node": len(samples.inputs), "graph": 12}
    targets = {t: rng.normal(size=(rows[level], w)) for t, (level, w) in widths.items()}
    samples = dataclasses.replace(samples, targets=targets, levels={t: level for t, (level, _) in widths.items()})

    def predicted(data: TrainingData) -> dict[str, np.ndarray]:
        sizes = NetworkSizes(1, (6, 6), tasks, data.average_degree(), edges=EdgeBasis(5, CUTOFF))
        engine = LibraryEngine(sizes, name, data, CPU, torch.float64)
        found = engine.predict(*stack(engine, 1), np.arange(12))
        units = {t: limits[t][:, 0] + found[t][0].numpy() * np.diff(limits[t])[:, 0] for t in limits}
        return {t: v.reshape(len(v), -1, 3) for t, v in units.items()} | {"C": found["C"][0].numpy()}

    before, after = predicted(samples), predicted(rotated(samples, by))
    for task in limits:
        assert np.abs(before[task]).max() > 1e-3
        np.testing.assert_allclose(after[task], before[task] @ by.T, atol=1e-7, err_msg=task)
    np.testing.assert_allclose(after["C"], before["C"], atol=1e-9)


def test_a_neighbour_of_an_equivariant_convolution_fades_out_at_the_cutoff() -> None:
    samples = small_samples(18, [5])
    s = samples.graphs
    norms = np.linalg.norm(s.edge_vectors, axis=1, keepdims=True)
    far = dataclasses.replace(s, edge_vectors=s.edge_vectors / norms * (1 - 1e-7) * CUTOFF)
    none = {
        "neighbour_offsets": 0 * s.neighbour_offsets,
        "neighbours": s.neighbours[:0],
        "edge_vectors": norms[:0, [0] * 3],
    }
    values = []
    for graphs in (far, dataclasses.replace(s, **none), s):
        engine = make_engine("PaiNN", True, dataclasses.replace(samples, graphs=graphs))
        values.append(engine.predict(*stack(engine, 1), np.arange(12))["C"])
    torch.testing.assert_close(values[0], values[1])
    assert not torch.allclose(values[2], values[1], atol=1e-3)


def test_no_generated_source_is_left_in_the_temporary_folder() -> None:
    for name, edges in EVERY:
        make_engine(name, edges, small_samples(15, [5]))
    left = [m for n, m in sys.modules.items() if n.startswith("torch_geometric.") and n.endswith("_propagate")]
    assert left and not any(Path(str(m.__file__)).exists() for m in left)


def campaign(**model: object) -> Campaign:
    """A campaign of one variant with all of `TASKS`, and this section ``model``."""
    content = {
        "name": "c",
        "dataset": "d.bp",
        "tasks": {t: {"level": level, "field": t} for t, (level, _) in TASKS.items()},
        "variants": ["HCV"],
        "model": model,
    }
    return parse_campaign(content, "c.yaml")


def test_the_engine_follows_from_the_campaign() -> None:
    partial = with_missing(small_samples(14, [5]), np.random.default_rng(15), 0.3)
    for samples in (small_samples(14, [5]), small_samples(14, [5, 7]), partial):
        for model, engine in (
            ({"convolution": "SAGE"}, "library"),
            ({"convolution": "GIN", "edges": {"number": 8}}, "library"),
            ({"edges": {"number": 8}}, "fused"),
            ({}, "fused"),
        ):
            asked = campaign(**model)
            assert choose(asked, asked.variants[0], samples, CPU)[0].name == engine
    asked = campaign(convolution="GIN")
    asked = asked.model_copy(update={"training": asked.training.model_copy(update={"engine": "fused"})})
    with pytest.raises(UserError, match="fused cannot be used: GIN, on PyTorch Geometric's layers; set"):
        choose(asked, asked.variants[0], samples, CPU)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"convolution": "PAN"}, "unknown convolution 'PAN'; did you mean 'PNA'"),
        ({"convolution": "SAGE", "edges": {"number": 8}}, "SAGE does not use edge features; leave model.edges out"),
        ({"convolution": "SchNet"}, "SchNet requires edge features; add model.edges"),
        ({"edges": {"number": 1}}, "model.edges.number"),
        ({"edges": {"basis": "bessels"}}, "model.edges.basis"),
        ({"edges": {"gaussians": 1}}, "unknown key 'model.edges.gaussians'"),
    ],
)
def test_what_cannot_be_built_is_refused(model: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        campaign(**model)
