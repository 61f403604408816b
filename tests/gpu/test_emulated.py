"""The emulated device detects the faults that it is for: a planted fault for each of its rules."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.emulated import Device
from tests.gpu.problems import GPU, PROBLEMS, Stack

HERE = "member/torch_engine/engine TorchEngine"


def varying() -> Stack:
    """A stack whose steps are not captured."""
    return Stack(PROBLEMS["torch, geometries that vary"], GPU)


def with_pass(stack: Stack, more) -> Stack:
    """The stack, with ``more`` done to the losses within each step."""
    unchanged = stack.engine._pass

    def changed(*arguments):
        losses = unchanged(*arguments)
        more(losses)
        return losses

    stack.engine._pass = changed
    return stack


def test_tensors_on_two_devices_are_refused(device: Device) -> None:
    stack = varying()
    stack.engine._targets = [torch.zeros(t.shape) for t in stack.engine._targets]
    with pytest.raises(RuntimeError, match="to be on the same device"):
        stack.train(stack.plan())


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda losses: losses.sum().item(), "_local_scalar_dense"),
        (lambda losses: bool((losses > 0).all()), "_local_scalar_dense"),
        (lambda losses: losses[losses > 0], "index"),
        (
            lambda losses: torch.repeat_interleave(
                losses, torch.ones(len(losses), dtype=torch.int64, device=GPU), dim=0
            ),
            "repeat_interleave",
        ),
        (lambda losses: losses.nonzero(), "nonzero"),
        (lambda losses: losses.cpu(), "copy to the host"),
        (lambda losses: losses.copy_(torch.zeros(losses.shape)), "copy of memory that is not pinned"),
        (lambda losses: torch.tensor([1.0], device=losses.device), "copy of memory that is not pinned"),
        (lambda losses: torch.cuda.synchronize(), "synchronize"),
    ],
)
def test_waits_are_recorded_with_their_place(device: Device, what, reason: str) -> None:
    stack = with_pass(varying(), what)
    plan = stack.plan()
    device.waits.clear()
    stack.train(plan)
    assert f"{HERE}._step: {reason}" in device.waits
    with (
        pytest.raises(RuntimeError, match="not permitted when stream is capturing"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        what(torch.ones(3, 3, device=GPU))


def test_pinned_memory_is_copied_without_a_wait(device: Device) -> None:
    torch.ones(3).pin_memory().to(GPU, non_blocking=True)
    assert not device.waits
    torch.ones(3).pin_memory().to(GPU)
    assert device.waits == {"elsewhere: copy of memory that is not pinned": 1}


def test_new_memory_holds_nan(device: Device) -> None:
    assert torch.empty(3, device=GPU).isnan().all() and not torch.zeros(3, device=GPU).isnan().any()


def test_members_one_after_another_take_more_launches(device: Device) -> None:
    stack = varying()
    stack.engine._together = False
    counted = []
    for members in (3, 1):
        stack.keep(members)
        plan = stack.plan()
        device.launches.clear()
        stack.train(plan)
        counted.append(device.launches.total())
    assert counted[0] > 2 * counted[1]


def test_memory_is_counted_while_it_is_held(device: Device) -> None:
    before = device.bytes
    held = torch.ones(1000, device=GPU)
    view = held[10:]
    assert device.bytes == before + 4000
    del held
    assert device.bytes == before + 4000
    del view
    assert device.bytes == before
    device.limit = before + 5000
    kept = torch.ones(1000, device=GPU)
    with pytest.raises(torch.OutOfMemoryError):
        torch.ones(1000, device=GPU)
    device.limit = None
    assert kept.sum() == 1000


def test_sums_in_changing_order_are_recorded(device: Device) -> None:
    x, rows = torch.zeros(3, 2, device=GPU), torch.zeros(4, dtype=torch.int64, device=GPU)
    x.index_add_(0, rows, torch.ones(4, 2, device=GPU))
    x.index_put_((rows,), torch.ones(4, 2, device=GPU), accumulate=True)
    x.index_put_((rows,), torch.ones(4, 2, device=GPU))
    assert device.atomics.total() == 2


def test_a_graph_runs_only_when_it_is_replayed_and_where_it_was_captured(device: Device) -> None:
    x, out, graph = torch.ones(3, device=GPU), torch.zeros(3, device=GPU), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = x * 2
        out.add_(made)
    assert made.isnan().all() and not out.any()
    graph.replay()
    assert (made == 2).all() and (out == 2).all()
    x.fill_(3.0)
    graph.replay()
    assert (made == 6).all() and (out == 8).all()


def test_operations_after_a_failed_capture_are_counted(device: Device) -> None:
    with pytest.raises(ValueError, match="fails"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        raise ValueError("fails")
    torch.ones(3, device=GPU)
    assert device.after_failure == 1
