"""The steps of an epoch, whichever engine trains the stack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.optimize import Optimizer, new_optimizer
from hydragnn_hpc.member.engine.sizes import Array
from hydragnn_hpc.sections import OptimizerSection


@dataclass(frozen=True)
class StackState:
    """What the steps of a stack read and write, on the engine's device.

    Attributes
    ----------
    parameters, gradients : tensor [E, P]
    buffers : tensor [E, Q]
    optimizer : Optimizer
    losses : float64 tensor [E, T]
        The unweighted loss of each task, summed over the samples of the epoch.
    frozen : sequence of (tensor, tensor)
        Views of parameters and buffers, and the values that they keep.
    clips : bool
        Whether each member's gradient is clipped.
    """

    parameters: Tensor
    gradients: Tensor
    buffers: Tensor
    optimizer: Optimizer
    losses: Tensor
    frozen: Sequence[tuple[Tensor, Tensor]] = ()
    clips: bool = False

    @classmethod
    def new(
        cls, engine: Engine, parameters: Tensor, buffers: Tensor, optimizer: Optimizer,
        frozen: Sequence[tuple[Tensor, Tensor]] = (), clips: bool = False,
    ) -> StackState:  # fmt: skip
        """Return the state of a stack before a step; ``parameters`` and ``buffers`` are not copied."""
        shape = len(parameters), len(engine.sizes.tasks)
        losses = torch.zeros(shape, dtype=torch.float64, device=engine.device)
        return cls(parameters, torch.zeros_like(parameters), buffers, optimizer, losses, frozen, clips)

    @classmethod
    def untrained(cls, engine: Engine, seeds: Iterable[int], optimizer: OptimizerSection) -> StackState:
        """Return the state of new members, one for each seed."""
        layout = engine.layout
        parameters = torch.stack([layout.initial_parameters(seed) for seed in seeds]).to(engine.device)
        buffers = torch.stack([layout.initial_buffers()] * len(parameters)).to(engine.device)
        return cls.new(engine, parameters, buffers, new_optimizer(optimizer, parameters))

    def finish_step(self, engine: Engine, losses: Tensor, samples: int, factors: Tensor) -> None:
        """Add the losses of a batch of so many samples, and update the parameters with its gradients.

        Parameters
        ----------
        engine : Engine
        losses : tensor [E, T]
        samples : int
        factors : tensor
            A row of `Optimizer.plan`.
        """
        self.losses.add_(losses, alpha=samples)
        if self.clips:
            clip(self.gradients)
        engine.update(self.optimizer, self.parameters, self.gradients, factors)
        for view, values in self.frozen:
            view.copy_(values)


@dataclass(frozen=True)
class EpochPlan:
    """The samples of an epoch, and the optimiser's factors.

    Attributes
    ----------
    order : int64 array [E, N]
        Each member's sample numbers.
    size : int
        Samples of a batch; the last may have fewer.
    factors : tensor
        `Optimizer.plan`, a row for each step.
    """

    order: Array
    size: int
    factors: Tensor

    @classmethod
    def of(cls, order: Array, batch_size: int, optimizer: Optimizer, rates: Array) -> EpochPlan:
        """Return an epoch at learning rates ``rates`` [E]."""
        size = min(batch_size, order.shape[1])
        return cls(order, size, optimizer.plan(-(-order.shape[1] // size), rates))

    @property
    def batches(self) -> list[Array]:
        """The sample numbers of each step, [E, B]: views of the order."""
        starts = range(0, self.order.shape[1], self.size)
        return [self.order[:, start : start + self.size] for start in starts]


class Steps(Protocol):
    """How an engine's steps are run."""

    def run(self, state: StackState, plan: EpochPlan) -> Iterator[None]:
        """Take the steps of an epoch one by one; ``state.losses`` are then the epoch's.

        Raises
        ------
        UserError
            If a member's batch is one sample of one atom, which has no batch statistics.
        """


class PlainSteps:
    """Steps whose operations are launched one by one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, state: StackState, plan: EpochPlan) -> Iterator[None]:
        """See `Steps`."""
        state.losses.zero_()
        for index, factors in zip(plan.batches, plan.factors, strict=True):
            numbers = np.ascontiguousarray(index)
            losses = self._engine.step(state.parameters, state.gradients, state.buffers, numbers)
            state.finish_step(self._engine, losses, index.shape[1], factors)
            yield


def clip(gradients: Tensor) -> None:
    """Clip each member's gradient, a row of ``[E, P]``, to a norm of 1, in place.

    Where noise comes close to zero, the gradient of a log-likelihood is a million times the usual one, and Adam's
    moments would take thousands of steps to recover from it.
    """
    # Row by row, so that no member depends on its stack.
    for row in gradients:
        row.mul_(torch.linalg.vector_norm(row).reciprocal().clamp(max=1.0))
