"""The loss of a task, by name: what each value that is not missing contributes to the mean over a batch.

Most depend on the difference from the true value alone. ``nll`` also depends on the noise, a second number that the
head then gives for each component of its target: the standard deviation of the data about the mean, up to its sign.
`sections.LossSection.outputs` says how many numbers there are for each component, `TaskSizes.outputs` how many columns
a head has.

A new loss needs a section of the campaign file (`hydragnn_hpc.sections`), a class here and its line in `LOSSES`. The
torch and the library engine then have it; the fused engine also needs a case in ``fused/source/loss.h`` and the name in
`hydragnn_hpc.member.fused.plan.LOSSES`, and until then the torch engine trains variants with this loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc import sections
from hydragnn_hpc.sections import TaskLoss

SMALLEST_VARIANCE = 1e-6
"""Smaller variances, of scaled values, count as this (``eps`` of torch's ``GaussianNLLLoss``)."""
INITIAL_NOISE = 1.0
"""Added to initial biases of noise: near zero, log-likelihoods have gradients of 10^6, from which Adam's moments take
thousands of steps to recover."""


@dataclass(frozen=True)
class Loss(ABC):
    """Loss of differences d = predicted - true, element by element; 0 at d = 0, with noise 1 where there is noise."""

    name: ClassVar[str]

    @property
    def outputs(self) -> int:
        """Numbers that a head gives for each component of its target: the mean and, where there are two, the noise."""
        return sections.LOSSES[self.name].outputs

    def split(self, values: Tensor) -> list[Tensor]:
        """Divide a head's values, ``[..., outputs * d]``, into means and, where there is any, noise: ``[..., d]``."""
        return list(values.chunk(self.outputs, -1))

    @abstractmethod
    def of(self, difference: Tensor, *noise: Tensor) -> Tensor:
        """Return the loss of each difference."""

    @abstractmethod
    def gradient(self, difference: Tensor, *noise: Tensor) -> Tensor:
        """Return the derivatives with respect to the head's numbers, ``[..., d]`` to ``[..., outputs, d]``."""

    def total(self, difference: Tensor, *noise: Tensor) -> Tensor:
        """Return the sum over all elements in float64."""
        return self.of(difference.double(), *(n.double() for n in noise)).sum()


class DifferenceLoss(Loss):
    """Loss of the difference alone."""

    @abstractmethod
    def slope(self, difference: Tensor) -> Tensor:
        """Return the derivative of the loss; 0 at d = 0, even if the loss is not differentiable there."""

    def gradient(self, difference: Tensor, *noise: Tensor) -> Tensor:
        """See `Loss`."""
        return self.slope(difference)[..., None, :]


@dataclass(frozen=True)
class MeanSquaredError(DifferenceLoss):
    """d^2."""

    name = "mse"

    def of(self, difference: Tensor, *noise: Tensor) -> Tensor:
        """See `Loss`."""
        return difference * difference

    def slope(self, difference: Tensor) -> Tensor:
        """See `Loss`."""
        return difference * 2.0

    def total(self, difference: Tensor, *noise: Tensor) -> Tensor:
        """See `Loss`; without a copy in float64."""
        total: Tensor = torch.linalg.vector_norm(difference, dtype=torch.float64).square()
        return total


@dataclass(frozen=True)
class MeanAbsoluteError(DifferenceLoss):
    """|d|."""

    name = "mae"

    def of(self, difference: Tensor, *noise: Tensor) -> Tensor:
        """See `Loss`."""
        return difference.abs()

    def slope(self, difference: Tensor) -> Tensor:
        """See `Loss`."""
        return difference.sign()


@dataclass(frozen=True)
class Huber(DifferenceLoss):
    """d^2 / 2 up to ``delta``, delta (|d| - delta / 2) beyond (Huber 1964)."""

    name = "huber"
    delta: float = 1.0

    def of(self, difference: Tensor, *noise: Tensor) -> Tensor:
        """See `Loss`."""
        clipped = self.slope(difference)
        return clipped * (difference - 0.5 * clipped)

    def slope(self, difference: Tensor) -> Tensor:
        """See `Loss`."""
        return difference.clamp(-self.delta, self.delta)


@dataclass(frozen=True)
class GaussianNll(Loss):
    """(ln v + d^2 / v) / 2, the negative log-likelihood of a normal distribution of variance v (Nix & Weigend 1994).

    v is the square of the noise, but at least `SMALLEST_VARIANCE`. As in torch's ``GaussianNLLLoss``, derivatives
    ignore that v is bounded, so that noise of nearly zero can still grow where differences are larger.
    """

    name = "nll"

    def of(self, difference: Tensor, *noise: Tensor) -> Tensor:
        """See `Loss`."""
        variance = noise[0] * noise[0]
        with torch.no_grad():
            variance.clamp_(min=SMALLEST_VARIANCE)
        return 0.5 * (variance.log() + difference * difference / variance)

    def gradient(self, difference: Tensor, *noise: Tensor) -> Tensor:
        """See `Loss`."""
        precision = (noise[0] * noise[0]).clamp_(min=SMALLEST_VARIANCE).reciprocal_()
        by_mean = difference * precision
        return torch.stack([by_mean, noise[0] * (precision - by_mean * by_mean)], -2)


LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (MeanSquaredError, MeanAbsoluteError, Huber, GaussianNll)}


def loss_of(section: TaskLoss) -> Loss:
    """Return the loss that a section of the campaign file names."""
    return LOSSES[section.name](**section.model_dump(exclude={"name"}))


def mean_and_noise(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Divide a head's values, ``[..., outputs * d]``, into means and standard deviations of the noise, ``[..., d]``.

    ``width`` is d. There is no noise where the head gives the mean alone.
    """
    if values.shape[-1] == width:
        return values, None
    noise = np.maximum(np.abs(values[..., width:].astype(np.float64)), SMALLEST_VARIANCE**0.5)
    return values[..., :width], noise
