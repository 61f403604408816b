"""The contract of every engine: same data and same weights, same losses, gradients, statistics and predictions.

The reference is the library engine in float64: PyTorch Geometric's layers and autograd.
`tests/member/test_convolutions.py` checks that engine's gradients against finite differences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from inspect import signature
from pkgutil import walk_packages

import numpy as np
import pytest
import torch
from torch.nn import GaussianNLLLoss
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from hydragnn_hpc import member, sections
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member import choose
from hydragnn_hpc.member.engine import edges as edge_features
from hydragnn_hpc.member.engine import losses, optimize, resident
from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.interface import Engine, RepeatableEngine
from hydragnn_hpc.member.engine.optimize import new_optimizer
from hydragnn_hpc.member.engine.sizes import TaskSizes
from hydragnn_hpc.member.engine.training_data import values_of
from hydragnn_hpc.member.fused.plan import LOSSES as FUSED_LOSSES
from hydragnn_hpc.sections import Training
from tests.member.contract.problem import (
    CPU,
    CUTOFF,
    ENGINES,
    TASKS,
    Adjacency,
    Outcome,
    Problem,
    agree,
    outcome,
    random_neighbours,
    random_samples,
    with_missing,
)

Test = Callable[..., None]
BASES = {"without edges": None, "edges": EdgeBasis(5, CUTOFF)}


@pytest.fixture(params=BASES)
def edges(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every problem of a test these edge features."""
    monkeypatch.setattr(Problem, "EDGES", BASES[request.param])


def over(engines: Iterable[str], names: str, values: list[tuple], repeats: list[tuple]) -> Callable[[Test], Test]:
    """Run a test for these engines with these values of ``names``, and with ``repeats``, which only ``--long`` runs."""
    cases = [
        pytest.param(engine, *value, id="-".join(str(v).removeprefix("torch.") for v in (engine, *value)), marks=marks)
        for of_values, marks in ((values, ()), (repeats, pytest.mark.long))
        for value in of_values
        for engine in engines
    ]
    parametrized = pytest.mark.parametrize(f"name, {names}", cases, indirect=["edges"])
    return lambda test: pytest.mark.usefixtures("edges")(parametrized(test))


# Each test runs its engines in some combinations of edge features and precision; --long adds the others. Triton's
# interpreter is slow: its engine runs only the tests of what its kernels do, and tests/member/triton_engine has more.
FAST = [n for n in ENGINES if n != "triton"]
with_fast_engines = over(FAST, "edges", [("without edges",)], [("edges",)])
with_all_engines = over(ENGINES, "edges", [("without edges",)], [("edges",)])
EDGES_IN_DOUBLE = [("edges", torch.float64), ("without edges", torch.float32)]
EDGES_IN_SINGLE = [("edges", torch.float32), ("without edges", torch.float64)]
edges_in_double = over(FAST, "edges, dtype", EDGES_IN_DOUBLE, EDGES_IN_SINGLE)
edges_in_single = over(FAST, "edges, dtype", EDGES_IN_SINGLE, EDGES_IN_DOUBLE)
LEVELS = {
    "mixed": TASKS,
    "graph": TASKS[:1],
    "node": TASKS[1:],
    "one group": (*TASKS[:2], TaskSizes("D", "node", 1, (7, 5))),
}


def geometries(rng: np.random.Generator, *atoms: int) -> list[Adjacency]:
    """Random geometries with these numbers of atoms."""
    return [random_neighbours(rng, n, int(rng.integers(0, 4 * n))) for n in atoms]


def shared(seed: int = 0, atoms: int = 9, **options: object) -> Problem:
    """Three members over one geometry."""
    rng = np.random.default_rng(seed)
    return Problem(random_samples(rng, [random_neighbours(rng, atoms, 2 * atoms)], 14, **options))  # type: ignore[arg-type]


def varying(seed: int, *atoms: int) -> Problem:
    """Three members over several geometries."""
    rng = np.random.default_rng(seed)
    return Problem(random_samples(rng, geometries(rng, *atoms)))


