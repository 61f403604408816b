"""The fused engine's kernels behind the interface of every engine."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.optimize import BETA_1, BETA_2, Adam
from hydragnn_hpc.member.engine.sizes import Array, Geometry, NetworkSizes
from hydragnn_hpc.member.engine.training_data import Samples
from hydragnn_hpc.member.fused.engine import FusedEngine


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
