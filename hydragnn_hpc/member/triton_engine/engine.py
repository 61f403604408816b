"""The engine of a GPU: PNA in Triton's kernels over any graphs, E members at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.head_groups import head_groups, resident_targets
from hydragnn_hpc.member.engine.interface import DeviceStep
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.optimize import BETA_1, BETA_2, Adam, AdamW, Optimizer
from hydragnn_hpc.member.engine.resident import check_batch, prediction_batch_size, resident, send, vector_lanes
from hydragnn_hpc.member.engine.sizes import Array, NetworkSizes
from hydragnn_hpc.member.engine.training_data import SampleGraphs, TrainingData
from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.triton_engine import heads, rows, trunk
from hydragnn_hpc.member.triton_engine.heads import Heads
from hydragnn_hpc.member.triton_engine.rows import BatchGeometry
from hydragnn_hpc.member.triton_engine.trunk import TrunkKernels
from hydragnn_hpc.member.triton_engine.trunk_launches import adam


def _rounded(size: int) -> int:
    """Return the size rounded up to four binary digits: by an eighth at most."""
    unit = 1 << max(0, size.bit_length() - 4)
    return -(-size // unit) * unit


def unsupported(sizes: NetworkSizes, graphs: SampleGraphs) -> str:
    """Return why the kernels cannot train such a network on such graphs, ``""`` if they can."""
    return trunk.unsupported(sizes) or heads.unsupported(sizes) or rows.unsupported(graphs)


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
        Whether steps become graphs of the device (`hydragnn_hpc.member.engine.captured`).
    """

    name = "triton"

    def __init__(
        self, sizes: NetworkSizes, data: TrainingData, device: torch.device, dtype: torch.dtype = torch.float32,
        capture: bool = False,
    ) -> None:  # fmt: skip
        self.sizes, self.device, self.lanes = sizes, device, vector_lanes(device)
        self.layout = ParameterLayout.of(sizes)
        self.graphs = data.graphs
        self._like = torch.empty(0, dtype=dtype, device=device)
        self._geometry = BatchGeometry(data.graphs, sizes, device, dtype)
        self._inputs = resident(data.inputs, device, dtype)
        self._groups = head_groups(sizes)
        self._targets, missing = resident_targets(self._groups, data, device, dtype)
        self._trunk = TrunkKernels(sizes, self.layout, self._geometry, self._like)
        self._heads = Heads(sizes, self.layout, self._like, missing)
        self._arena = Arena(self._like)
        self.captured = capture

    @torch.no_grad()
    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """See `hydragnn_hpc.member.engine.interface.Engine`.

        Raises
        ------
        UserError
            If a member's batch is one sample of one atom, which has no batch statistics, or is too large.
        """
        check_batch(index, self.graphs)
        step = self._within(self._sizes_of(index), index.shape[1], self._arena)
        return step(parameters, gradients, buffers, send(index, self.device))

    def bounds(self, order: Array) -> tuple[int, ...]:
        """Return the rows and edges of the largest batch, rounded up so that few later epochs have a larger one.

        Rows beyond those of a batch cost little: their programs end at once.
        """
        sizes = self._sizes_of(order)
        return sizes if self._geometry.shared else tuple(map(_rounded, sizes))

    def _sizes_of(self, index: Array) -> tuple[int, int]:
        """Return the most rows and edges of a member's batch (`BatchGeometry.sizes_of`).

        Raises
        ------
        UserError
            If an index into one of the member's arrays would not be an int32, as it is in the kernels.
        """
        number, edges = self._geometry.sizes_of(index)
        of_edges = edges * self._trunk.width if self.sizes.edges else 0
        if max(number * self._heads.widest, number * self._trunk.width, of_edges) > 2**31 - 1:
            raise UserError(
                f"a batch has {number:,} atoms and {edges:,} edges, too many for Triton's kernels; set a smaller"
                " training.batch_size, or training.engine=torch"
            )
        return number, edges

    def prepare(self, members: int, samples: int, bounds: tuple[int, ...]) -> DeviceStep:
        """See `hydragnn_hpc.member.engine.interface.RepeatableEngine`."""
        return self._within(bounds, samples, Arena(self._like))

    def _within(self, bounds: tuple[int, ...], samples: int, arena: Arena) -> DeviceStep:
        """Return the step for batches of ``samples`` samples of at most as many rows and edges as ``bounds``."""
        number, edges = bounds
        tiles = self._geometry.tiles(samples, number)

        def step(parameters: Tensor, gradients: Tensor, buffers: Tensor, numbers: Tensor) -> Tensor:
            batch = self._geometry.rows(numbers, number, arena)
            forward = self._trunk.forward(batch, tiles, edges, self._inputs, parameters, buffers, arena, training=True)
            back = self._heads.train(forward.features, batch, self._targets, parameters, gradients)
            self._trunk.backward(forward, back, gradients, arena)
            return back.losses

        return step

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
        size = prediction_batch_size(self.graphs, self.device, members)
        # Empty ones first: there may be no samples.
        predicted = {t.name: [parameters.new_empty(members, 0, t.outputs)] for t in self.sizes.tasks}
        for first in range(0, len(index), size):
            values = self._predict(parameters, buffers, np.tile(index[first : first + size], (members, 1)))
            for group, value in zip(self._groups, values, strict=True):
                by_task = torch.unflatten(value, 2, (len(group.tasks), -1)).unbind(2)
                for task, own in zip(group.tasks, by_task, strict=True):
                    predicted[task.name].append(own)
        return {name: torch.cat(values, 1) for name, values in predicted.items()}

    def _predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> list[Tensor]:
        """Return the outputs of each group of heads for samples ``index`` [E, B], atoms in the order of the samples."""
        (number, edges), arena = self._sizes_of(index), self._arena
        batch = self._geometry.rows(send(index, self.device), number, arena)
        tiles = self._geometry.tiles(batch.samples, number)
        forward = self._trunk.forward(batch, tiles, edges, self._inputs, parameters, buffers, arena, training=False)
        values = self._heads.predict(forward.features, batch, parameters)
        of_atoms = [group.level == "node" for group in self._groups]
        order = self._geometry.order(batch.samples) if any(of_atoms) else None
        if order is None:
            return values
        return [value[:, order] if node else value for value, node in zip(values, of_atoms, strict=True)]