def check(problem: Problem, name: str, index: np.ndarray, dtype: torch.dtype = torch.float64) -> Outcome:
    """Compare a step and a prediction with those of the reference engine."""
    engine, reference = problem.engine(name, dtype), problem.engine()
    found = problem.step(engine, index, dtype)
    agree(found, problem.step(reference, index), dtype)
    predicted = engine.predict(*problem.stack(engine, dtype), index[0])
    close = 1e-12 if dtype == torch.float64 else 1e-4
    for task, values in reference.predict(*problem.stack(reference), index[0]).items():
        torch.testing.assert_close(predicted[task].double(), values, rtol=close, atol=close, msg=task)
    return found


def test_with_edge_features_all_engines_read_the_same_files() -> None:
    problem = Problem(shared().data, edges=BASES["edges"])
    layouts = [problem.engine(name).layout for name in ENGINES]
    assert all((o.parameters, o.buffers) == (layouts[0].parameters, layouts[0].buffers) for o in layouts)


@edges_in_double
@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_one_geometry(name: str, dtype: torch.dtype, pooling: str) -> None:
    problem = Problem(shared().data, pooling=pooling)
    check(problem, name, problem.index(6), dtype)


@edges_in_single
@pytest.mark.parametrize(
    ("atoms", "pooling"),
    [
        ((1, 4, 12), "mean"),
        ((1, 4, 12), "sum"),
        ((1, 4, 12), "max"),
        ((5, 5, 5), "mean"),
        pytest.param((5, 5, 5), "sum", marks=pytest.mark.long),
        pytest.param((5, 5, 5), "max", marks=pytest.mark.long),
    ],
)
def test_several_geometries(name: str, dtype: torch.dtype, atoms: tuple[int, ...], pooling: str) -> None:
    problem = Problem(varying(1, *atoms).data, pooling=pooling)
    check(problem, name, problem.index(6), dtype)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("basis", edge_features.BASES)
@pytest.mark.parametrize("envelope", edge_features.ENVELOPES)
def test_any_edge_features(name: str, basis: str, envelope: str) -> None:
    samples = (shared() if name == "fused" else varying(1, 1, 4, 12)).data
    problem = Problem(samples, edges=EdgeBasis(5, CUTOFF, basis, envelope))
    check(problem, name, problem.index(6))


@with_fast_engines
@pytest.mark.parametrize("levels", LEVELS)
def test_any_tasks(name: str, levels: str) -> None:
    problem = Problem(shared(2, tasks=LEVELS[levels]).data, LEVELS[levels])
    check(problem, name, problem.index(6))


def gaussian_nll(difference: torch.Tensor, truth: torch.Tensor, noise: torch.Tensor, reduction: str) -> torch.Tensor:
    """torch's likelihood loss, with the square of the noise as its variance."""
    found: torch.Tensor = GaussianNLLLoss(reduction=reduction)(difference, truth, noise.square())
    return found


LOSSES = {
    "mse": (losses.MeanSquaredError(), mse_loss),
    "mae": (losses.MeanAbsoluteError(), l1_loss),
    "huber": (losses.Huber(0.4), partial(huber_loss, delta=0.4)),
    "nll": (losses.GaussianNll(), gaussian_nll),
}


