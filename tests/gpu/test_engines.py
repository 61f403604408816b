"""Every engine that runs on a GPU, on the emulated device: its numbers, waits, launches and memory."""

from __future__ import annotations

import functools
import gc
from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from tests.gpu import on_device
from tests.gpu.emulated import Device, emulated
from tests.gpu.problems import GPU, PROBLEMS, STACKS, Stack

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Trained:
    """The numbers of three epochs, the waits of the second, and the memory in use at the end of each."""

    numbers: list[torch.Tensor]
    waits: Counter[str]
    bytes: list[int]


@functools.cache
def trained(name: str) -> Trained:
    """Train on the emulated device."""
    with emulated() as device:
        numbers, used, waits = [], [], Counter[str]()
        stack = Stack(PROBLEMS[name], GPU, STACKS[0])
        for epoch, members in enumerate(STACKS):
            stack.keep(members)
            factors = stack.plan()
            before = device.waits.copy()
            numbers += stack.epoch(factors)
            if epoch == 1:
                waits = device.waits - before
            gc.collect()
            used.append(device.bytes - sum(t.nbytes for t in numbers))
        return Trained([tensor.cpu() for tensor in numbers], waits, used)


@pytest.mark.parametrize("name", PROBLEMS)
def test_numbers_are_those_of_the_cpu(name: str) -> None:
    for actual, expected in zip(trained(name).numbers, on_device.trained(name, CPU), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PROBLEMS)
def test_steps_and_predictions_do_not_wait(name: str) -> None:
    assert not trained(name).waits


@pytest.mark.parametrize("name", PROBLEMS)
def test_memory_does_not_grow_and_shrinks_with_the_stack(name: str) -> None:
    first, second, third = trained(name).bytes
    assert second <= first and third < first, trained(name).bytes


@pytest.mark.parametrize("name", [n for n in PROBLEMS if n.startswith(("torch", "triton"))])
def test_launches_do_not_depend_on_the_stack_and_no_sum_is_atomic(name: str, device: Device) -> None:
    counted = []
    for members in (2, 3):  # where sizes vary, a stack of one needs no padding
        stack = Stack(PROBLEMS[name], GPU, members)
        factors = stack.plan()
        stack.step(6, factors[0])
        before = device.launches.total()
        stack.step(6, factors[1])
        counted.append(device.launches.total() - before)
    assert counted[0] == counted[1]
    assert not device.atomics


def test_a_captured_step_is_one_launch(device: Device) -> None:
    stack = Stack(PROBLEMS["torch"], GPU)
    factors, index = stack.plan(), stack.problem.index(6)
    for factor in factors:
        before = device.launches.copy()
        stack.engine.step(stack.parameters, stack.gradients, stack.buffers, index)
        stack.engine.update(stack.optimizer, stack.parameters, stack.gradients, factor)
    launched = device.launches - before
    assert launched["replay"] == 1 and launched.total() <= 12, launched  # the sample numbers, and Adam
