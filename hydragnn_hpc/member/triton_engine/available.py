"""Whether the kernels can be used on a device."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch

from hydragnn_hpc.member.device import is_out_of_memory
from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.optimize import new_optimizer
from hydragnn_hpc.member.engine.resample import Split
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import SampleGraphs, TrainingData
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from hydragnn_hpc.sections import AdamOptimizer


def unavailable(device: torch.device, sizes: NetworkSizes) -> str:
    """Return why the kernels cannot be used for such a network on this device, ``""`` if they can.

    They train a small network there: Triton compiles at first use, with the device's driver and a C compiler on the
    node, so that having it installed is not enough.
    """
    if device.type == "cpu":
        return "the device is the CPU"
    if find_spec("triton") is None:
        return "Triton is not installed"
    from hydragnn_hpc.member.triton_engine.engine import unsupported

    if reason := unsupported(sizes):
        return reason
    try:
        return "" if _steps_agree(device) else "Triton's kernels give wrong numbers on this device"
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"Triton fails on this device: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"


def _steps_agree(device: torch.device) -> bool:
    """Whether a step of a small network, and one of Adam, give the same weights as in plain torch."""
    from hydragnn_hpc.member.triton_engine.engine import TritonEngine

    tasks = (TaskSizes("a", "graph", 1, (3,)), TaskSizes("b", "node", 1, (3,)))
    sizes = NetworkSizes(1, (4, 4), tasks, (2.0, 1.0986), edges=EdgeBasis(3, 4.0))
    atoms, samples = 3, 4
    ring = np.array([1, 2, 0, 2, 0, 1])  # three atoms, each the neighbour of the others
    graphs = SampleGraphs(
        np.arange(samples + 1) * atoms, np.zeros(samples, np.int32), np.array([0, atoms]), np.arange(0, 7, 2),
        ring.astype(np.int32), np.eye(3)[[0, 1, 0, 2, 1, 2]] * np.array([1.0, 2.0, 1.0, 3.0, 2.0, 3.0])[:, None], 4.0,
    )  # fmt: skip
    values = np.sin(np.arange(float(samples * atoms)))[:, None]
    every = np.arange(samples)
    data = TrainingData(
        graphs, values, {"a": values[every], "b": values**2}, {"a": "graph", "b": "node"}, Split(every, every, every)
    )
    weights = []
    for kind in (TorchEngine, TritonEngine):
        engine: Engine = kind(sizes, data, device)
        # On the device from the start: nothing waits for a copy.
        size, buffers = engine.layout.parameter_size, torch.ones(2, engine.layout.buffer_size, device=device)
        parameters = torch.sin(torch.arange(2.0 * size, device=device)).view(2, size)
        gradients = torch.empty_like(parameters)
        optimizer = new_optimizer(AdamOptimizer(name="Adam"), parameters)
        losses = engine.step(parameters, gradients, buffers, np.tile(every, (2, 1)))
        computed = [losses, gradients, buffers]
        # Gradients of known sign: Adam makes as much of one that is zero but for rounding.
        engine.update(optimizer, parameters, torch.cos(parameters), optimizer.plan(1, np.full(2, 0.1))[0])
        weights.append(torch.cat([parameters, *computed], 1))
    plain, fast = weights
    return torch.allclose(fast, plain, rtol=1e-3, atol=1e-3)
