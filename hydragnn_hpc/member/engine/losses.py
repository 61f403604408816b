"""The loss of a task, by name: what each value that is not missing contributes to the mean over a batch.

A new one is a section of the campaign file (`hydragnn_hpc.sections`), a class here and its line in `LOSSES`. The torch
and the library engine take it as it is; the fused engine needs a case in ``fused/source/loss.h`` and its name in
`hydragnn_hpc.member.fused.plan.LOSSES`, and until it has them, such variants are trained by the torch engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hydragnn_hpc.sections import TaskLoss


@dataclass(frozen=True)
class Loss(ABC):
    """Loss of differences d = predicted - true, element by element; 0 at d = 0."""

    name: ClassVar[str]

    @abstractmethod
    def of(self, difference: Tensor) -> Tensor:
        """Return the loss of each difference."""

    @abstractmethod
    def slope(self, difference: Tensor) -> Tensor:
        """Return its derivative; 0 at d = 0, even where it is not differentiable."""

    def total(self, difference: Tensor) -> Tensor:
        """Return the sum over all elements in float64."""
        return self.of(difference.double()).sum()


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """d^2."""

    name = "mse"

    def of(self, difference: Tensor) -> Tensor:
        """See `Loss`."""
        return difference * difference

    def slope(self, difference: Tensor) -> Tensor:
        """See `Loss`."""
        return difference * 2.0

    def total(self, difference: Tensor) -> Tensor:
        """See `Loss`; without a copy in float64."""
        total: Tensor = torch.linalg.vector_norm(difference, dtype=torch.float64).square()
        return total


@dataclass(frozen=True)
class MeanAbsoluteError(Loss):
    """|d|."""

    name = "mae"

    def of(self, difference: Tensor) -> Tensor:
        """See `Loss`."""
        return difference.abs()

    def slope(self, difference: Tensor) -> Tensor:
        """See `Loss`."""
        return difference.sign()


@dataclass(frozen=True)
class Huber(Loss):
    """d^2 / 2 up to ``delta``, delta (|d| - delta / 2) beyond (Huber 1964)."""

    name = "huber"
    delta: float = 1.0

    def of(self, difference: Tensor) -> Tensor:
        """See `Loss`."""
        clipped = self.slope(difference)
        return clipped * (difference - 0.5 * clipped)

    def slope(self, difference: Tensor) -> Tensor:
        """See `Loss`."""
        return difference.clamp(-self.delta, self.delta)


LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (MeanSquaredError, MeanAbsoluteError, Huber)}


def loss_of(section: TaskLoss) -> Loss:
    """Return the loss that a section of the campaign file names."""
    return LOSSES[section.name](**section.model_dump(exclude={"name"}))
