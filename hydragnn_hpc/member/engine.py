"""What trains a stack of members, one batch at a time: the interface, and the choice of engine."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.fused import FusedEngine, Geometry, NetworkSizes, TaskSizes, unavailable
from hydragnn_hpc.member.layout import ParameterLayout
from hydragnn_hpc.member.optimize import BETA_1, BETA_2, Adam
from hydragnn_hpc.member.samples import Samples
from hydragnn_hpc.member.sizes import Array
from hydragnn_hpc.member.torch_engine import TorchEngine
from hydragnn_hpc.sections import Model, Variant


class Engine(Protocol):
    """Forward and backward of E stacked members. A member's numbers do not depend on E nor on its place.

    Attributes
    ----------
    name : str
    sizes : NetworkSizes
    layout : ParameterLayout
    device : torch.device
        Where parameters, gradients and buffers live.
    """

    name: str
    sizes: NetworkSizes
    layout: ParameterLayout
    device: torch.device

    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """One training batch of every member.

        Parameters
        ----------
        parameters, gradients : tensor [E, P]
            ``gradients`` of the weighted loss is overwritten, padding with zeros.
        buffers : tensor [E, Q]
            Running statistics, updated.
        index : int64 array [E, B]
            Sample numbers.

        Returns
        -------
        tensor [E, T]
            Mean squared error per task over the values that are not missing, not weighted. Nothing waits for the
            device.
        """

    def update(self, adam: Adam, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """One step of ``adam`` in whatever way is fastest here; ``gradients`` are used up (`Adam.step`)."""

    def predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        """Scaled values of every task in evaluation mode.

        Parameters
        ----------
        index : int64 array [B]
            Samples, the same for all members.

        Returns
        -------
        dict of str to tensor
            Per task [E, atoms of the samples in order, d] or, at graph level, [E, B, d].
        """


class FusedCpu:
    """The fused CPU engine (`hydragnn_hpc.member.fused`) behind the interface."""

    name = "fused"

    def __init__(self, sizes: NetworkSizes, samples: Samples) -> None:
        self.sizes, self.device = sizes, torch.device("cpu")
        self.layout = ParameterLayout.of(sizes)
        s = samples.structure
        shape = (len(s.sample_geometry), int(s.site_offsets[-1]))
        targets = {
            t.name: _resident(samples.targets[t.name], (*shape[: 2 if t.level == "node" else 1], t.width))
            for t in sizes.tasks
        }
        geometry = Geometry(np.asarray(s.neighbour_offsets), np.asarray(s.neighbours))
        inputs = _resident(samples.inputs, (*shape, sizes.inputs))
        self._engine = FusedEngine(sizes, self.layout, geometry, inputs, targets)

    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """See `Engine`."""
        return torch.from_numpy(self._engine.step(parameters, gradients, buffers, index))

    def update(self, adam: Adam, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """See `Engine`."""
        if adam.options.weight_decay:
            adam.step(parameters, gradients, factors)
        else:
            moments, both = (adam.first, adam.second), factors[:2].view(2, -1)
            self._engine.adam(parameters, gradients, moments, both, (BETA_1, BETA_2))

    def predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        """See `Engine`."""
        members = len(parameters)
        values = self._engine.predict(parameters, buffers, np.broadcast_to(index, (members, len(index))))
        return {name: torch.from_numpy(v).reshape(members, -1, v.shape[-1]) for name, v in values.items()}


def _resident(values: Array, shape: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(values, np.float32).reshape(shape)


def network_sizes(
    campaign: Campaign, variant: Variant, samples: Samples, average_degree: tuple[float, float]
) -> NetworkSizes:
    """Return the sizes of a variant's network."""
    model = campaign.model
    tasks = tuple(
        TaskSizes(
            name,
            campaign.tasks[name].level,
            samples.targets[name].shape[1],
            model.graph_head if campaign.tasks[name].level == "graph" else model.node_head,
            campaign.weight(variant, name),
        )
        for name in variant.tasks
    )
    channels = (model.channels,) * model.layers
    return NetworkSizes(samples.inputs.shape[1], channels, tasks, average_degree, model.pooling)


def choose(campaign: Campaign, variant: Variant, samples: Samples, device: torch.device) -> tuple[Engine, str]:
    """Return the engine for a variant, and why it is that one.

    ``training.engine: auto`` takes the fused one wherever it can run; ``fused`` insists.

    Raises
    ------
    UserError
        If ``fused`` is asked for and cannot run.
    """
    sizes = network_sizes(campaign, variant, samples, samples.average_degree())
    wanted = campaign.training.engine
    reason = why_not_fused(campaign.model, samples, device)
    if wanted == "torch" and campaign.model.plain_pna:
        reason = "training.engine=torch"
    if not reason:
        return FusedCpu(sizes, samples), "fused: one shared geometry, on the CPU"
    if wanted == "fused":
        raise UserError(f"training.engine=fused cannot be had: {reason}; set training.engine=auto")
    engine = general(campaign.model, sizes, samples, device)
    return engine, f"{engine.name}: {reason}"


def general(model: Model, sizes: NetworkSizes, samples: Samples, device: torch.device) -> Engine:
    """Return the engine that takes any samples on any device."""
    if model.plain_pna:
        return TorchEngine(sizes, samples, device)
    # Not at the top: PyTorch Geometric takes seconds to load, and PNA does without it.
    from hydragnn_hpc.member.library_engine import LibraryEngine
    from hydragnn_hpc.member.library_network import Trunk

    trunk = Trunk(model.convolution, model.edges.number if model.edges else 0, samples.structure.cutoff)
    return LibraryEngine(sizes, trunk, samples, device)


def why_not_fused(model: Model, samples: Samples, device: torch.device) -> str:
    """Say why the fused engine cannot train these samples on this device, or ``""`` if it can."""
    if not model.plain_pna:
        return f"{model.convolution}{' with edge features' if model.edges else ''}, on PyTorch Geometric's layers"
    if device.type != "cpu":
        return f"the device is {device.type}"
    if not samples.structure.shared_geometry:
        return "the samples have geometries of their own"
    if samples.missing():
        return "some target values are missing"
    return unavailable()
