"""The interface of every engine, which trains a stack of members one batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.optimize import Optimizer
from hydragnn_hpc.member.engine.sizes import Array, NetworkSizes
from hydragnn_hpc.member.engine.training_data import SampleGraphs

DeviceStep = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`Engine.step` with the sample numbers on the device, int64 [E, B]: all of it runs there."""


class Engine(Protocol):
    """Forward and backward of E stacked members. A member's numbers depend neither on E nor on its position.

    On a CPU this holds bit for bit, and on a GPU with the triton engine. With the others, libraries choose kernels by
    the sizes of arrays, so that another E changes the order of sums. The same E on the same model of GPU, with the same
    libraries, gives the same bits with the torch engine, which adds nothing atomically; not with the library engine,
    which does.

    `tests/member/contract` holds every engine to this. Where several neighbours that differ otherwise share PNA's
    minimum or maximum, the loss has no gradient, and engines differ: fused assigns it to the first of them, the others
    split it equally. Ties between neighbours with equal features are frequent, but do not matter: the weights
    receive the same gradient in either case.

    Attributes
    ----------
    name : str
    sizes : NetworkSizes
    layout : ParameterLayout
    device : torch.device
        Where parameters, gradients and buffers live.
    lanes : int or None
        Numbers per vector instruction of the CPU, which determines the order of sums; None on other devices.
    captured : bool
        Whether its steps are to be captured as graphs of the device; it is then a `RepeatableEngine`.
    """

    name: str
    sizes: NetworkSizes
    layout: ParameterLayout
    device: torch.device
    lanes: int | None
    captured: bool

    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """Run one training batch of every member forward and backward.

        Parameters
        ----------
        parameters, gradients : tensor [E, P]
            ``gradients`` is overwritten with those of the weighted loss, and its padding with zeros.
        buffers : tensor [E, Q]
            Running statistics, updated.
        index : int64 array [E, B]
            Sample numbers.

        Returns
        -------
        tensor [E, T]
            Unweighted mean loss of each task over the values that are not missing. The call does not wait for the
            device.

        Raises
        ------
        UserError
            If a member's batch is one sample of one atom, which has no batch statistics.
        """

    def update(self, optimizer: Optimizer, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """Take one step of ``optimizer`` as fast as the engine can; ``gradients`` is overwritten (`Optimizer.step`)."""

    def predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        """Return the outputs of every head in evaluation mode: scaled values and, for some losses, noise (`Loss`).

        Parameters
        ----------
        index : int64 array [B]
            Sample numbers, the same for all members; there may be none.

        Returns
        -------
        dict of str to tensor
            By task, [E, rows, `TaskSizes.outputs`]: a row for each atom of the samples, in order; at graph level, for
            each sample.
        """


class RepeatableEngine(Engine, Protocol):
    """An engine whose steps a graph of the device can repeat.

    Attributes
    ----------
    graphs : SampleGraphs
        Of all samples.
    """

    graphs: SampleGraphs

    def bounds(self, order: Array) -> tuple[int, ...]:
        """Return sizes that no batch of ``order`` [steps, E, B] exceeds."""

    def prepare(self, members: int, samples: int, bounds: tuple[int, ...]) -> DeviceStep:
        """Return the step for batches [E, B] within these bounds, with its own working memory."""
