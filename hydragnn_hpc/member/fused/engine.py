"""The fused engine: training steps and predictions of stacked members over one geometry, on one core."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.optimize import BETA_1, BETA_2, Adam, Optimizer
from hydragnn_hpc.member.engine.resident import check_statistics
from hydragnn_hpc.member.engine.sizes import Array, NetworkSizes
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.fused.kernels import library, unavailable
from hydragnn_hpc.member.fused.plan import CBetas, build_plan

ALIGNMENT = 64


class FusedEngine:
    """Compiled PNA network for E stacked members on the CPU (Corso et al. 2020; the algebra is in ``source/fold.h``).

    Parameters
    ----------
    sizes : NetworkSizes
    data : TrainingData
        All samples share one geometry.
    dtype : torch.dtype
        float32; float64 for tests.

    Raises
    ------
    UserError
        If the kernels cannot be compiled here.
    """

    name = "fused"

    def __init__(self, sizes: NetworkSizes, data: TrainingData, dtype: torch.dtype = torch.float32) -> None:
        self.sizes, self.device = sizes, torch.device("cpu")
        self.layout = ParameterLayout.of(sizes)
        self.dtype = np.dtype(str(dtype).removeprefix("torch."))
        if reason := unavailable(self.dtype):
            raise UserError(f"the fused engine cannot run here: {reason}; use engine 'torch'")
        self._structure = data.structure
        self._samples, self._atoms = len(data.structure.sample_geometry), int(data.structure.site_offsets[-1])
        inputs = self._data(data.inputs, (self._atoms, sizes.inputs))
        targets = {t.name: self._data(data.targets[t.name], self._shape(t.name)) for t in sizes.tasks}
        self._library = library(self.dtype.name)
        self.lanes: int | None = self._library.fused_lanes()
        self._plan = build_plan(sizes, self.layout, data.structure, inputs, targets)
        self._memory = np.empty(0, np.uint8)

    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """See `hydragnn_hpc.member.engine.interface.Engine`.

        Raises
        ------
        UserError
            If a shape, dtype or sample number is invalid, or a batch of one sample of one atom has no batch statistics.
        """
        index = self._index(index)
        check_statistics(index, self._structure)
        members, samples = index.shape
        width = self.layout.parameter_size
        arrays = [
            self._stack("parameters", parameters, members, width),
            self._stack("gradients", gradients, members, width),
            self._stack("buffers", buffers, members, self.layout.buffer_size),
        ]
        losses = np.empty((members, len(self.sizes.tasks)))
        addresses = [_address(array) for array in (*arrays, index, losses)]
        memory, sizes = self._working_memory(samples), (ctypes.c_int64(members), ctypes.c_int64(samples))
        self._library.fused_step(self._plan.pointer, memory, *sizes, *addresses)
        return torch.from_numpy(losses)

    def predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        """See `hydragnn_hpc.member.engine.interface.Engine`.

        Raises
        ------
        UserError
            If a shape, dtype or sample number is invalid.
        """
        index = self._index(np.tile(index, (len(parameters), 1)))
        members, samples = index.shape
        arrays = [
            self._stack("parameters", parameters, members, self.layout.parameter_size),
            self._stack("buffers", buffers, members, self.layout.buffer_size),
        ]
        out = {t.name: np.empty((*index.shape, *self._shape(t.name)), self.dtype) for t in self.sizes.tasks}
        pointers = (ctypes.c_void_p * len(out))(*(array.ctypes.data for array in out.values()))
        addresses = [_address(array) for array in (*arrays, index)]
        memory, sizes = (
            self._working_memory(self._library.fused_lanes()),
            (ctypes.c_int64(members), ctypes.c_int64(samples)),
        )
        self._library.fused_predict(self._plan.pointer, memory, *sizes, *addresses, pointers)
        return {name: torch.from_numpy(v).reshape(members, -1, v.shape[-1]) for name, v in out.items()}

    def update(self, optimizer: Optimizer, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """See `hydragnn_hpc.member.engine.interface.Engine`.

        Adam without weight decay takes one pass over memory; torch's seven passes cost a tenth of the training time.
        """
        if not isinstance(optimizer, Adam) or optimizer.options.weight_decay:
            optimizer.step(parameters, gradients, factors)
            return
        members, width = len(parameters), self.layout.parameter_size
        moments = {name: optimizer.state[name] for name in optimizer.MOMENTS}
        named = {"parameters": parameters, "gradients": gradients, **moments}
        arrays = [_address(self._stack(name, value, members, width)) for name, value in named.items()]
        both = self._stack("factors", factors[:2].view(2, -1), 2, members)
        betas = ctypes.byref(CBetas(BETA_1, BETA_2))
        self._library.fused_adam(self._plan.pointer, betas, ctypes.c_int64(members), *arrays, _address(both))

    def _shape(self, name: str) -> tuple[int, ...]:
        """Shape of one sample's target."""
        task = next(task for task in self.sizes.tasks if task.name == name)
        return (self._atoms, task.width) if task.level == "node" else (task.width,)

    def _data(self, values: Array, shape: tuple[int, ...]) -> Array:
        return np.ascontiguousarray(values, self.dtype).reshape(self._samples, *shape)

    def _stack(self, name: str, value: Any, members: int, width: int) -> Array:
        array: Array = np.asarray(value)
        if array.shape != (members, width) or array.dtype != self.dtype or not array.flags.c_contiguous:
            raise UserError(f"{name}: {array.dtype} {array.shape}, expected contiguous {self.dtype} {(members, width)}")
        return array

    def _index(self, index: Any) -> Array:
        array: Array = np.ascontiguousarray(index, np.int64)
        if array.ndim != 2 or array.size == 0:
            raise UserError(f"index: shape {array.shape}, expected [members, samples], neither of them zero")
        if array.min() < 0 or array.max() >= self._samples:
            raise UserError(f"index: samples {array.min()} to {array.max()}, but there are {self._samples}")
        return array

    def _working_memory(self, samples: int) -> ctypes.c_void_p:
        """Address of enough aligned memory for batches of ``samples``; it is kept, and grows."""
        need = self._library.fused_memory(self._plan.pointer, ctypes.c_int64(samples)) + ALIGNMENT
        if len(self._memory) < need:
            self._memory = np.zeros(need, np.uint8)
        address = self._memory.ctypes.data
        return ctypes.c_void_p(address + -address % ALIGNMENT)


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
