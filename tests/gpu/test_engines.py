"""Every engine that runs on a GPU, on the emulated device: its numbers, waits, launches and memory."""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from tests.gpu import on_device
from tests.gpu.emulated import emulated
from tests.gpu.problems import GPU, PROBLEMS, SIZES, STACKS, Stack, check_close

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Trained:
    """What the epochs of `STACKS` compute, and a record of each on the device.

    Attributes
    ----------
    waits, launches, graphs : list
        By epoch: waits; launches without those that capture; the numbers of launches in the graphs, sorted.
    atomics : Counter
    bytes : list of int
        Memory in use at the end of each epoch.
    """

    numbers: list[torch.Tensor]
    waits: list[Counter[str]]
    launches: list[Counter[str]]
    graphs: list[list[int]]
    atomics: Counter[str]
    bytes: list[int]


@functools.cache
def trained(name: str) -> Trained:
    """Train on the emulated device."""
    with emulated() as device:
        found = Trained([], [], [], [], device.atomics, [])
        stack = Stack(PROBLEMS[name], GPU, STACKS[0])
        for members in STACKS:
            stack.keep(members)
            plan = stack.plan()
            waits, launches = device.waits.copy(), device.launches.copy()
            found.numbers.extend(stack.epoch(plan))
            found.waits.append(device.waits - waits)
            found.launches.append(device.launches - launches)
            gc.collect()
            found.graphs.append(sorted(len(graph.operations) for graph in device.graphs))
            found.bytes.append(device.bytes - sum(t.nbytes for t in found.numbers))
        return dataclasses.replace(found, numbers=[tensor.cpu() for tensor in found.numbers])


@pytest.mark.parametrize("name", PROBLEMS)
def test_numbers_are_those_of_the_cpu(name: str) -> None:
    for actual, expected in zip(trained(name).numbers, on_device.trained(name, CPU), strict=True):
        check_close(actual, expected, 1e-4)


@pytest.mark.parametrize("name", PROBLEMS)
def test_steps_and_predictions_do_not_wait(name: str) -> None:
    assert not trained(name).waits[1]


@pytest.mark.parametrize("name", PROBLEMS)
def test_memory_does_not_grow_and_shrinks_with_the_stack(name: str) -> None:
    first, second, third, last = trained(name).bytes
    assert second <= first and third < first and last <= third, trained(name).bytes


@pytest.mark.parametrize("name", [n for n in PROBLEMS if n.startswith(("torch", "triton"))])
def test_launches_do_not_depend_on_the_stack_and_no_sum_is_atomic(name: str) -> None:
    found = trained(name)
    assert not found.atomics
    assert found.graphs[3] == found.graphs[1]  # of stacks of two and three members
    if not found.graphs[0]:
        assert found.launches[3] == found.launches[1]


@pytest.mark.parametrize("name", PROBLEMS)
def test_captured_steps_are_one_launch_each(name: str) -> None:
    found = trained(name)
    if name.startswith("library") or name.startswith("torch, geometries"):
        assert not found.graphs[0]
    else:
        assert found.launches[1]["replay"] == len(SIZES) == len(found.graphs[0])
