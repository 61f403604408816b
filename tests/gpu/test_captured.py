"""Graphs that can be trusted: planted faults of a capture, memory of a stack that shrinks, members that diverge."""

from __future__ import annotations

import gc

import pytest
import torch

from hydragnn_hpc.member.torch_engine.captured import CaptureError
from tests.gpu.emulated import Device, Graph
from tests.gpu.problems import GPU, PROBLEMS, Stack


def stack(members: int = 3) -> Stack:
    """A stack whose steps are captured."""
    return Stack(PROBLEMS["torch"], GPU, members)


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
        ("index_select", slice(-1, None)),  # what writes the gradients
        ("index_select", slice(1)),  # what loads the parameters
        ("bmm", slice(-1, None)),
        ("bmm", slice(1)),
        ("bmm", slice(None)),
        ("amin", slice(1)),
        ("copy_", slice(1)),
        ("lerp_", slice(None)),  # the running statistics
        ("cat", slice(-1, None)),
    ],
)
def test_a_graph_that_lacks_an_operation_is_refused(device: Device, monkeypatch, name: str, which: slice) -> None:
    replay = Graph.replay

    def incomplete(graph: Graph) -> None:
        drop(graph, name, which)
        replay(graph)

    monkeypatch.setattr(Graph, "replay", incomplete)
    with pytest.raises(CaptureError, match="other numbers"):
        stack().step(6, torch.zeros(3, 3, 1, device=GPU))


def test_a_graph_with_its_samples_built_in_is_refused(device: Device) -> None:
    own = stack()
    batches, seen = own.engine._batches, []
    unchanged = batches.of_numbers

    def built_in(fixed, numbers):
        seen.append(numbers.clone() if device.capturing is None else None)
        return unchanged(fixed, numbers if device.capturing is None else seen[-2])

    batches.of_numbers = built_in
    with pytest.raises(CaptureError, match="other numbers"):
        own.step(6, own.plan()[0])


def test_a_failed_capture_is_an_error_after_which_nothing_runs(device: Device) -> None:
    own = stack()
    unchanged = own.engine._pass
    own.engine._pass = lambda *state: unchanged(*state).mul_(own.parameters.sum().item() * 0 + 1)
    with pytest.raises(CaptureError, match="not permitted when stream is capturing"):
        own.step(6, own.plan()[0])
    assert device.captures == 1 and not device.after_failure


def test_a_lack_of_memory_is_not_a_failed_capture(device: Device) -> None:
    own = stack()
    factors, before = own.plan(), device.bytes
    own.step(6, factors[0])
    own, factors = None, None
    gc.collect()
    again = stack()
    factors, device.limit = again.plan(), device.bytes + (device.bytes - before)
    with pytest.raises(torch.OutOfMemoryError):
        for samples in (6, 5, 4, 3):
            again.step(samples, factors[0])


def test_a_member_that_diverges_does_not_end_the_graphs_of_the_others(device: Device) -> None:
    own, plain = stack(), stack()
    plain.engine._captured = None
    for each in (own, plain):
        each.parameters[1] = torch.nan
        each.buffers[2] = torch.inf
        factors = each.plan()
        for factor in factors:
            each.step(6, factor)
    assert device.captures == 1 and device.launches["replay"] == 3
    for name in ("parameters", "gradients", "buffers"):
        torch.testing.assert_close(getattr(own, name), getattr(plain, name), equal_nan=True)
    assert own.parameters[0].isfinite().all()


def test_graphs_of_one_stack_size_share_a_pool_that_is_released_with_it(device: Device) -> None:
    own, pools, used = stack(6), [], []
    for members in range(6, 0, -1):
        own.keep(members)
        own.epoch(own.plan())
        gc.collect()
        assert len(device.graphs) == 2
        pools.append({graph.pool for graph in device.graphs})
        used.append(device.bytes)
    assert [len(pool) for pool in pools] == [1] * 6 and len(set.union(*pools)) == 6
    assert used == sorted(used, reverse=True) and used[-1] < 0.6 * used[0], used