@edges_in_single
@pytest.mark.parametrize("loss", LOSSES)
def test_losses(name: str, dtype: torch.dtype, loss: str) -> None:
    """All tasks have the same loss, and missing values; the reference engine is compared with torch's losses."""
    tasks = tuple(dataclasses.replace(t, loss=LOSSES[loss][0]) for t in TASKS)
    if name.startswith("fused") and loss not in FUSED_LOSSES:
        pytest.skip("the kernels lack this loss, so that campaigns with it use another engine (CONTRIBUTING.md)")
    problem = Problem(with_missing(shared(16).data, np.random.default_rng(17), 0.2), tasks)
    scale_noise(problem, 1.0, 1.0)
    index = problem.index(6)
    found = check(problem, name, index, dtype)
    # Predictions in evaluation mode differ from what the step compared; any values will do to compare losses.
    one = problem.engine().predict(*problem.stack(problem.engine()), index[0])
    for task in tasks:
        truth = torch.from_numpy(values_of(problem.data, task.name, index[0]))
        mean, *noise = task.loss.split(one[task.name][0])
        difference = torch.where(truth.isnan(), 0.0, mean - truth)
        expected = LOSSES[loss][1](difference, torch.zeros_like(difference), *noise, reduction="none")
        torch.testing.assert_close(task.loss.of(difference, *noise), expected)
        in_float32 = task.loss.total(difference.float(), *(n.float() for n in noise))
        torch.testing.assert_close(in_float32, expected.sum(), rtol=1e-5, atol=0.0)
    assert found.losses.shape == (3, 3)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_torchs(loss: str) -> None:
    """Both those by autograd, as in the library engine, and those by hand; also where a variance is at its bound."""
    ours, torchs = LOSSES[loss]
    difference = torch.tensor([[0.3, -0.2, 0.0], [0.5, 1e-3, -2.0]], dtype=torch.float64)
    noise = [torch.tensor([[0.4, -0.7, 1.0], [1e-5, -2e-4, 0.0]], dtype=torch.float64)] * (ours.outputs - 1)
    given = [value.clone().requires_grad_() for value in (difference, *noise)]
    expected = torch.autograd.grad(torchs(given[0], torch.zeros_like(difference), *given[1:], reduction="sum"), given)
    torch.testing.assert_close(torch.autograd.grad(ours.of(*given).sum(), given), expected)
    torch.testing.assert_close(ours.gradient(difference, *noise), torch.stack(expected, 1))


def scale_noise(problem: Problem, factor: float, shift: float) -> None:
    """Change the noise that heads give; float32 has few digits of a likelihood where it is nearly zero."""
    for task in problem.sizes.tasks:
        for kind in ("weight", "bias"):
            last = problem.parameters[f"heads.{task.name}.{len(task.hidden)}.{kind}"][:, task.width :]
            last.mul_(factor).add_(shift if kind == "bias" else 0.0)


@with_fast_engines
def test_the_likelihood_of_tiny_noise(name: str) -> None:
    """Variances at their bound, 1e-6."""
    tasks = tuple(dataclasses.replace(t, loss=losses.GaussianNll()) for t in TASKS)
    problem = Problem(shared(24).data, tasks)
    scale_noise(problem, 1e-4, 0.0)
    check(problem, name, problem.index(6))


def test_the_likelihood_by_hand() -> None:
    loss = losses.GaussianNll()
    mean, noise = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -2.0])
    by_hand = torch.tensor([(np.log(0.25) + 0.09 / 0.25) / 2, (np.log(4) + 1 / 4) / 2], dtype=torch.float32)
    torch.testing.assert_close(loss.of(mean - torch.tensor([0.7, 3.0]), noise), by_hand)
    parts = losses.mean_and_noise(np.array([[1.0, 2.0, -0.5, 1e-9]]), 2)
    assert parts[0].tolist() == [[1, 2]] and parts[1] is not None and parts[1].tolist() == [[0.5, 1e-3]]
    assert losses.mean_and_noise(np.ones((1, 2)), 2)[1] is None


@with_fast_engines
def test_one_loss_for_each_task(name: str) -> None:
    of_each = zip(LEVELS["one group"] * 2, ("mse", "mae", "huber", "nll", "nll", "nll"), strict=True)
    tasks = tuple(dataclasses.replace(t, name=t.name + k, loss=LOSSES[k][0]) for t, k in of_each)
    problem = Problem(shared(18, tasks=tasks).data, tasks)
    check(problem, name, problem.index(6))


def test_every_loss_is_tested() -> None:
    """A campaign file can name them all; the kernels may lack some."""
    assert {*LOSSES} == {*losses.LOSSES} == {*sections.LOSSES} >= {*FUSED_LOSSES}


