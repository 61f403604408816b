"""Training steps as CUDA or XPU graphs: all launches of a step become one.

The order of an epoch's samples and the optimiser's factors are sent to the device once, and a counter there selects
those of each step. Every graph is verified: it is used only if its first replay agrees with the step itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.errors import first_line
from hydragnn_hpc.member.engine.interface import DeviceStep, Engine, RepeatableEngine
from hydragnn_hpc.member.engine.resident import check_batch, send
from hydragnn_hpc.member.engine.sizes import Array
from hydragnn_hpc.member.engine.steps import EpochPlan, PlainSteps, StackState, Steps

_CLASSES = {"cuda": "CUDAGraph", "xpu": "XPUGraph"}
"""Torch's class of graphs in the module of each type of device; the modules' other functions have the same names."""


def why_not_captured(device: torch.device) -> str:
    """Return why no step can be captured on this device, ``""`` if steps can."""
    if device.type in _CLASSES and hasattr(torch.get_device_module(device), _CLASSES[device.type]):
        return ""
    return f"torch {torch.__version__} has no {device.type} graphs"


def steps_of(engine: Engine) -> Steps:
    """Return what runs the engine's steps: as graphs where the engine allows it."""
    return CapturedSteps(cast(RepeatableEngine, engine)) if engine.captured else PlainSteps(engine)


class CaptureError(RuntimeError):
    """A step could not be captured.

    torch then remains in a state in which it believes that a capture is under way: the process must end.
    """


@dataclass(frozen=True)
class _Fixed:
    """What the graphs of one state read from fixed memory.

    Attributes
    ----------
    order : int64 tensor [steps, E, B]
        Sample numbers of each step; the last row is completed from the start of each member's order.
    factors : tensor [steps, ...]
    number : int64 tensor [1]
        The number of the next step.
    """

    state: StackState
    order: Tensor
    factors: Tensor
    number: Tensor

    def written(self) -> list[Tensor]:
        """All that a step writes; the last two are the gradients and the parameters."""
        state = self.state
        moments = [state.optimizer.state[name] for name in state.optimizer.MOMENTS]
        return [state.buffers, state.losses, self.number, *moments, state.gradients, state.parameters]


@dataclass
class _Shape:
    """For batches of one number of samples: their bounds, the step, and its graph once it is captured."""

    bounds: tuple[int, ...]
    step: DeviceStep
    graph: Any = None


