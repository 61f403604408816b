"""The engine of a GPU: PNA in Triton's kernels over any graphs, E members at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.engine.head_groups import head_groups, resident_targets
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.optimize import BETA_1, BETA_2, Adam, AdamW, Optimizer
from hydragnn_hpc.member.engine.resident import check_batch, prediction_batch_size, resident, send, vector_lanes
from hydragnn_hpc.member.engine.sizes import Array, NetworkSizes
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.torch_engine.captured import CapturedSteps, Step
from hydragnn_hpc.member.triton_engine import heads, trunk
from hydragnn_hpc.member.triton_engine.heads import Heads
from hydragnn_hpc.member.triton_engine.rows import BatchGeometry
from hydragnn_hpc.member.triton_engine.trunk import TrunkKernels
from hydragnn_hpc.member.triton_engine.trunk_launches import adam

MOST_PREDICTED = 1024
"""Samples predicted at once: a program describes the rows of all of them."""


def unsupported(sizes: NetworkSizes) -> str:
    """Return why the kernels cannot train such a network, ``""`` if they can."""
    return trunk.unsupported(sizes) or heads.unsupported(sizes)


class TritonEngine:
    """Training steps and predictions of stacked members.

    Every program of a kernel belongs to one member, and how the work is divided does not depend on E: the same bits in
    any stack. The number of launches does not depend on E either.

    Parameters
    ----------
    sizes : NetworkSizes
    data : TrainingData
    device : torch.device
        Where the data set's inputs and targets are kept.
    dtype : torch.dtype
        float32; float64 for tests.
    capture : bool, optional
        Whether steps over one geometry become graphs of the device (`captured`).
    """

    name = "triton"

    def __init__(
        self, sizes: NetworkSizes, data: TrainingData, device: torch.device, dtype: torch.dtype = torch.float32,
        capture: bool = False,
    ) -> None:  # fmt: skip
        self.sizes, self.device, self.lanes = sizes, device, vector_lanes(device)
        self.layout = ParameterLayout.of(sizes)
        self._graphs = data.graphs
        self._like = torch.empty(0, dtype=dtype, device=device)
        self._geometry = BatchGeometry(data.graphs, sizes, device, dtype)
        self._inputs = resident(data.inputs, device, dtype)
        self._groups = head_groups(sizes)
        self._targets, missing = resident_targets(self._groups, data, device, dtype)
        self._trunk = TrunkKernels(sizes, self.layout, self._geometry, self._like)
        self._heads = Heads(sizes, self.layout, self._like, missing)
        self._arena = Arena(self._like)
        self._captured = CapturedSteps(self._prepare) if capture and self._geometry.shared else None

    @torch.no_grad()
    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """See `hydragnn_hpc.member.engine.interface.Engine`.

        Raises
        ------
        UserError
            If a member's batch is one sample of one atom, which has no batch statistics.
        CaptureError
            If the step cannot be captured: the process must end.
        """
        check_batch(index, self._graphs)
        numbers = send(index.reshape(-1), self.device)
        if self._captured is not None:
            return self._captured.step(parameters, gradients, buffers, numbers, index.shape)
        state = (parameters, gradients, buffers)
        return self._step(*state, numbers.view(index.shape), self._geometry.sizes_of(index), self._arena)

    def _prepare(self, members: int, samples: int) -> Step:
        """Return a step over one geometry with its own working memory."""
        sizes, arena = self._geometry.sizes_of(np.zeros((members, samples), np.int64)), Arena(self._like)

        def step(parameters: Tensor, gradients: Tensor, buffers: Tensor, numbers: Tensor) -> Tensor:
            return self._step(parameters, gradients, buffers, numbers.view(members, samples), sizes, arena)

        return step

    def _step(
        self, parameters: Tensor, gradients: Tensor, buffers: Tensor, numbers: Tensor, sizes: tuple[int, int],
        arena: Arena,
    ) -> Tensor:  # fmt: skip
        """Run one batch forward and backward, all on the device; return the losses [E, T]."""
        rows = self._geometry.rows(numbers, sizes[0], arena)
        tiles = self._geometry.tiles(rows.samples, rows.rows)
        made = self._trunk.forward(rows, tiles, sizes[1], self._inputs, parameters, buffers, arena, training=True)
        back = self._heads.train(made.features, rows, self._targets, parameters, gradients)
        self._trunk.backward(made, back, gradients, arena)
        return back.losses

    def update(self, optimizer: Optimizer, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """See `hydragnn_hpc.member.engine.interface.Engine`."""
        if not isinstance(optimizer, Adam):
            optimizer.step(parameters, gradients, factors)
            return
        first, second = (optimizer.state[name] for name in optimizer.MOMENTS)
        decay, decoupled = optimizer.options.weight_decay, isinstance(optimizer, AdamW)
        adam(parameters, gradients, first, second, factors, BETA_1, BETA_2, decay, decoupled)

    @torch.no_grad()
    def predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        """See `hydragnn_hpc.member.engine.interface.Engine`."""
        members = len(parameters)
        size = min(prediction_batch_size(self._graphs, self.device, members), MOST_PREDICTED)
        predicted: dict[str, list[Tensor]] = {t.name: [] for t in self.sizes.tasks}
        for first in range(0, len(index), size):
            batch = np.tile(index[first : first + size], (members, 1))
            number, edges = self._geometry.sizes_of(batch)
            rows = self._geometry.rows(send(batch, self.device), number, self._arena)
            tiles, order = self._geometry.tiles(rows.samples, number), self._geometry.order(rows.samples)
            made = self._trunk.forward(
                rows, tiles, edges, self._inputs, parameters, buffers, self._arena, training=False
            )
            values = self._heads.predict(made.features, rows, parameters)
            for group, computed in zip(self._groups, values, strict=True):
                value = computed if group.level == "graph" or order is None else computed[:, order]
                for task, own in zip(
                    group.tasks, torch.unflatten(value, 2, (len(group.tasks), -1)).unbind(2), strict=True
                ):
                    predicted[task.name].append(own)
        return {name: torch.cat(values, 1) for name, values in predicted.items()}