def test_a_loss_that_the_kernels_lack_is_trained_by_another_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = (TASKS[0], dataclasses.replace(TASKS[1], loss=losses.Huber(0.5)))
    sizes = Problem(shared(16).data, tasks).sizes
    assert choose.why_not_fused(sections.Model(), sizes, CPU) == ""
    monkeypatch.setattr(choose, "LOSSES", ("mse", "mae"))
    assert choose.why_not_fused(sections.Model(), sizes, CPU) == "task 'C' has the loss huber"


def test_every_engine_is_tested() -> None:
    """An engine is a class with all methods of the interface."""
    methods = [name for name, value in vars(Engine).items() if callable(value) and not name.startswith("_")]
    assert methods == ["step", "update", "predict"]
    classes = set()
    for module in walk_packages(member.__path__, f"{member.__name__}."):
        try:
            values = vars(import_module(module.name)).values()
        except ModuleNotFoundError as error:
            assert error.name == "triton"  # its engine is not in ENGINES either
            continue
        found = {value for value in values if isinstance(value, type) and all(hasattr(value, m) for m in methods)}
        classes |= found - {Engine, RepeatableEngine}
    assert classes == {type(shared().engine(name)) for name in ENGINES}


OPTIMIZERS = {
    "Adam": (torch.optim.Adam, {}),
    "Adam with decay": (torch.optim.Adam, {"weight_decay": 0.02}),
    "AdamW": (torch.optim.AdamW, {}),
    "SGD": (torch.optim.SGD, {"momentum": 0.9}),
    "SGD with decay": (torch.optim.SGD, {"momentum": 0.5, "weight_decay": 0.02}),
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *((kind, torch.float64) for kind in OPTIMIZERS),
        ("Adam", torch.float32),
        *(pytest.param(kind, torch.float32, marks=pytest.mark.long) for kind in OPTIMIZERS if kind != "Adam"),
    ],
)
def test_optimizers_are_torchs(name: str, dtype: torch.dtype, kind: str) -> None:
    """Thirty steps; a member leaves on the way, and the others change places."""
    torchs, options = OPTIMIZERS[kind]
    name_in_file = kind.split(maxsplit=1)[0]
    section = sections.OPTIMIZERS[name_in_file](name=name_in_file, learning_rate=0.01, **options)
    problem = shared(19)
    engine = problem.engine(name, dtype)
    parameters = problem.stack(engine, dtype)[0]
    expected = parameters.clone()
    reference = torchs([expected], lr=0.01, **options)
    optimizer = new_optimizer(section, parameters)
    generator = torch.Generator().manual_seed(20)
    for step in range(30):
        gradients = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(dtype)
        expected.grad = gradients.clone()
        reference.step()
        if step == 10:
            optimizer = optimizer.select(torch.tensor([0, 1, 2])).select(torch.tensor([2, 0]))
            parameters = parameters[[2, 0]].clone()
        kept = gradients if step < 10 else gradients[[2, 0]]
        engine.update(optimizer, parameters, kept, optimizer.plan(1, np.full(len(parameters), 0.01))[0])
    close = 1e-12 if dtype == torch.float64 else 3e-6
    torch.testing.assert_close(parameters, expected[[2, 0]], rtol=close, atol=close)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_weight_decay_is_torchs_by_default(name: str) -> None:
    section = Training.model_validate({"optimizer": {"name": name}}).optimizer
    assert section.weight_decay == signature(getattr(torch.optim, name)).parameters["weight_decay"].default


def test_every_optimizer_is_tested() -> None:
    assert {kind.split()[0] for kind in OPTIMIZERS} == {*optimize.OPTIMIZERS} == {*sections.OPTIMIZERS}


@with_fast_engines
def test_wider_inputs_and_one_layer(name: str) -> None:
    """All layers have the same width, which is all that a campaign can ask for."""
    problem = Problem(shared(3, inputs=5).data, channels=(4, 4))
    check(problem, name, problem.index(6))
    problem = Problem(shared(4).data, channels=(3,))
    check(problem, name, problem.index(6))


