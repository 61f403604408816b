"""What trains a stack of members, one batch at a time: the interface of every engine."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.optimize import Optimizer
from hydragnn_hpc.member.engine.sizes import Array, NetworkSizes


class Engine(Protocol):
    """Forward and backward of E stacked members. A member's numbers do not depend on E nor on its place.

    `tests/member/contract` holds every engine to this. Where PNA's minimum or maximum over neighbours is reached by
    several that differ otherwise, the loss has no gradient, and the engines choose: fused gives it to the first of
    them, torch and library give each an equal share. Neighbours with equal features, which tie all the time, are not
    such a case: whichever of them takes it, the weights receive the same.

    Attributes
    ----------
    name : str
    sizes : NetworkSizes
    layout : ParameterLayout
    device : torch.device
        Where parameters, gradients and buffers live.
    lanes : int or None
        Numbers that a vector instruction of the CPU takes at once, which decides the order of sums; None elsewhere.
    """

    name: str
    sizes: NetworkSizes
    layout: ParameterLayout
    device: torch.device
    lanes: int | None

    def step(self, parameters: Tensor, gradients: Tensor, buffers: Tensor, index: Array) -> Tensor:
        """One training batch of every member.

        Parameters
        ----------
        parameters, gradients : tensor [E, P]
            ``gradients`` of the weighted loss is overwritten, padding with zeros.
        buffers : tensor [E, Q]
            Running statistics, updated.
        index : int64 array [E, B]
            Sample numbers.

        Returns
        -------
        tensor [E, T]
            Mean loss of each task over the values that are not missing, not weighted. Nothing waits for the device.
        """

    def update(self, optimizer: Optimizer, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """One step of ``optimizer`` in whatever way is fastest here; ``gradients`` are used up (`Optimizer.step`)."""

    def predict(self, parameters: Tensor, buffers: Tensor, index: Array) -> dict[str, Tensor]:
        """Scaled values of every task in evaluation mode.

        Parameters
        ----------
        index : int64 array [B]
            Sample numbers, the same for all members.

        Returns
        -------
        dict of str to tensor
            Per task [E, atoms of the samples in order, d] or, at graph level, [E, B, d].
        """
