"""Optimisers over flat stacked parameters, each member with its own learning rate and number of steps.

A new optimiser needs a section of the campaign file (`hydragnn_hpc.sections`), a class here and its line in
`OPTIMIZERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.sections import AdamOptimizer, AdamWOptimizer, OptimizerSection, SgdOptimizer

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Kingma & Ba 2015


class Optimizer(ABC):
    """An optimiser of E members; its state is saved in each member's checkpoint.

    Parameters
    ----------
    options : OptimizerSection
    state : mapping of str to tensor
        `MOMENTS` by name, [E, P] on the parameters' device, and `COUNTERS` by name, [E, n] float64 on the CPU.
    """

    MOMENTS: ClassVar[tuple[str, ...]] = ()
    """Names of state tensors as long as the parameters, initially zeros."""
    COUNTERS: ClassVar[Mapping[str, int]] = {}
    """Names of further state tensors and their lengths n for a member, initially ones."""

    def __init__(self, options: OptimizerSection, state: Mapping[str, Tensor]) -> None:
        self.options, self.state = options, dict(state)

    @classmethod
    def initial(cls, parameter_size: int) -> dict[str, Tensor]:
        """Return one member's state before the first step, on the CPU: float32 [P] and float64 [n]."""
        moments = {name: torch.zeros(parameter_size) for name in cls.MOMENTS}
        return {**moments, **{name: torch.ones(n, dtype=torch.float64) for name, n in cls.COUNTERS.items()}}

    @abstractmethod
    def plan(self, steps: int, rates: np.ndarray) -> Tensor:
        """Return the factors of the next ``steps`` steps at learning rates ``rates`` [E], a row for each `step`.

        They are computed ahead and sent to the device at once, so that no step waits for the host. `COUNTERS` advance
        by all these steps.

        Returns
        -------
        tensor [steps, factors, E, 1]
        """

    @abstractmethod
    def step(self, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """Take one step in place; ``gradients`` [E, P] is overwritten, and ``factors`` is a row of `plan`."""

    def select(self, members: Tensor) -> Optimizer:
        """Return the optimiser of some ``members`` (positions in the stack, int64)."""
        return type(self)(self.options, {name: value[members.to(value.device)] for name, value in self.state.items()})


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient.

    ``first`` and ``second`` are running means of the gradient and of its square. ``decay`` holds beta_1^t and beta_2^t
    after the t steps that a member has made: running products in float64, one multiplication per step, so that the
    factors have the same bits however often a training was interrupted, and in whatever stack.
    """

    MOMENTS = ("first", "second")
    COUNTERS: ClassVar[Mapping[str, int]] = {"decay": 2}
    options: AdamOptimizer | AdamWOptimizer

    def plan(self, steps: int, rates: np.ndarray) -> Tensor:
        """See `Optimizer`.

        Returns
        -------
        tensor [steps, 3, E, 1]
            The addend to the root of ``second``; minus the factor of the ratio; the factor of the weights in AdamW.
        """
        decay = self.state["decay"].numpy()  # shares memory: the state advances
        factors = np.empty((steps, 3, len(decay), 1))
        rates = np.asarray(rates, np.float64)
        for step in range(steps):
            decay *= (BETA_1, BETA_2)
            left = 1.0 - decay
            root = np.sqrt(left[:, 1])
            # m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + eps), numerator and denominator times sqrt(1 - beta_2^t)
            factors[step, 0, :, 0] = EPSILON * root
            factors[step, 1, :, 0] = -rates * root / left[:, 0]
            factors[step, 2, :, 0] = 1.0 - rates * self.options.weight_decay
        return torch.as_tensor(factors).to(self.state["first"])

    def step(self, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """See `Optimizer`."""
        epsilon, rate, kept = factors.unbind()
        if self.options.weight_decay:
            self._decay(parameters, gradients, kept)
        first, second = self.state["first"], self.state["second"]
        first.lerp_(gradients, 1 - BETA_1)
        second.mul_(BETA_2).addcmul_(gradients, gradients, value=1 - BETA_2)
        torch.sqrt(second, out=gradients)
        gradients.add_(epsilon)
        torch.div(first, gradients, out=gradients)
        parameters.addcmul_(gradients, rate)

    def _decay(self, parameters: Tensor, gradients: Tensor, kept: Tensor) -> None:
        gradients.add_(parameters, alpha=self.options.weight_decay)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def _decay(self, parameters: Tensor, gradients: Tensor, kept: Tensor) -> None:
        parameters.mul_(kept)


class Sgd(Optimizer):
    """Gradient descent with momentum (Polyak 1964), like torch.optim.SGD without dampening."""

    MOMENTS = ("velocity",)
    options: SgdOptimizer

    def plan(self, steps: int, rates: np.ndarray) -> Tensor:
        """See `Optimizer`.

        Returns
        -------
        tensor [steps, 1, E, 1]
            Minus the learning rates.
        """
        factors = np.broadcast_to(-np.asarray(rates, np.float64)[:, None], (steps, 1, len(rates), 1))
        return torch.as_tensor(factors.copy()).to(self.state["velocity"])

    def step(self, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """See `Optimizer`."""
        if self.options.weight_decay:
            gradients.add_(parameters, alpha=self.options.weight_decay)
        velocity = self.state["velocity"].mul_(self.options.momentum).add_(gradients)
        parameters.addcmul_(velocity, factors[0])


OPTIMIZERS: dict[str, type[Optimizer]] = {"Adam": Adam, "AdamW": AdamW, "SGD": Sgd}


def new_optimizer(options: OptimizerSection, parameters: Tensor) -> Optimizer:
    """Return the optimiser that a campaign file names, before its first step, for ``parameters`` [E, P]."""
    kind = OPTIMIZERS[options.name]
    members, size = parameters.shape
    initial = {name: torch.stack([value] * members) for name, value in kind.initial(size).items()}
    return kind(options, {n: value.to(parameters) if n in kind.MOMENTS else value for n, value in initial.items()})