@over(ENGINES, "edges, pairs", [("edges", 0), ("without edges", 4)], [("edges", 4), ("without edges", 0)])
def test_isolated_atoms(name: str, pairs: int) -> None:
    rng = np.random.default_rng(5)
    problem = Problem(random_samples(rng, [random_neighbours(rng, 6, pairs)]))
    assert problem.data.graphs.degrees().min() == 0
    check(problem, name, problem.index(6))


@over(ENGINES, "edges, loops", [("edges", 2), ("without edges", 0)], [("edges", 0), ("without edges", 2)])
def test_samples_of_one_atom(name: str, loops: int) -> None:
    rng = np.random.default_rng(6)
    problem = Problem(random_samples(rng, [random_neighbours(rng, 1, loops)]))
    check(problem, name, problem.index(5))
    engine = problem.engine(name)
    parameters, buffers = problem.stack(engine)
    with pytest.raises(UserError, match="a batch of one sample of one atom has no batch statistics"):
        engine.step(parameters, torch.zeros_like(parameters), buffers, problem.index(1))
    assert engine.predict(parameters, buffers, np.array([3]))["V"].shape == (3, 1, 3)


@edges_in_double
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_missing_targets_do_not_count(name: str, dtype: torch.dtype, share: float) -> None:
    """The mean is over the known values of a batch; where there are none, the loss and its gradient are zero."""
    problem = Problem(with_missing(shared(7).data, np.random.default_rng(8), share))
    found = check(problem, name, problem.index(6), dtype)
    if share == 1.0:
        assert not found.losses.any()
        assert not any(gradient.any() for gradient in found.gradients.values())


@with_all_engines
def test_equal_neighbours(name: str) -> None:
    """Inputs of species alone: minimum and maximum meet many equal neighbours, and deviations vanish."""
    problem = shared(9, atoms=8, spread=0.0)
    check(problem, name, problem.index(8))


@with_all_engines
def test_ties_between_neighbours_that_differ(name: str) -> None:
    """The message's weights are zero, so that all neighbours tie whatever they are (see `Engine`)."""
    lists = np.array([0, 2, 3, 4]), np.array([1, 2, 0, 0], np.int32)  # atom 0 has two neighbours, the others one
    found = []
    for neighbours in (lists[1], lists[1][[1, 0, 2, 3]]):
        problem = Problem(random_samples(np.random.default_rng(10), [(lists[0], neighbours)]), TASKS[:2])
        for layer in range(3):
            weight = problem.parameters[f"trunk.{layer}.conv.pre_nns.0.0.weight"]
            weight[..., weight.shape[-2] :] = 0
        found.append(problem.step(problem.engine(name), problem.index(6)))
        expected = problem.step(problem.engine(), problem.index(6))
    mean = {n: (found[0].gradients[n] + found[1].gradients[n]) / 2 for n in found[0].gradients}
    agree(Outcome(found[0].losses, mean, found[0].buffers), expected)
    weight = "trunk.1.conv.pre_nns.0.0.weight"
    same = torch.allclose(found[0].gradients[weight], found[1].gradients[weight], rtol=1e-9)
    assert same == (not name.startswith("fused")), "the first neighbour takes the gradient in the fused engine alone"


@over(ENGINES, "edges", [("edges",)], [("without edges",)])
def test_batches_of_other_sizes_and_a_stack_that_shrinks(name: str) -> None:
    """One engine, shape after shape: the last, smaller batch of an epoch, and members that leave."""
    problem = Problem(shared(11, atoms=4).data, channels=(6, 6))
    engine, reference = problem.engine(name), problem.engine()
    parameters, buffers = problem.stack(engine)
    true_parameters, true_buffers = problem.stack(reference)
    for number, batch in enumerate((6, 2, 6, 9)):
        if number == 3:
            parameters, buffers, true_parameters, true_buffers = (
                t[1:].clone() for t in (parameters, buffers, true_parameters, true_buffers)
            )
        index = problem.index(batch, number)[: len(parameters)]
        gradients, true_gradients = torch.zeros_like(parameters), torch.zeros_like(true_parameters)
        losses = engine.step(parameters, gradients, buffers, index)
        true_losses = reference.step(true_parameters, true_gradients, true_buffers, index)
        agree(
            outcome(engine, losses, gradients, buffers),
            outcome(reference, true_losses, true_gradients, true_buffers),
            loose=1e3,
        )
        parameters, true_parameters = parameters - 0.01 * gradients, true_parameters - 0.01 * true_gradients
        engine.predict(parameters, buffers, problem.index(14)[0])


