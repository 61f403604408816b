"""The fused kernels: every size of batch, layer and geometry that affects their tiles; Adam; what is refused."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.optimize import Adam, new_optimizer
from hydragnn_hpc.member.engine.sizes import TaskSizes
from hydragnn_hpc.member.fused.engine import FusedEngine
from hydragnn_hpc.sections import AdamOptimizer
from tests.member.contract.problem import CUTOFF, Adjacency, Problem, agree, random_neighbours, random_samples


def problem_over(adjacency: Adjacency, seed: int, number: int = 80, inputs: int = 1, **options: Any) -> Problem:
    """Random samples over one geometry, for one member unless ``options`` of `Problem` say otherwise."""
    samples = random_samples(np.random.default_rng(seed), [adjacency], number, inputs=inputs)
    return Problem(samples, **{"members": 1, **options})


def any_problem(seed: int, **options: Any) -> Problem:
    """Random samples over a random geometry of nine atoms."""
    return problem_over(random_neighbours(np.random.default_rng(seed), 9, 17), seed, **options)


def check(problem: Problem, batch: int, loose: float = 1.0) -> None:
    """Compare a step with the reference engine's, whether lanes are samples or features."""
    index = problem.index(batch)
    expected = problem.step(problem.engine(), index)
    for name in ("fused", "fused varying"):
        agree(problem.step(problem.engine(name), index), expected, loose=loose)


@pytest.mark.parametrize("batch", [*range(2, 20), 31, 32, 33, 48, 63, 64, 65, 70])
def test_every_batch_size(batch: int) -> None:
    check(any_problem(batch, channels=(6, 5)), batch)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_geometry_and_widths(data: st.DataObject) -> None:
    atoms, seed = data.draw(st.integers(1, 14), "atoms"), data.draw(st.integers(0, 10**6), "seed")
    neighbours = random_neighbours(np.random.default_rng(seed), atoms, data.draw(st.integers(0, 40), "pairs"))
    channels = tuple(data.draw(st.lists(st.integers(1, 23), min_size=1, max_size=3), "channels"))
    basis = data.draw(st.sampled_from([None, EdgeBasis(3, CUTOFF), EdgeBasis(24, CUTOFF)]), "edges")
    problem = problem_over(
        neighbours, seed, channels=channels, members=data.draw(st.integers(1, 3), "members"), edges=basis
    )
    check(problem, data.draw(st.integers(2, 40), "batch"), loose=1e3)


def test_wide_heads() -> None:
    tasks = (TaskSizes("force", "node", 3, (7,)), TaskSizes("stress", "graph", 6, (11, 5, 3), 2.0))
    rng = np.random.default_rng(3)
    samples = random_samples(rng, [random_neighbours(rng, 11, 30)], 30, tasks)
    check(Problem(samples, tasks, members=2, channels=(20, 20, 20)), 21)


def test_atoms_of_one_degree_beyond_a_strip_and_several_chunks() -> None:
    ring = np.array([[(i + s) % 40 for s in (-2, -1, 1, 2)] for i in range(40)], np.int32)
    check(problem_over((np.arange(0, 161, 4), ring.ravel()), 4, 150, channels=(5, 4)), 140)


def test_wide_inputs_into_a_narrow_layer() -> None:
    check(any_problem(43, channels=(1, 3), inputs=40), 20)


@pytest.mark.parametrize("name", ["fused", "fused varying"])
@pytest.mark.parametrize("width", [6, 9])
def test_a_prediction_has_the_same_bits_in_any_batch(name: str, width: int) -> None:
    problem = any_problem(17, channels=(width, width))
    engine, samples = problem.engine(name, torch.float32), np.arange(80)
    state = problem.stack(engine, torch.float32)
    everything = engine.predict(*state, samples)
    for some in (samples[:1], samples[20:43], samples[::-1]):
        for task, values in engine.predict(*state, some).items():
            expected = everything[task].view(80, -1, values.shape[-1])[some.copy()]
            assert torch.equal(values.view(expected.shape), expected), task


@pytest.mark.parametrize("edges", [None, EdgeBasis(3, CUTOFF)], ids=["", "lengths"])
@pytest.mark.parametrize("name", ["fused", "fused varying"])
def test_what_is_left_in_memory_has_no_effect(name: str, edges: EdgeBasis | None) -> None:
    """Memory that is full of NaN makes no result NaN, whatever the number of lanes."""
    problem = any_problem(21, channels=(6, 5), members=2, inputs=3, edges=edges)
    engine, index = problem.engine(name, torch.float32), problem.index(13)
    parameters, buffers = problem.stack(engine, torch.float32)

    def step() -> list[torch.Tensor]:
        gradients, running = torch.empty_like(parameters), buffers.clone()
        losses = engine.step(parameters, gradients, running, index)
        return [losses, gradients, running, *engine.predict(parameters, buffers, np.arange(80)).values()]

    before = step()
    engine._memory[:] = 0xFF
    assert all(torch.equal(a, b) for a, b in zip(step(), before, strict=True))


def test_not_a_number_stays_in_its_place() -> None:
    problem = any_problem(41, members=3)
    engine = problem.engine("fused", torch.float32)
    parameters, _ = problem.stack(engine, torch.float32)
    adam, gradients = new_optimizer(AdamOptimizer(name="Adam"), parameters), torch.ones_like(parameters)
    gradients[1, 3] = torch.nan
    engine.update(adam, parameters, gradients, adam.plan(1, np.full(3, 0.01))[0])
    assert parameters.isnan().nonzero().tolist() == [[1, 3]]


def test_subnormal_moments_vanish_and_the_processor_is_left_as_it_was() -> None:
    """They would persist, at a hundred cycles each."""
    if os.uname().machine != "x86_64":
        pytest.skip("subnormal numbers are flushed to zero on x86 only")
    problem = any_problem(47)
    engine = problem.engine("fused", torch.float32)
    parameters, _ = problem.stack(engine, torch.float32)
    moments = {name: torch.full_like(parameters, 1e-37) for name in ("first", "second")}
    adam = Adam(AdamOptimizer(name="Adam"), {**moments, "decay": torch.ones(1, 2, dtype=torch.float64)})
    for factors in adam.plan(60, np.array([1e-3])):
        engine.update(adam, parameters, torch.zeros_like(parameters), factors)
    assert not adam.state["first"].any()
    assert np.float32(1e-20) * np.float32(1e-20) > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"index": np.array([[80]])}, "there are 80"),
        ({"index": np.zeros((1, 0), int)}, "neither of them zero"),
        ({"parameters": lambda t: t.float()}, "parameters: float32"),
        ({"gradients": lambda t: t[:, ::2]}, "gradients: float64"),
        ({"buffers": lambda t: t[:, :-1]}, "buffers: float64"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, object], message: str) -> None:
    """The kernels would write elsewhere."""
    problem = any_problem(29)
    engine = problem.engine("fused")
    parameters, buffers = problem.stack(engine)
    given = {"parameters": parameters, "gradients": parameters.clone(), "buffers": buffers, "index": problem.index(8)}
    for name, change in changed.items():
        given[name] = change(given[name]) if callable(change) else change
    with pytest.raises(UserError, match=message):
        engine.step(**given)


def test_another_type_of_data_is_converted_and_another_engine_named_where_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = any_problem(5)
    assert FusedEngine(problem.sizes, problem.data).dtype == np.float32
    monkeypatch.setattr("hydragnn_hpc.member.fused.engine.unavailable", lambda dtype: "no C compiler")
    with pytest.raises(UserError, match="the fused engine cannot run here: no C compiler; use engine 'torch'"):
        FusedEngine(problem.sizes, problem.data)
