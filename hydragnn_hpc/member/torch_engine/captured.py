"""Training steps as CUDA or XPU graphs: hundreds of launches become one, for batches of one shape in fixed memory.

Every graph is verified: it is used only if its first replay gives the same as the step without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From parameters, gradients, buffers and sample numbers, all on the device, to losses; does not wait for it."""
State = tuple[Tensor, Tensor, Tensor]
"""Parameters, gradients and buffers of a stack."""


_CLASSES = {"cuda": "CUDAGraph", "xpu": "XPUGraph"}
"""Torch's class of graphs in the module of each type of device; the modules' other functions have the same names."""


def why_not_captured(device: torch.device) -> str:
    """Return why no step can be captured on this device, ``""`` if steps can."""
    if device.type in _CLASSES and hasattr(torch.get_device_module(device), _CLASSES[device.type]):
        return ""
    return f"torch {torch.__version__} has no {device.type} graphs"


class CaptureError(RuntimeError):
    """A step could not be captured.

    torch then remains in a state in which it believes that a capture is under way: the process must end.
    """


@dataclass(frozen=True)
class _Captured:
    """A graph, the memory where it expects sample numbers and leaves losses, and where the stack was in memory."""

    graph: Any
    numbers: Tensor
    losses: Tensor
    addresses: tuple[int, ...]


class CapturedSteps:
    """Runs steps; each combination of batch shape and memory location is captured once.

    All graphs share one pool of memory. It is released, with the working memory of the steps, when a stack of another
    size comes, because a stack only shrinks.

    Parameters
    ----------
    prepare : callable
        Returns a step, with its own working memory, for a number of members and of samples.
    """

    def __init__(self, prepare: Callable[[int, int], Step]) -> None:
        self._prepare = prepare
        self._module: Any = None
        self._members = 0
        self._steps: dict[int, Step] = {}
        self._captured: dict[int, _Captured] = {}
        self._pool: Any = None

    def step(
        self, parameters: Tensor, gradients: Tensor, buffers: Tensor, numbers: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """Run one step; ``numbers`` are the samples of ``shape`` = (members, samples).

        The losses are valid until the next step, which may overwrite them.

        Raises
        ------
        CaptureError
            If the step cannot be captured, or its graph gives other numbers.
        """
        members, samples = shape
        self._module = torch.get_device_module(parameters.device)
        if members != self._members:
            self._release(members)
        if samples not in self._steps:
            self._steps[samples] = self._prepare(members, samples)
        state = (parameters, gradients, buffers)
        addresses = tuple(tensor.data_ptr() for tensor in state)
        if samples not in self._captured or self._captured[samples].addresses != addresses:
            self._captured.pop(samples, None)  # first, so that its memory can be used again
            self._captured[samples] = self._capture(self._steps[samples], state, numbers, addresses)
        captured = self._captured[samples]
        captured.numbers.copy_(numbers)
        captured.graph.replay()
        return captured.losses

    def _release(self, members: int) -> None:
        had_graphs = bool(self._captured)
        self._members, self._pool = members, None
        self._captured.clear()
        self._steps.clear()
        if had_graphs:
            self._module.empty_cache()  # which otherwise keeps the memory of a pool that is not used any more

    def _capture(self, step: Step, state: State, numbers: Tensor, addresses: tuple[int, ...]) -> _Captured:
        """Capture a step, compare its replay with the step itself, and leave the buffers as they were."""
        parameters, gradients, buffers = state
        if reason := why_not_captured(parameters.device):
            raise CaptureError(reason)
        before = buffers.clone()
        # Other samples than those captured, so as to detect a graph with its samples built in.
        others = numbers.roll(1)
        # Twice: libraries allocate memory and may tune their kernels at the first call.
        for _ in range(2):
            buffers.copy_(before)
            losses = step(*state, others)
        expected = [tensor.clone() for tensor in (losses, gradients, buffers)]
        # Whatever a step writes becomes NaN, so that nothing which the replay fails to write can pass for its result.
        step(torch.full_like(parameters, torch.nan), gradients, buffers, numbers)
        static = numbers.clone()
        buffers.copy_(before)
        try:
            if self._pool is None:
                self._pool = self._module.graph_pool_handle()
            graph = getattr(self._module, _CLASSES[parameters.device.type])()
            with self._module.graph(graph, pool=self._pool):
                losses = step(*state, static)
            static.copy_(others)
            graph.replay()
            same = all(map(_alike, (losses, gradients, buffers), expected))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CaptureError(str(error).splitlines()[0]) from error
        if not same:
            raise CaptureError("the first replay gave other numbers than the step itself")
        buffers.copy_(before)
        return _Captured(graph, static, losses, addresses)


def _alike(actual: Tensor, expected: Tensor) -> bool:
    """Whether two results [E, ...] agree to within rounding, as when a library chooses another algorithm.

    A member that has diverged has the same infinities and NaN in both.
    """
    largest = torch.where(expected.isfinite(), expected, 0.0).abs().amax(1, keepdim=True)
    close = (actual - expected).abs() <= 1e-4 * largest
    return bool((close | (actual == expected) | (actual.isnan() & expected.isnan())).all())
