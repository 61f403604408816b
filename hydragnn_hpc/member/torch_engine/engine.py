"""The torch engine: PNA in plain torch over any graphs, on any device, E members at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.engine.head_groups import head_groups, resident_targets
from hydragnn_hpc.member.engine.interface import DeviceStep
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.optimize import Optimizer
from hydragnn_hpc.member.engine.resident import check_batch, prediction_batch_size, resident, vector_lanes
from hydragnn_hpc.member.engine.sizes import Array, NetworkSizes
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.torch_engine.batches import Batch, Batches
from hydragnn_hpc.member.torch_engine.network import Network
from hydragnn_hpc.member.torch_engine.weights import Weights

ROOM_ON_CPU = 8192
"""Padded neighbours processed together on a CPU: as many as fit into a core's caches."""
UNLIMITED = 2**62


class TorchEngine:
    """Training steps and predictions of stacked members.

    Parameters
    ----------
    sizes : NetworkSizes
    data : TrainingData
    device : torch.device
        Where the data set's inputs and targets are kept.
    dtype : torch.dtype
        float32; float64 for tests.
    together : bool, optional
        Whether each kernel processes all members of a stack, so that the number of launches does not depend on E: the
        default on accelerators. On a CPU members are processed one after the other: a launch costs little there, one
        member's arrays stay in the caches, and every member has the same bits in any stack, whatever the matrix
        library does.
    capture : bool, optional
        Whether steps over one geometry become CUDA or XPU graphs (`captured`).
    """

    name = "torch"

    def __init__(
        self,
        sizes: NetworkSizes,
        data: TrainingData,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        together: bool | None = None,
        capture: bool = False,
    ) -> None:
        self.sizes, self.device, self.lanes = sizes, device, vector_lanes(device)
        self.layout = ParameterLayout.of(sizes)
        self._together = device.type != "cpu" if together is None else together
        self.graphs = data.graphs
        room = UNLIMITED if self._together or device.type != "cpu" else ROOM_ON_CPU
        self._batches = Batches(data.graphs, sizes, device, dtype, room)
        self._inputs = resident(data.inputs, device, dtype)
        self._groups = head_groups(sizes)
        self._targets, self._missing = resident_targets(self._groups, data, device, dtype)
        # Groups of heads may be in a different order from the tasks.
        order = [task.name for group in self._groups for task in group.tasks]
        column = [order.index(task.name) for task in sizes.tasks]
        self._column = None if column == sorted(column) else torch.tensor(column, device=device)
        self._like = torch.empty(0, dtype=dtype, device=device)
        self._arena = Arena(self._like)
        self.captured = capture and self._together and self._batches.shared
        self._weights: Weights | None = None
        self._network: tuple[tuple[int, ...], Weights, Network] | None = None

    @torch.no_grad()
    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """See `hydragnn_hpc.member.engine.interface.Engine`.

        Raises
        ------
        UserError
            If a member's batch is one sample of one atom, which has no batch statistics.
        """
        check_batch(index, self.graphs)
        if self._together:
            return self._step(parameters, gradients, buffers, index)
        each = [slice(e, e + 1) for e in range(len(index))]
        return torch.cat([self._step(parameters[e], gradients[e], buffers[e], index[e]) for e in each])

    def _step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        batch = self._batches.make(index)
        return self._pass(batch, *self._ready(batch), (parameters, gradients, buffers))

    def bounds(self, order: Array) -> tuple[int, ...]:
        """Return nothing: over one geometry, all batches have the same size."""
        return ()

    def prepare(self, members: int, samples: int, bounds: tuple[int, ...]) -> DeviceStep:
        """See `hydragnn_hpc.member.engine.interface.RepeatableEngine`."""
        weights, fixed = self._weights_of(members), self._batches.fixed(members, samples)
        networks: list[Network] = []

        def step(parameters: Tensor, gradients: Tensor, buffers: Tensor, numbers: Tensor) -> Tensor:
            batch = self._batches.of_numbers(fixed, numbers.T.reshape(-1))
            if not networks:
                networks.append(Network(weights, batch, Arena(self._like)))
            return self._pass(batch, weights, networks[0], (parameters, gradients, buffers))

        return step

    def _pass(self, batch: Batch, weights: Weights, network: Network, state: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Run one batch forward and backward, all on the device; return the losses [E, T]."""
        parameters, gradients, buffers = state
        weights.load(parameters)
        targets = [self._truth(number, batch) for number in range(len(self._groups))]
        losses = network.train(batch, self._inputs[batch.atoms], targets, self._missing or batch.padding is not None)
        weights.unload(gradients)
        members, layers = batch.members, len(self.sizes.channels)
        seen = network.statistics.view(layers, 2, members, -1).permute(2, 0, 1, 3)
        buffers.view(members, layers, 2, -1).lerp_(seen, self.sizes.momentum)
        return losses if self._column is None else losses.index_select(1, self._column)

    def update(self, optimizer: Optimizer, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """See `hydragnn_hpc.member.engine.interface.Engine`."""
        optimizer.step(parameters, gradients, factors)

    @torch.no_grad()
    def predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        """See `hydragnn_hpc.member.engine.interface.Engine`."""
        if self._together:
            return self._predict(parameters, buffers, index)
        parts = [self._predict(parameters[e : e + 1], buffers[e : e + 1], index) for e in range(len(parameters))]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        members, loaded = len(parameters), None
        size = prediction_batch_size(self.graphs, self.device, members)
        # Empty ones first: there may be no samples.
        predicted = {t.name: [parameters.new_empty(members, 0, t.outputs)] for t in self.sizes.tasks}
        for first in range(0, len(index), size):
            batch = self._batches.make(np.tile(index[first : first + size], (members, 1)))
            weights, network = self._ready(batch)
            if loaded is not weights:
                weights.load(parameters)
                loaded = weights
            values = network.predict(batch, self._inputs[batch.atoms], buffers)
            for group, computed in zip(self._groups, values, strict=True):
                # A copy: the next batch is computed in the same memory.
                value = computed.clone() if group.level == "graph" else computed[batch.order]
                by_task = torch.unflatten(value, 2, (len(group.tasks), -1)).permute(2, 1, 0, 3)
                for task, own in zip(group.tasks, by_task, strict=True):
                    predicted[task.name].append(own)
        return {name: torch.cat(values, 1) for name, values in predicted.items()}

    def _truth(self, number: int, batch: Batch) -> Tensor:
        """Return the targets of a group of heads, [R, E, T * d] or [B, E, T * d]; NaN in padded rows."""
        values = self._targets[number]
        if self._groups[number].level == "graph":
            return values[batch.graphs].view(batch.samples, batch.members, -1)
        truth = values[batch.atoms].view(batch.rows, batch.members, -1)
        return truth if batch.padding is None else torch.where(batch.padding.valid > 0, truth, torch.nan)

    def _ready(self, batch: Batch) -> tuple[Weights, Network]:
        """Return the weights for the batch's members, and the network for batches of its shape."""
        if self._network is None or self._network[0] != batch.shape:
            weights = self._weights_of(batch.members)
            self._network = (batch.shape, weights, Network(weights, batch, self._arena))
        return self._network[1:]

    def _weights_of(self, members: int) -> Weights:
        """Return the weights of ``members`` members, which are loaded again for every batch."""
        if self._weights is None or self._weights.members != members:
            self._weights = Weights(self.layout, self.sizes, members, self._batches.blocks, self._like)
        return self._weights