class CapturedSteps:
    """Runs steps as graphs, one for each number of samples of a batch.

    All graphs share one pool of memory. It is released, with the working memory of the steps, when another state
    follows, that of a stack that has shrunk.
    """

    def __init__(self, engine: RepeatableEngine) -> None:
        self._engine = engine
        self._module = torch.get_device_module(engine.device)
        self._fixed: _Fixed | None = None
        self._shapes: dict[int, _Shape] = {}
        self._pool: Any = None

    def run(self, state: StackState, plan: EpochPlan) -> Iterator[None]:
        """See `Steps`.

        Raises
        ------
        CaptureError
            If a step cannot be captured, or its graph gives other numbers.
        """
        self.load(state, plan)
        for index in plan.batches:
            shape = self._shapes[index.shape[1]]
            if shape.graph is None:
                shape.graph = self._capture(index.shape[1])
            shape.graph.replay()
            yield

    def load(self, state: StackState, plan: EpochPlan) -> None:
        """Begin an epoch: send its order and factors to the device."""
        batches = plan.batches
        for index in batches:
            check_batch(index, self._engine.graphs)
        members, samples = plan.order.shape
        wrapped = plan.order[:, np.arange(len(batches) * plan.size) % samples]
        order = np.ascontiguousarray(wrapped.reshape(members, len(batches), plan.size).swapaxes(0, 1))
        fixed = self._fixed
        if fixed is None or fixed.state is not state or fixed.order.shape != order.shape:
            self._release()
            number = torch.zeros(1, dtype=torch.int64, device=self._engine.device)
            self._fixed = _Fixed(state, send(order, self._engine.device), plan.factors.clone(), number)
        else:
            fixed.order.copy_(send(order, self._engine.device))
            fixed.factors.copy_(plan.factors)
            fixed.number.zero_()
        state.losses.zero_()
        for size in {index.shape[1] for index in batches}:
            self._prepare(order[..., :size])

    def _prepare(self, order: Array) -> None:
        """Prepare a step for any batch of ``order`` [steps, E, B], unless there is one."""
        _, members, samples = order.shape
        bounds, shape = self._engine.bounds(order), self._shapes.pop(samples, None)
        if shape is not None:
            bounds = tuple(map(max, bounds, shape.bounds))
        if shape is None or shape.bounds != bounds:
            del shape  # first, so that its memory can be used again
            shape = _Shape(bounds, self._engine.prepare(members, samples, bounds))
        self._shapes[samples] = shape

    def step(self, samples: int) -> None:
        """Take the next step, of a batch of so many samples, without a graph."""
        assert self._fixed is not None
        fixed, state = self._fixed, self._fixed.state
        numbers = fixed.order.index_select(0, fixed.number)[0]
        if samples < numbers.shape[1]:
            numbers = numbers[:, :samples].contiguous()
        losses = self._shapes[samples].step(state.parameters, state.gradients, state.buffers, numbers)
        state.finish_step(self._engine, losses, samples, fixed.factors.index_select(0, fixed.number)[0])
        fixed.number.add_(1)

    def _release(self) -> None:
        had_graphs = any(shape.graph is not None for shape in self._shapes.values())
        self._fixed = self._pool = None
        self._shapes.clear()
        if had_graphs:
            self._module.empty_cache()  # which otherwise keeps the memory of a pool that is not used any more

    def _capture(self, samples: int) -> Any:
        """Capture a step, compare its replay with the step itself, and leave everything as it was."""
        assert self._fixed is not None
        if reason := why_not_captured(self._engine.device):
            raise CaptureError(reason)
        order, tensors = self._fixed.order, self._fixed.written()
        before, planned = [tensor.clone() for tensor in tensors], order.clone()
        # Other samples than those captured, so as to detect a graph with its samples built in: another step's, or,
        # where an epoch is one step, another member's.
        others = planned.roll((1, 1), (0, 1))
        order.copy_(others)
        # Twice: libraries allocate memory and may tune their kernels at the first call.
        for _ in range(2):
            _copy(before, tensors)
            self.step(samples)
        expected = [tensor.clone() for tensor in tensors]
        # Whatever a step writes becomes NaN, so that nothing which the replay fails to write can pass for its result.
        _copy(before, tensors)
        self._fixed.state.parameters.fill_(torch.nan)
        self.step(samples)
        _copy([*before, planned], [*tensors, order])
        try:
            if self._pool is None:
                self._pool = self._module.graph_pool_handle()
            graph = getattr(self._module, _CLASSES[self._engine.device.type])()
            with self._module.graph(graph, pool=self._pool):
                self.step(samples)
            order.copy_(others)
            graph.replay()
            right = _same_step(before, tensors, expected)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CaptureError(first_line(error)) from error
        if not right:
            raise CaptureError("the first replay gave other numbers than the step itself")
        _copy([*before, planned], [*tensors, order])
        return graph


def _copy(values: list[Tensor], tensors: list[Tensor]) -> None:
    for value, tensor in zip(values, tensors, strict=True):
        tensor.copy_(value)


def _same_step(before: list[Tensor], actual: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether two steps from the same tensors gave the same; the tensors are those of `_Fixed.written`.

    Gradients are compared only by what they change, because the optimiser may overwrite them with its step.
    """
    same = [*map(_alike, actual[:-2], expected[:-2])]
    # In the mean: where a gradient is nearly zero, rounding determines the direction of Adam's step.
    change, right = ((parameters - before[-1]).abs().mean(1, keepdim=True) for parameters in (actual[-1], expected[-1]))
    return bool(torch.stack([*same, _alike(change, right, 1e-2)]).all())


def _alike(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> Tensor:
    """Whether two results [E, ...] agree to within rounding, as when a library chooses another algorithm.

    A member that has diverged has the same infinities and NaN in both.
    """
    actual, expected = (t.reshape(len(t), -1).double() for t in (actual, expected))
    largest = torch.where(expected.isfinite(), expected, 0.0).abs().amax(1, keepdim=True)
    close = (actual - expected).abs() <= tolerance * largest
    return (close | (actual == expected) | (actual.isnan() & expected.isnan())).all()
