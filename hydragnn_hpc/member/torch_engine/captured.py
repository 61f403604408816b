"""Training steps as CUDA graphs: hundreds of launches become one, for batches of one shape in fixed memory.

Every graph is verified: it is used only if its first replay gives the same as the step without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From parameters, gradients, buffers and sample numbers, all on the device, to losses; does not wait for it."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    numbers: Tensor
    losses: Tensor


class CapturedSteps:
    """Runs steps; each combination of batch shape and memory location is captured once.

    Parameters
    ----------
    prepare : callable
        Returns a step, with its own working memory, for a number of members and of samples.
    """

    def __init__(self, prepare: Callable[[int, int], Step]) -> None:
        self._prepare = prepare
        self._steps: dict[tuple[int, int], Step] = {}
        self._captured: dict[tuple[int, int], tuple[tuple[int, ...], _Captured | None]] = {}

    def step(
        self, parameters: Tensor, gradients: Tensor, buffers: Tensor, numbers: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """Run one step; ``numbers`` are the samples of ``shape`` = (members, samples).

        The losses are valid until the next step, which may overwrite them.
        """
        if shape not in self._steps:
            self._steps[shape] = self._prepare(*shape)
        state = (parameters, gradients, buffers)
        places = tuple(tensor.data_ptr() for tensor in state)
        known = self._captured.get(shape)
        if known is None or known[0] != places:
            # A stack that has shrunk is elsewhere in memory.
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
    # Other samples than those captured, so as to detect a graph with its samples built in.
    others = numbers.roll(1)
    # Twice: libraries allocate memory and may tune their kernels at the first call.
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
    """Whether two results agree to within rounding, as when a library chooses another algorithm."""
    return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())
