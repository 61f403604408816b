"""The fused engine against PyTorch Geometric's PNAConv in float64: losses, gradients, statistics, predictions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.sizes import Geometry, TaskSizes
from tests.member.fused.reference import MIXED, Problem, network, random_geometry

VECTOR = (TaskSizes("force", "node", 3, (7,)), TaskSizes("stress", "graph", 6, (11, 5, 3), 2.0))


def check(problem: Problem, index: np.ndarray, forward: float = 1e-12, backward: float = 1e-10) -> None:
    """Losses, gradients, running statistics and predictions agree with the reference."""
    predicted, expected = (
        problem.engine.predict(problem.parameters, problem.buffers, index),
        problem.reference_predict(index),
    )
    for name, values in expected.items():
        np.testing.assert_allclose(predicted[name], values, rtol=forward, atol=forward, err_msg=name)
    losses = problem.step(index)
    true_losses, true_gradients, true_buffers = problem.reference_step(index)
    np.testing.assert_allclose(losses, true_losses, rtol=forward)
    np.testing.assert_allclose(problem.buffers, true_buffers, rtol=forward, atol=forward)
    for name, (offset, shape) in problem.table.parameters.items():
        part = slice(offset, offset + int(np.prod(shape)))
        scale = max(1.0, float(np.abs(true_gradients).max()))
        np.testing.assert_allclose(
            problem.gradients[:, part], true_gradients[:, part], rtol=backward, atol=backward * scale, err_msg=name
        )
    used = sum(int(np.prod(shape)) for _, shape in problem.table.parameters.values())
    assert not problem.gradients[:, used:].any()


@pytest.mark.parametrize("batch", [*range(2, 20), 31, 32, 33, 48, 63, 64, 65, 70])
def test_every_batch_size_agrees_with_the_reference(batch: int) -> None:
    rng = np.random.default_rng(batch)
    problem = Problem(network((6, 5)), random_geometry(rng, 9, 17), seed=batch)
    check(problem, problem.random_index(batch))


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
@pytest.mark.parametrize("tasks", [MIXED, MIXED[:1], MIXED[1:], VECTOR], ids=["mixed", "graph", "node", "vector"])
def test_tasks_and_poolings_agree_with_the_reference(pooling: str, tasks: tuple[TaskSizes, ...]) -> None:
    geometry = random_geometry(np.random.default_rng(3), 11, 30)
    problem = Problem(network((20, 20, 20), tasks, pooling=pooling), geometry, members=2)
    check(problem, problem.random_index(21))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_geometry_and_widths_agree_with_the_reference(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 14), "atoms")
    seed = data.draw(st.integers(0, 10**6), "seed")
    geometry = random_geometry(np.random.default_rng(seed), n, data.draw(st.integers(0, 40), "pairs"))
    channels = data.draw(st.lists(st.integers(1, 23), min_size=1, max_size=3), "channels")
    problem = Problem(network(channels), geometry, members=data.draw(st.integers(1, 3), "members"), seed=seed)
    check(problem, problem.random_index(data.draw(st.integers(2, 40), "batch")), 1e-9, 1e-7)


def test_equal_inputs_tie_everywhere_and_still_agree() -> None:
    """Species alone as input: minimum and maximum meet many equal neighbours, and deviations vanish."""
    geometry = random_geometry(np.random.default_rng(5), 8, 20)
    problem = Problem(network((8,)), geometry, spread=0.0)
    check(problem, problem.random_index(30))


def test_atoms_of_one_degree_beyond_a_strip_and_several_chunks_agree() -> None:
    ring = np.array([[(i + s) % 40 for s in (-2, -1, 1, 2)] for i in range(40)])
    problem = Problem(network((5, 4)), Geometry(np.arange(0, 161, 4), ring.ravel()), samples=150)
    check(problem, problem.random_index(140))


def test_wide_inputs_into_a_narrow_layer_agree() -> None:
    geometry = random_geometry(np.random.default_rng(43), 7, 15)
    problem = Problem(dataclasses.replace(network((1, 3)), inputs=40), geometry)
    check(problem, problem.random_index(20))


def test_a_trajectory_follows_the_reference() -> None:
    """Sixty steps of plain gradient descent, the running statistics carried along."""
    problem = Problem(network((6, 6)), random_geometry(np.random.default_rng(7), 7, 15), samples=40)
    for step in range(60):
        index = problem.random_index(16, seed=step)
        losses = problem.step(index)
        true_losses, _, true_buffers = problem.reference_step(index)
        np.testing.assert_allclose(losses, true_losses, rtol=1e-9)
        np.testing.assert_allclose(problem.buffers, true_buffers, rtol=1e-9)
        problem.parameters -= 0.01 * problem.gradients
        for parameter, (name, (offset, shape)) in (
            (dict(problem.models[0].named_parameters())[item[0]], item) for item in problem.table.parameters.items()
        ):
            parameter.data -= 0.01 * parameter.grad
            mine = problem.parameters[0, offset : offset + int(np.prod(shape))]
            np.testing.assert_allclose(mine, parameter.detach().numpy().ravel(), rtol=1e-8, atol=1e-9, err_msg=name)


def test_float32_agrees_within_rounding() -> None:
    """Two correct float32 gradients differ by about 5e-4, from cancellation in the variance; biases just ahead of
    batch norm have a true gradient of zero and are left out."""
    geometry = random_geometry(np.random.default_rng(11), 32, 103)
    problem = Problem(network((20,) * 4), geometry, members=2, dtype="float32")
    index = problem.random_index(64)
    losses = problem.step(index)
    true_losses, true_gradients, true_buffers = problem.reference_step(index)
    np.testing.assert_allclose(losses, true_losses, rtol=1e-4)
    np.testing.assert_allclose(problem.buffers, true_buffers, rtol=1e-3, atol=1e-4)
    for name, (offset, shape) in problem.table.parameters.items():
        if ".conv." in name and name.endswith("bias"):
            continue
        part = slice(offset, offset + int(np.prod(shape)))
        error = np.linalg.norm(problem.gradients[:, part] - true_gradients[:, part])
        assert error < 5e-3 * np.linalg.norm(true_gradients[:, part]), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_member_does_not_depend_on_its_stack(dtype: str) -> None:
    """Bit for bit: alone, in any place of a stack, and again."""
    geometry = random_geometry(np.random.default_rng(13), 12, 30)
    problem = Problem(network((20, 20)), geometry, members=5, dtype=dtype)
    index, before = problem.random_index(37), problem.buffers.copy()
    losses = problem.step(index)
    predicted = problem.engine.predict(problem.parameters, before, index)
    for places in ([3], [3, 0], [4, 3, 2, 1, 0], [3, 3, 3]):
        gradients, buffers = np.full_like(problem.parameters[places], 7.0), before[places]
        again = problem.engine.step(problem.parameters[places], gradients, buffers, index[places])
        assert again.tobytes() == losses[places].tobytes()
        assert gradients.tobytes() == problem.gradients[places].tobytes()
        assert buffers.tobytes() == problem.buffers[places].tobytes()
        values = problem.engine.predict(problem.parameters[places], before[places], index[places])
        assert all(values[name].tobytes() == predicted[name][places].tobytes() for name in values)


def test_a_prediction_does_not_depend_on_its_batch() -> None:
    problem = Problem(network((9, 9)), random_geometry(np.random.default_rng(17), 6, 14), dtype="float32")
    everything = np.arange(80)[None]
    whole = problem.engine.predict(problem.parameters, problem.buffers, everything)
    for some in (everything[:, :1], everything[:, 20:43], everything[:, ::-1]):
        part = problem.engine.predict(problem.parameters, problem.buffers, some)
        assert all(part[name].tobytes() == whole[name][:, some[0]].tobytes() for name in part)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 3e-6)])
def test_adam_follows_torch(dtype: str, tolerance: float) -> None:
    problem = Problem(network((6,)), random_geometry(np.random.default_rng(41), 6, 14), members=3, dtype=dtype)
    expected = torch.tensor(problem.parameters)
    optimizer = torch.optim.Adam([expected], lr=0.01)
    moments = np.zeros_like(problem.parameters), np.zeros_like(problem.parameters)
    for step in range(1, 31):
        problem.step(problem.random_index(16, seed=step))
        expected.grad = torch.tensor(problem.gradients)
        optimizer.step()
        root = (1 - 0.999**step) ** 0.5
        factors = np.array([[1e-8 * root] * 3, [-0.01 * root / (1 - 0.9**step)] * 3], dtype)
        problem.engine.adam(problem.parameters, problem.gradients, moments, factors, (0.9, 0.999))
    np.testing.assert_allclose(problem.parameters, expected.numpy(), rtol=tolerance, atol=tolerance)
    problem.gradients[1, 3] = np.nan
    problem.engine.adam(problem.parameters, problem.gradients, moments, factors, (0.9, 0.999))
    assert np.argwhere(np.isnan(problem.parameters)).tolist() == [[1, 3]]


def test_subnormal_moments_vanish_and_the_processor_is_left_as_it_was() -> None:
    """They would stay for ever, a hundred cycles each."""
    problem = Problem(network((4,)), random_geometry(np.random.default_rng(47), 5, 9), dtype="float32")
    moments = np.full_like(problem.parameters, 1e-37), np.full_like(problem.parameters, 1e-37)
    problem.gradients[:] = 0
    factors = np.array([[1e-8], [-1e-3]], np.float32)
    for _ in range(60):
        problem.engine.adam(problem.parameters, problem.gradients, moments, factors, (0.9, 0.999))
    assert not moments[0].any()
    assert np.float32(1e-20) * np.float32(1e-20) > 0


def test_not_a_number_is_not_hidden() -> None:
    """A diverged member must show in its loss: ReLU and minimum do not swallow it."""
    problem = Problem(network((20, 20)), random_geometry(np.random.default_rng(19), 6, 14), members=2, dtype="float32")
    offset, _ = problem.table.parameters["trunk.0.conv.pre_nns.0.0.weight"]
    problem.parameters[1, offset] = np.nan
    losses = problem.step(problem.random_index(20))
    assert np.isfinite(losses[0]).all()
    assert np.isnan(losses[1]).all()


def test_torch_tensors_are_used_in_place() -> None:
    problem = Problem(network((4,)), random_geometry(np.random.default_rng(23), 5, 9), dtype="float32")
    index = problem.random_index(8)
    parameters, buffers = torch.tensor(problem.parameters), torch.tensor(problem.buffers)
    gradients = torch.zeros_like(parameters)
    losses = problem.engine.step(parameters, gradients, buffers, torch.tensor(index))
    assert losses.tobytes() == problem.step(index).tobytes()
    assert gradients.numpy().tobytes() == problem.gradients.tobytes()
    assert buffers.numpy().tobytes() == problem.buffers.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"index": np.array([[80]])}, "there are 80"),
        (lambda p: {"index": np.zeros((1, 0), int)}, "neither of them zero"),
        (lambda p: {"parameters": p.parameters.astype(np.float32)}, "parameters: float32"),
        (lambda p: {"gradients": p.gradients[:, ::2]}, "gradients: float64"),
        (lambda p: {"buffers": p.buffers[:, :-1]}, "buffers: float64"),
    ],
)
def test_what_does_not_fit_is_refused(change: object, message: str) -> None:
    problem = Problem(network((4,)), random_geometry(np.random.default_rng(29), 5, 9))
    arguments = {
        "parameters": problem.parameters,
        "gradients": problem.gradients,
        "buffers": problem.buffers,
        "index": problem.random_index(8),
    }
    with pytest.raises(UserError, match=message):
        problem.engine.step(**(arguments | change(problem)))  # type: ignore[operator]


def test_one_value_has_no_batch_statistics() -> None:
    problem = Problem(network((4,)), Geometry(np.array([0, 0]), np.array([], int)))
    with pytest.raises(UserError, match="no batch statistics"):
        problem.step(np.array([[0]]))


@pytest.mark.parametrize("missing", [0.3, 1.0])
def test_missing_targets_do_not_count(missing: float) -> None:
    """The mean is over the known targets of the batch, and there may be none."""
    problem = Problem(network((6, 6)), random_geometry(np.random.default_rng(31), 5, 9))
    rng, index = np.random.default_rng(37), problem.random_index(19)
    for values in problem.targets.values():
        values[rng.random(values.shape) < missing] = np.nan
    arguments = problem.sizes, problem.table, problem.geometry, problem.inputs, problem.targets
    problem.engine = type(problem.engine)(*arguments)
    predicted = problem.reference_predict(index, training=True)
    expected = [(values - problem.targets[name][index]) ** 2 for name, values in predicted.items()]
    losses = problem.step(index)
    np.testing.assert_allclose(losses[0], [np.nanmean(e) if np.isfinite(e).any() else 0 for e in expected], rtol=1e-12)
    before = problem.parameters.copy()
    for place in rng.integers(0, 400, 5):  # the gradient is the loss's slope
        ends = []
        for change in (1e-6, -1e-6):
            problem.parameters = before.copy()
            problem.parameters[0, place] += change
            ends.append(problem.engine.step(problem.parameters, before.copy(), problem.buffers, index)[0])
        slope = float((ends[0] - ends[1]) @ [task.weight for task in problem.sizes.tasks]) / 2e-6
        assert problem.gradients[0, place] == pytest.approx(slope, abs=1e-6, rel=1e-5)
