"""The fused engine: training steps and predictions of stacked members over one geometry, on one core."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.sizes import Array, Geometry, NetworkSizes, ParameterTable, check_table
from hydragnn_hpc.member.fused.kernels import library, unavailable
from hydragnn_hpc.member.fused.plan import build_plan

ALIGNMENT = 64


class FusedEngine:
    """Compiled PNA network for E stacked members (Corso et al. 2020; the algebra is in ``source/fold.h``).

    Parameters
    ----------
    sizes : NetworkSizes
    table : ParameterTable
        Where each parameter lies in a member's flat vector.
    geometry : Geometry
        Shared by all samples.
    inputs : array [S, n, F0]
        Node inputs, of the engine's dtype (float32; float64 is for tests).
    targets : mapping of str to array
        Per task [S, n, d] or, at graph level, [S, d]; NaN where it is missing, and then not counted.

    Raises
    ------
    UserError
        If the kernels cannot be compiled here, or arrays and sizes do not fit together.

    Notes
    -----
    A member's numbers depend on its own parameters, buffers and index alone, bit for bit: not on E, nor on its place.
    """

    def __init__(
        self,
        sizes: NetworkSizes,
        table: ParameterTable,
        geometry: Geometry,
        inputs: Array,
        targets: Mapping[str, Array],
    ) -> None:
        self.sizes, self.layout, self.geometry = sizes, table, geometry
        self.dtype = np.dtype(inputs.dtype)
        if self.dtype.name not in ("float32", "float64"):
            raise UserError(f"node inputs have dtype {self.dtype}; the fused engine takes float32")
        if reason := unavailable(self.dtype):
            raise UserError(f"the fused engine cannot run here: {reason}; use engine 'torch'")
        check_table(sizes, table)
        self.n_samples = len(inputs)
        inputs = self._data("node inputs", inputs, (geometry.n_atoms, sizes.inputs))
        checked = {t.name: self._data(f"target '{t.name}'", targets[t.name], self._shape(t.name)) for t in sizes.tasks}
        self._library = library(self.dtype.name)
        self._plan = build_plan(sizes, table, geometry, inputs, checked)
        self._memory = np.empty(0, np.uint8)

    def step(self, parameters: Any, gradients: Any, buffers: Any, index: Any) -> Array:
        """Forward and backward of one batch of every member.

        Parameters
        ----------
        parameters, gradients : torch CPU tensor or array [E, P]
            Of the engine's dtype, contiguous. ``gradients`` is overwritten, padding with zeros.
        buffers : torch CPU tensor or array [E, Q]
            Running statistics, updated.
        index : int array [E, B]
            Sample numbers.

        Returns
        -------
        float64 array [E, T]
            Mean squared error per task over the known targets, not weighted.

        Raises
        ------
        UserError
            If a shape, dtype or sample number does not fit, or batch norm would see one value only.
        """
        index = self._index(index)
        members, samples = index.shape
        if samples * self.geometry.n_atoms < 2:
            raise UserError("a batch of one sample of one atom has no batch statistics; make the batches larger")
        parameters, gradients = (
            self._stack(name, value, members, self.layout.parameter_size)
            for name, value in (("parameters", parameters), ("gradients", gradients))
        )
        buffers = self._stack("buffers", buffers, members, self.layout.buffer_size)
        losses = np.empty((members, len(self.sizes.tasks)))
        memory = self._working_memory(samples)
        arrays = (_address(array) for array in (parameters, gradients, buffers, index, losses))
        self._library.fused_step(self._plan.pointer, memory, ctypes.c_int64(members), ctypes.c_int64(samples), *arrays)
        return losses

    def predict(self, parameters: Any, buffers: Any, index: Any) -> dict[str, Array]:
        """Values of every task in evaluation mode (running statistics), for any number of samples.

        Returns
        -------
        dict of str to array
            Per task [E, B, n, d] or, at graph level, [E, B, d], of the engine's dtype.

        Raises
        ------
        UserError
            As `step`.
        """
        index = self._index(index)
        members, samples = index.shape
        parameters = self._stack("parameters", parameters, members, self.layout.parameter_size)
        buffers = self._stack("buffers", buffers, members, self.layout.buffer_size)
        out = {t.name: np.empty((*index.shape, *self._shape(t.name)), self.dtype) for t in self.sizes.tasks}
        pointers = (ctypes.c_void_p * len(out))(*(array.ctypes.data for array in out.values()))
        memory = self._working_memory(self._library.fused_lanes())
        arrays = (_address(array) for array in (parameters, buffers, index))
        self._library.fused_predict(
            self._plan.pointer, memory, ctypes.c_int64(members), ctypes.c_int64(samples), *arrays, pointers
        )
        return out

    def adam(
        self, parameters: Any, gradients: Any, moments: tuple[Any, Any], factors: Any, betas: tuple[float, float]
    ) -> None:
        """One step of Adam for every member, in one pass over memory: seven of torch's cost a tenth of a training.

        Parameters
        ----------
        parameters, gradients : torch CPU tensor or array [E, P]
            ``parameters`` is updated.
        moments : pair of torch CPU tensors or arrays [E, P]
            Running means of the gradient and of its square, updated.
        factors : torch CPU tensor or array [2, E]
            What is added to the root of the second moment, and what the ratio is multiplied by (minus the learning
            rate), both with Adam's corrections for the first steps.
        betas : (float, float)

        Raises
        ------
        UserError
            If a shape or dtype does not fit.
        """
        members, width = len(parameters), self.layout.parameter_size
        named = {"parameters": parameters, "gradients": gradients, "first moment": moments[0], "second": moments[1]}
        arrays = [_address(self._stack(name, value, members, width)) for name, value in named.items()]
        both = self._stack("factors", factors, 2, members)
        c_betas = (ctypes.c_double * 2)(*betas)
        self._library.fused_adam(self._plan.pointer, c_betas, ctypes.c_int64(members), *arrays, _address(both))

    def _shape(self, name: str) -> tuple[int, ...]:
        """Shape of one sample's target."""
        task = next(task for task in self.sizes.tasks if task.name == name)
        return (self.geometry.n_atoms, task.width) if task.level == "node" else (task.width,)

    def _data(self, name: str, array: Array, shape: tuple[int, ...]) -> Array:
        expected = (self.n_samples, *shape)
        if array.shape != expected or array.dtype != self.dtype:
            raise UserError(
                f"{name}: {array.dtype} {array.shape}, expected {self.dtype} {expected}; prepare the data again"
            )
        return np.ascontiguousarray(array)

    def _stack(self, name: str, value: Any, members: int, width: int) -> Array:
        array: Array = np.asarray(value)
        if array.shape != (members, width) or array.dtype != self.dtype or not array.flags.c_contiguous:
            raise UserError(f"{name}: {array.dtype} {array.shape}, expected contiguous {self.dtype} {(members, width)}")
        return array

    def _index(self, index: Any) -> Array:
        array: Array = np.ascontiguousarray(index, np.int64)
        if array.ndim != 2 or array.size == 0:
            raise UserError(f"index: shape {array.shape}, expected [members, samples], neither of them zero")
        if array.min() < 0 or array.max() >= self.n_samples:
            raise UserError(f"index: samples {array.min()} to {array.max()}, but there are {self.n_samples}")
        return array

    def _working_memory(self, samples: int) -> ctypes.c_void_p:
        """Address of enough aligned memory for batches of ``samples``; it grows and is kept."""
        need = self._library.fused_memory(self._plan.pointer, ctypes.c_int64(samples)) + ALIGNMENT
        if len(self._memory) < need:
            self._memory = np.zeros(need, np.uint8)
        address = self._memory.ctypes.data
        return ctypes.c_void_p(address + -address % ALIGNMENT)


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