@edges_in_single
@pytest.mark.parametrize("atoms", [(9,), (1, 4, 12)], ids=["one geometry", "several"])
def test_a_member_does_not_depend_on_its_stack(name: str, dtype: torch.dtype, atoms: tuple[int, ...]) -> None:
    """Bit for bit, alone and in any place; on accelerators, where members go together, to rounding."""
    problem = varying(12, *atoms)
    engine, index = problem.engine(name, dtype), problem.index(8)
    parameters, buffers = problem.stack(engine, dtype)
    gradients, seen = torch.empty_like(parameters), buffers.clone()
    losses = engine.step(parameters, gradients, seen, index)
    predicted = engine.predict(parameters, buffers, index[0])
    close = {"rtol": 1e-3, "atol": 1e-4} if name == "torch together" else {"rtol": 0, "atol": 0}
    for places in ([1], [2, 0], [2, 1, 0], [1, 1, 1]):
        own, own_seen = torch.full_like(parameters[places], 7.0), buffers[places]
        again = engine.step(parameters[places], own, own_seen, index[places])
        values = engine.predict(parameters[places], buffers[places], index[0])
        torch.testing.assert_close(again, losses[places], **close)
        torch.testing.assert_close(own, gradients[places], **close)
        torch.testing.assert_close(own_seen, seen[places], **close)
        for task, value in values.items():
            torch.testing.assert_close(value, predicted[task][places], **close)


@over(FAST, "edges, at_once", [("edges", 20), ("without edges", 4096)], [("edges", 4096), ("without edges", 20)])
def test_a_prediction_does_not_depend_on_its_batch(name: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "ATOMS_PREDICTED_ON_CPU", at_once)
    problem = shared(13)
    engine, index = problem.engine(name), problem.index(14)[0]
    state = problem.stack(engine)
    together, alone = engine.predict(*state, index), [engine.predict(*state, index[k : k + 1]) for k in range(14)]
    for task, values in together.items():
        torch.testing.assert_close(torch.cat([a[task] for a in alone], 1), values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("atoms", [(9,), (1, 4, 12)], ids=["one geometry", "several"])
def test_no_samples_have_no_predictions(name: str, atoms: tuple[int, ...]) -> None:
    problem = varying(26, *atoms)
    engine = problem.engine(name, torch.float32)
    predicted = engine.predict(*problem.stack(engine, torch.float32), np.arange(0))
    for task in TASKS:
        assert predicted[task.name].shape == (3, 0, task.width) and predicted[task.name].dtype == torch.float32


@with_all_engines
def test_not_a_number_shows_in_its_members_losses_alone(name: str) -> None:
    """A diverged member must be noticed: ReLU and minimum do not swallow it."""
    problem = shared(14)
    engine = problem.engine(name, torch.float32)
    parameters, buffers = problem.stack(engine, torch.float32)
    parameters[1, 0] = torch.nan
    losses = engine.step(parameters, torch.empty_like(parameters), buffers, problem.index(8))
    assert losses[[0, 2]].isfinite().all() and losses[1].isnan().all()


def test_the_comparison_detects_wrong_weights() -> None:
    """The weight of a task in the loss changes the gradients, and nothing else."""
    problem = shared(15)
    doubled = tuple(dataclasses.replace(t, weight=2 * t.weight) for t in TASKS)
    found, expected = (p.step(p.engine(), p.index(6)) for p in (Problem(problem.data, doubled), problem))
    torch.testing.assert_close(found.losses, expected.losses)
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(found.gradients[name], 2 * gradient)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        agree(found, expected)
