"""How many kernels a training step launches: on a GPU each costs microseconds, whatever the size of its work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.optimize import new_optimizer
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from hydragnn_hpc.sections import AdamOptimizer
from tests.member.contract.problem import CUTOFF, random_neighbours, random_samples

WITHOUT_KERNEL = {
    "aten::view", "aten::reshape", "aten::_unsafe_view", "aten::_reshape_alias", "aten::expand", "aten::transpose",
    "aten::unsqueeze", "aten::squeeze", "aten::slice", "aten::select", "aten::narrow", "aten::split", "aten::chunk",
    "aten::as_strided", "aten::permute", "aten::t", "aten::detach", "aten::empty", "aten::empty_like",
    "aten::empty_strided", "aten::new_empty", "aten::resize_", "aten::alias", "aten::lift_fresh", "aten::unbind",
    "aten::result_type", "aten::to", "aten::mT", "aten::numpy_T", "aten::expand_as", "aten::new_zeros", "aten::view_as",
    "aten::set_", "aten::is_same_size", "aten::unflatten", "aten::flatten",
    "aten::_local_scalar_dense", "aten::item", "aten::resolve_conj", "aten::resolve_neg", "aten::split_with_sizes",
    "aten::empty_permuted", "aten::detach_", "aten::contiguous", "aten::clone",
}  # fmt: skip
"""Views and allocations; ``contiguous``, ``clone`` and the like launch through what they call."""

ONE_KERNEL = {"aten::bmm", "aten::baddbmm_", "aten::sum", "aten::amin", "aten::amax", "aten::mean"}
"""One launch on a GPU. On a CPU they may call an operation for each member of a stack: these are not counted."""


def launches(members: int, edges: EdgeBasis | None) -> int:
    """Kernels of one training step of the paper's HCM network, optimiser included."""
    rng = np.random.default_rng(1)
    tasks = (TaskSizes("H", "graph", 1), TaskSizes("C", "node", 1), TaskSizes("M", "node", 1))
    samples = random_samples(rng, [random_neighbours(rng, 32, 64)], 20, tasks)
    sizes = NetworkSizes(1, (20,) * 6, tasks, samples.average_degree(), edges=edges)
    engine = TorchEngine(sizes, samples, torch.device("cpu"), together=True)
    parameters = torch.stack([engine.layout.initial_parameters(e) for e in range(members)])
    buffers = torch.stack([engine.layout.initial_buffers()] * members)
    gradients, index = torch.empty_like(parameters), np.stack([rng.permutation(20)[:16] for _ in range(members)])
    adam = new_optimizer(AdamOptimizer(name="Adam"), parameters)
    factors = adam.plan(1, np.full(members, 1e-3))
    engine.step(parameters, gradients, buffers, index)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        engine.step(parameters, gradients, buffers, index)
        adam.step(parameters, gradients, factors[0])
    return sum(_kernels(e) for e in profiler.events() if e.cpu_parent is None)


def _kernels(event: FunctionEvent) -> int:
    if event.name in ONE_KERNEL:
        return 1
    if event.name == "aten::to" and event.input_shapes[0] == []:
        return 0  # a Python number made a tensor, which stays on the host
    within = sum(_kernels(child) for child in event.cpu_children)
    return within or int(event.name.startswith("aten::") and event.name not in WITHOUT_KERNEL)


@pytest.mark.parametrize(("edges", "most"), [(None, 319), (EdgeBasis(20, CUTOFF), 403)], ids=["no edges", "edges"])
def test_the_number_of_launches_does_not_grow_with_the_stack_and_is_small(edges: EdgeBasis | None, most: int) -> None:
    """The limits are the present numbers (tests/README.md): lower them when a step launches less."""
    one, twelve = launches(1, edges), launches(12, edges)
    assert twelve == one
    assert twelve <= most, f"{twelve} kernel launches per training step, at most {most} expected"
