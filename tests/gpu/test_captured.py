"""Graphs that can be trusted: planted faults of a capture, memory of a stack that shrinks, members that diverge."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from hydragnn_hpc.member.engine.captured import CaptureError
from hydragnn_hpc.member.engine.steps import EpochPlan, PlainSteps
from hydragnn_hpc.sections import OPTIMIZERS
from tests.benchmarks.cases import ADAM
from tests.gpu.emulated import Device, Graph
from tests.gpu.problems import GPU, PROBLEMS, SIZES, Stack


def stack(members: int = 3) -> Stack:
    """A stack whose steps are captured."""
    return Stack(PROBLEMS["torch"], GPU, members, ADAM)


def names(graph: Graph) -> list[str]:
    """The operations of a graph, in order."""
    return [operation[0].overloadpacket.__name__ for operation in graph.operations]


def drop(graph: Graph, name: str, which: slice) -> None:
    """Remove some of the operations with that name."""
    places = [k for k, operation in enumerate(names(graph)) if operation == name][which]
    assert places
    graph.operations = [operation for k, operation in enumerate(graph.operations) if k not in places]


@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("index_select", slice(1)),  # what takes the sample numbers
        ("index_select", slice(1, 2)),  # what loads the parameters
        ("index_select", slice(-2, -1)),  # what writes the gradients
        ("index_select", slice(-1, None)),  # what takes the optimiser's factors
        ("bmm", slice(-1, None)),
        ("bmm", slice(1)),
        ("bmm", slice(None)),
        ("amin", slice(1)),
        ("copy_", slice(1)),
        ("lerp_", slice(1)),  # the running statistics
        ("lerp_", slice(1, 2)),  # Adam's first moment
        ("addcmul_", slice(-1, None)),  # what writes the parameters
        ("add_", slice(-1, None)),  # what counts the steps
        ("cat", slice(-1, None)),
    ],
)
def test_a_graph_that_lacks_an_operation_is_refused(device: Device, monkeypatch, name: str, which: slice) -> None:
    replay = Graph.replay

    def incomplete(graph: Graph) -> None:
        drop(graph, name, which)
        replay(graph)

    monkeypatch.setattr(Graph, "replay", incomplete)
    own = stack()
    with pytest.raises(CaptureError, match="other numbers"):
        own.train(own.plan())


@pytest.mark.parametrize("steps", [1, 2])
def test_a_graph_with_its_samples_built_in_is_refused(device: Device, monkeypatch, steps: int) -> None:
    own = stack()
    prepare, order = own.engine.prepare, own.plan().order[:, : steps * SIZES[1]]
    plan = EpochPlan.of(order, SIZES[1], own.state.optimizer, np.full(len(order), 1e-3))
    first = torch.tensor(plan.batches[0], device=GPU)

    def prepared(*arguments):
        step = prepare(*arguments)
        return lambda *state: step(*state[:3], state[3] if device.capturing is None else first)

    monkeypatch.setattr(own.engine, "prepare", prepared)
    with pytest.raises(CaptureError, match="other numbers"):
        own.train(plan)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_graph_may_round_differently(device: Device, monkeypatch, kind: str) -> None:
    own = Stack(PROBLEMS["torch"], GPU, 3, OPTIMIZERS[kind](name=kind))
    prepare = own.engine.prepare

    def prepared(*arguments):
        step = prepare(*arguments)

        def rounded(parameters: torch.Tensor, gradients: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
            losses = step(parameters, gradients, *others)
            if device.capturing is not None:
                gradients.mul_(torch.where(gradients.abs() < 1e-6 * gradients.abs().amax(), -1.0, 1.0))
            return losses

        return rounded

    monkeypatch.setattr(own.engine, "prepare", prepared)
    own.train(own.plan())
    assert device.captures == 2


def test_a_failed_capture_is_an_error_after_which_nothing_runs(device: Device) -> None:
    own = stack()
    unchanged = own.engine._pass
    own.engine._pass = lambda *state: unchanged(*state).mul_(own.state.parameters.sum().item() * 0 + 1)
    with pytest.raises(CaptureError, match="not permitted when stream is capturing"):
        own.train(own.plan())
    assert device.captures == 1 and not device.after_failure


def test_a_lack_of_memory_is_not_a_failed_capture(device: Device) -> None:
    own = stack()
    plan, before = own.plan(), device.bytes
    own.train(plan)
    own, plan = None, None
    gc.collect()
    again = stack()
    plan, device.limit = again.plan(), device.bytes + (device.bytes - before) // 2
    with pytest.raises(torch.OutOfMemoryError):
        again.train(plan)


def test_a_member_that_diverges_does_not_end_the_graphs_of_the_others(device: Device) -> None:
    own, plain = stack(), stack()
    plain.steps = PlainSteps(plain.engine)
    for each in (own, plain):
        each.state.parameters[1] = torch.nan
        each.state.buffers[2] = torch.inf
        each.train(each.plan())
        each.train(each.plan())
    assert device.captures == 2 and device.launches["replay"] == 2 + 2 * len(SIZES)
    for name in ("parameters", "gradients", "buffers", "losses"):
        torch.testing.assert_close(getattr(own.state, name), getattr(plain.state, name), equal_nan=True)
    assert own.state.parameters[0].isfinite().all()


def test_graphs_train_as_single_launches_do(device: Device) -> None:
    own, plain = stack(), stack()
    plain.steps = PlainSteps(plain.engine)
    for _ in range(2):
        plan, before = own.plan(), device.launches.copy()
        own.train(plan)
        launched = device.launches - before
        plain.train(plain.plan())
        for tensor in ("parameters", "gradients", "buffers", "losses"):
            assert torch.equal(getattr(own.state, tensor), getattr(plain.state, tensor))
    assert launched.pop("replay") == len(SIZES)
    assert launched.total() <= 6, launched  # order and factors are sent once an epoch


def test_where_geometries_vary_a_larger_batch_than_any_before_is_captured_anew(device: Device) -> None:
    own, plain = (Stack(PROBLEMS["triton, geometries and edge lengths that vary"], GPU, 1, ADAM) for _ in range(2))
    plain.steps = PlainSteps(plain.engine)
    by_size = np.argsort(np.diff(own.problem.data.graphs.atom_offsets), kind="stable")
    captures = []
    for order in (by_size[:2], by_size[-2:], by_size[:2]):
        for each in (own, plain):
            each.train(EpochPlan.of(order[None], 2, each.state.optimizer, np.full(1, 1e-2)))
        captures.append(device.captures)
        for tensor in ("parameters", "gradients", "buffers", "losses"):
            assert torch.equal(getattr(own.state, tensor), getattr(plain.state, tensor))
    assert captures == [1, 2, 2]


def test_graphs_of_one_stack_size_share_a_pool_that_is_released_with_it(device: Device) -> None:
    own, pools, used = stack(6), [], []
    for members in range(6, 0, -1):
        own.keep(members)
        own.train(own.plan())
        gc.collect()
        assert len(device.graphs) == 2
        pools.append({graph.pool for graph in device.graphs})
        used.append(device.bytes)
    assert [len(pool) for pool in pools] == [1] * 6 and len(set.union(*pools)) == 6
    assert used == sorted(used, reverse=True) and used[-1] < 0.6 * used[0], used
