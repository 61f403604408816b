"""Training steps as CUDA graphs: hundreds of launches become one, for batches of one shape in memory that stays.

Nothing is trusted: a graph is used only if its first replay gives what the step gave without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From parameters, gradients, buffers and sample numbers, all on the device, to losses; without waiting for it."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    numbers: Tensor
    losses: Tensor


class CapturedSteps:
    """Runs steps, each shape of batch and place in memory captured once.

    Parameters
    ----------
    prepare : callable
        From the members and samples of a batch to a step with working memory of its own.
    """

    def __init__(self, prepare: Callable[[int, int], Step]) -> None:
        self._prepare = prepare
        self._steps: dict[tuple[int, int], Step] = {}
        self._captured: dict[tuple[int, int], tuple[tuple[int, ...], _Captured | None]] = {}

    def step(
        self, parameters: Tensor, gradients: Tensor, buffers: Tensor, numbers: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """Run one step; ``numbers`` are the samples of ``shape`` = (members, samples).

        The losses are good until the next step, which may be written to the same memory.
        """
        if shape not in self._steps:
            self._steps[shape] = self._prepare(*shape)
        state = (parameters, gradients, buffers)
        places = tuple(tensor.data_ptr() for tensor in state)
        known = self._captured.get(shape)
        if known is None or known[0] != places:
            # A stack that has shrunk lies elsewhere.
            known = (places, _capture(self._steps[shape], state, numbers))
            self._captured[shape] = known
        captured = known[1]
        if captured is None:
            return self._steps[shape](*state, numbers)
        captured.numbers.copy_(numbers)
        captured.graph.replay()
        return captured.losses


def _capture(step: Step, state: tuple[Tensor, Tensor, Tensor], numbers: Tensor) -> _Captured | None:
    """Capture a step, compare its replay with the step itself, and leave the buffers as they were."""
    gradients, buffers = state[1:]
    before = buffers.clone()
    # Not the samples that are captured: a graph that has its samples built in must be noticed.
    others = numbers.roll(1)
    # Twice: libraries allocate at their first call, and the arithmetic may be tuned then.
    for _ in range(2):
        buffers.copy_(before)
        losses = step(*state, others)
    expected = [tensor.clone() for tensor in (losses, gradients, buffers)]
    buffers.copy_(before)
    try:
        still = numbers.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = step(*state, still)
        buffers.copy_(before)
        still.copy_(others)
        graph.replay()
        same = all(map(_alike, (losses, gradients, buffers), expected))
    except RuntimeError as error:
        warnings.warn(f"steps run without a CUDA graph: {str(error).splitlines()[0]}", stacklevel=2)
        return None
    finally:
        buffers.copy_(before)
    if not same:
        warnings.warn("steps run without a CUDA graph: its replay gave different numbers", stacklevel=2)
        return None
    return _Captured(graph, still, losses)


def _alike(found: Tensor, expected: Tensor) -> bool:
    """Whether two results differ by rounding at most, as where a library chose another algorithm."""
    return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())
