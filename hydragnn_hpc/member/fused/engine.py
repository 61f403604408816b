"""The fused engine: training steps and predictions of stacked members, on one core."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.optimize import BETA_1, BETA_2, Adam, Optimizer
from hydragnn_hpc.member.engine.resident import check_batch, prediction_batch_size
from hydragnn_hpc.member.engine.sizes import Array, NetworkSizes
from hydragnn_hpc.member.engine.training_data import SampleGraphs, TrainingData
from hydragnn_hpc.member.fused.kernels import library, unavailable
from hydragnn_hpc.member.fused.plan import CBetas, build_plan

ALIGNMENT = 64
"""Of the working memory, bytes: the widest vector of ``source/vector.h``."""


class FusedEngine:
    """Compiled PNA network for E stacked members on the CPU (Corso et al. 2020; the algebra is in ``source/fold.h``).

    Parameters
    ----------
    sizes : NetworkSizes
    data : TrainingData
    dtype : torch.dtype
        float32; float64 for tests.
    shared : bool, optional
        Whether vector lanes are samples, which must all share one geometry; otherwise they are features. By default
        they are samples wherever all share one.

    Raises
    ------
    UserError
        If the kernels cannot be compiled here.
    """

    name = "fused"
    captured = False

    def __init__(
        self,
        sizes: NetworkSizes,
        data: TrainingData,
        dtype: torch.dtype = torch.float32,
        *,
        shared: bool | None = None,
    ) -> None:
        self.sizes, self.device = sizes, torch.device("cpu")
        self.layout = ParameterLayout.of(sizes)
        self.dtype = np.dtype(str(dtype).removeprefix("torch."))
        if reason := unavailable(self.dtype):
            raise UserError(f"the fused engine cannot run here: {reason}; use engine 'torch'")
        self._shared = data.graphs.shared_geometry if shared is None else shared
        self._graphs, self._samples = data.graphs, len(data.graphs.sample_geometry)
        inputs = self._contiguous(data.inputs)
        targets = {task.name: self._contiguous(data.targets[task.name]) for task in sizes.tasks}
        self._counts = _counts(data.graphs)
        self._library = library(self.dtype.name)
        self.lanes: int | None = self._library.fused_lanes()
        self._plan = build_plan(sizes, self.layout, data.graphs, inputs, targets, shared=self._shared)
        self._memory = np.empty(0, np.uint8)

    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """See `hydragnn_hpc.member.engine.interface.Engine`.

        Raises
        ------
        UserError
            If a shape, dtype or sample number is invalid, or a batch is one sample of one atom: no batch statistics.
        """
        index = self._index(index)
        check_batch(index, self._graphs)
        members, samples = index.shape
        width = self.layout.parameter_size
        arrays = [
            self._stack("parameters", parameters, members, width),
            self._stack("gradients", gradients, members, width),
            self._stack("buffers", buffers, members, self.layout.buffer_size),
        ]
        losses = np.empty((members, len(self.sizes.tasks)))
        addresses = [_address(array) for array in (*arrays, index, losses)]
        if self._shared:
            memory = self._working_memory(self._library.fused_memory, samples)
            self._library.fused_step(self._plan.pointer, memory, *_sizes(members, samples), *addresses)
        else:
            sizes = (samples, *(int(counts[index].sum(1).max()) for counts in self._counts))
            memory = self._working_memory(self._library.varying_memory, *sizes, 1)
            self._library.varying_step(self._plan.pointer, memory, *_sizes(members, *sizes), *addresses)
        return torch.from_numpy(losses)

    def predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        """See `hydragnn_hpc.member.engine.interface.Engine`.

        Raises
        ------
        UserError
            If a shape, dtype or sample number is invalid.
        """
        members = len(parameters)
        if not len(index):
            return {task.name: parameters.new_empty(members, 0, task.outputs) for task in self.sizes.tasks}
        index = self._index(np.asarray(index)[None])[0]
        arrays = [
            self._stack("parameters", parameters, members, self.layout.parameter_size),
            self._stack("buffers", buffers, members, self.layout.buffer_size),
        ]
        if self._shared:
            predicted = [self._predict_shared(arrays, index)]
        else:
            predicted = [self._predict_varying(arrays, part) for part in self._parts(index)]
        return {
            task.name: torch.from_numpy(np.concatenate([part[number] for part in predicted], axis=1))
            for number, task in enumerate(self.sizes.tasks)
        }

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

    def _predict_shared(self, arrays: list[Array], index: Array) -> list[Array]:
        """Return the values of every task, [E, rows, outputs]."""
        members, samples = len(arrays[0]), len(index)
        out, pointers = self._outputs(members, samples, int(self._counts[0][index].sum()))
        every = np.tile(index, (members, 1))
        addresses = [_address(array) for array in (*arrays, every)]
        memory = self._working_memory(self._library.fused_memory, self._library.fused_lanes())
        self._library.fused_predict(self._plan.pointer, memory, *_sizes(members, samples), *addresses, pointers)
        return out

    def _predict_varying(self, arrays: list[Array], index: Array) -> list[Array]:
        """Return the values of every task, [E, rows, outputs]."""
        members, sizes = len(arrays[0]), (len(index), *(int(counts[index].sum()) for counts in self._counts))
        out, pointers = self._outputs(members, *sizes[:2])
        addresses = [_address(array) for array in (*arrays, index)]
        memory = self._working_memory(self._library.varying_memory, *sizes, 0)
        self._library.varying_predict(self._plan.pointer, memory, *_sizes(members, *sizes), *addresses, pointers)
        return out

    def _outputs(self, members: int, samples: int, atoms: int) -> tuple[list[Array], Any]:
        """Return arrays for the values of every task, and their addresses."""
        rows = {"graph": samples, "node": atoms}
        out = [np.empty((members, rows[task.level], task.outputs), self.dtype) for task in self.sizes.tasks]
        return out, (ctypes.c_void_p * len(out))(*(array.ctypes.data for array in out))

    def _parts(self, index: Array) -> list[Array]:
        """Divide samples into parts that are predicted together."""
        size = prediction_batch_size(self._graphs, self.device)
        return [index[first : first + size] for first in range(0, len(index), size)]

    def _contiguous(self, values: Array) -> Array:
        return np.ascontiguousarray(values, self.dtype)

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

    def _working_memory(self, measure: Callable[..., int], *sizes: int) -> ctypes.c_void_p:
        """Return the address of enough aligned memory for batches of these sizes; it is kept, and grows as needed."""
        need = measure(self._plan.pointer, *_sizes(*sizes)) + ALIGNMENT
        if len(self._memory) < need:
            self._memory = np.zeros(need, np.uint8)
        address = self._memory.ctypes.data
        return ctypes.c_void_p(address + -address % ALIGNMENT)


def _counts(graphs: SampleGraphs) -> tuple[Array, Array]:
    """Return the numbers of atoms and of edges of every sample."""
    edges = np.diff(graphs.neighbour_offsets[graphs.site_offsets])
    return np.diff(graphs.atom_offsets), edges[graphs.sample_geometry]


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _sizes(*values: int) -> tuple[ctypes.c_int64, ...]:
    return tuple(ctypes.c_int64(value) for value in values)
