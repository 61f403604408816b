"""Whether the kernels can be used on a device."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.errors import first_line
from hydragnn_hpc.member.device import is_out_of_memory
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.optimize import new_optimizer
from hydragnn_hpc.member.engine.resample import Split
from hydragnn_hpc.member.engine.sizes import NetworkSizes
from hydragnn_hpc.member.engine.training_data import SampleGraphs, TrainingData
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from hydragnn_hpc.sections import AdamOptimizer


def unavailable(device: torch.device, sizes: NetworkSizes, data: TrainingData) -> str:
    """Return why the kernels cannot be used for such a network and data on this device, ``""`` if they can.

    They train a small network of the same kind there: Triton compiles at first use, with the device's driver and a C
    compiler on the node, so that having it installed is not enough.
    """
    if device.type == "cpu":
        return "the device is the CPU"
    if find_spec("triton") is None:
        return "Triton is not installed"
    try:
        from hydragnn_hpc.member.triton_engine.engine import unsupported

        if reason := unsupported(sizes, data.graphs):
            return reason
        return "" if _steps_agree(device, sizes, data) else "they give wrong numbers on this device"
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"Triton fails on this device: {first_line(error)}"


def _steps_agree(device: torch.device, sizes: NetworkSizes, data: TrainingData) -> bool:
    """Whether a step of a small network, one of Adam, and a prediction give the same numbers as in plain torch."""
    from hydragnn_hpc.member.triton_engine.engine import TritonEngine

    small = _small_sizes(sizes)
    samples = _few_samples(small, data)
    every = samples.split.train
    found = []
    for kind in (TorchEngine, TritonEngine):
        engine: Engine = kind(small, samples, device)
        # On the device from the start: nothing waits for a copy.
        size, buffers = engine.layout.parameter_size, torch.ones(2, engine.layout.buffer_size, device=device)
        parameters = torch.sin(torch.arange(2.0 * size, device=device)).view(2, size)
        _keep_noise_from_zero(small, engine.layout.named(parameters))
        gradients = torch.empty_like(parameters)
        optimizer = new_optimizer(AdamOptimizer(name="Adam"), parameters)
        losses = engine.step(parameters, gradients, buffers, np.tile(every, (2, 1)))
        computed = [losses, gradients, buffers]
        # Not the gradients of the step: where one is nearly zero, rounding determines the direction of Adam's step.
        engine.update(optimizer, parameters, torch.cos(parameters), optimizer.plan(1, np.full(2, 0.1))[0])
        predicted = engine.predict(parameters, buffers, every)
        found.append(torch.cat([parameters, *computed, *(values.flatten(1) for values in predicted.values())], 1))
    plain, fast = found
    return torch.allclose(fast, plain, rtol=1e-3, atol=1e-3)


def _small_sizes(sizes: NetworkSizes) -> NetworkSizes:
    """Return a small network with the same losses, pooling and basis."""
    return replace(
        sizes,
        inputs=min(sizes.inputs, 5),
        channels=(4, 4),
        tasks=tuple(replace(task, hidden=(3,) * len(task.hidden)) for task in sizes.tasks),
        average_degree=(2.0, 1.0986),
        edges=sizes.edges and replace(sizes.edges, number=3),
    )


def _few_samples(sizes: NetworkSizes, data: TrainingData) -> TrainingData:
    """Return four samples that share a geometry, or that have two, and lack targets, if samples of ``data`` do."""
    # An atom with three neighbours, and three atoms that are each other's.
    degrees, neighbours = [3, 1, 1, 1, 2, 2, 2], [1, 2, 3, 0, 0, 0, 1, 2, 0, 2, 0, 1]
    lengths = np.array([1, 2, 3, 1, 2, 3, 1, 3, 1, 2, 3, 2]) / 4 * data.graphs.cutoff
    sites, edges, geometry = [0, 4, 7], 12, np.array([0, 1, 0, 1])
    if data.graphs.shared_geometry:
        sites, edges, geometry = [0, 4], 6, np.zeros(4, np.int64)
    graphs = SampleGraphs(
        np.append(0, np.cumsum(np.diff(sites)[geometry])), geometry.astype(np.int32), np.array(sites),
        np.append(0, np.cumsum(degrees[: sites[-1]])), np.array(neighbours[:edges], np.int32),
        lengths[:edges, None] * np.eye(3)[:1], data.graphs.cutoff,
    )  # fmt: skip
    rows, every = {"node": int(graphs.atom_offsets[-1]), "graph": len(geometry)}, np.arange(len(geometry))
    missing = any(bool(np.isnan(data.targets[task.name]).any()) for task in sizes.tasks)
    targets = {}
    for number, task in enumerate(sizes.tasks):
        targets[task.name] = np.cos(np.arange(float(rows[task.level] * task.width)) + number).reshape(-1, task.width)
        if missing:
            targets[task.name][0] = np.nan
    inputs = np.sin(np.arange(float(rows["node"] * sizes.inputs))).reshape(-1, sizes.inputs)
    return TrainingData(graphs, inputs, targets, data.levels, Split(every, every, every))


def _keep_noise_from_zero(sizes: NetworkSizes, parameters: dict[str, Tensor]) -> None:
    """Keep the noise that heads predict away from zero, near which a likelihood has few correct digits."""
    for task in sizes.tasks:
        last = f"heads.{task.name}.{len(task.hidden)}"
        parameters[f"{last}.weight"][:, task.width :].mul_(0.1)
        parameters[f"{last}.bias"][:, task.width :].add_(2.0)
