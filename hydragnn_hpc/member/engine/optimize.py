"""Adam over flat stacked parameters, each member with its own rate and age."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.sections import Optimizer

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Kingma & Ba 2015


class Adam:
    """Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019) for E members, each with its own rate and age.

    The factors of a step come from running products of beta in float64, one multiplication a step, so that they are
    the same bits however often a training was interrupted, and in whatever stack.

    Attributes
    ----------
    first, second : tensor [E, P]
        Running means of the gradient and of its square.
    decay : float64 array [E, 2]
        beta_1^t and beta_2^t after the t steps that each member has made.
    """

    def __init__(self, options: Optimizer, first: Tensor, second: Tensor, decay: np.ndarray) -> None:
        self.options, self.first, self.second = options, first, second
        self.decay = np.array(decay, np.float64)

    @classmethod
    def fresh(cls, options: Optimizer, parameters: Tensor) -> Adam:
        """Before the first step."""
        return cls(options, torch.zeros_like(parameters), torch.zeros_like(parameters), np.ones((len(parameters), 2)))

    def plan(self, steps: int, rates: np.ndarray) -> Tensor:
        """Factors of the next ``steps`` steps at ``rates`` [E], to give to `step` one after the other.

        They are computed ahead and sent to the device at once, so that no step waits for the host.

        Returns
        -------
        tensor [steps, 3, E, 1]
            What is added to the root of ``second``, minus what the ratio is multiplied by, and the weights' decay.
        """
        factors = np.empty((steps, 3, len(self.decay), 1))
        rates = np.asarray(rates, np.float64)
        for step in range(steps):
            self.decay *= (BETA_1, BETA_2)
            left = 1.0 - self.decay
            root = np.sqrt(left[:, 1])
            # m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + eps), numerator and denominator times sqrt(1 - beta_2^t)
            factors[step, 0, :, 0] = EPSILON * root
            factors[step, 1, :, 0] = -rates * root / left[:, 0]
            factors[step, 2, :, 0] = 1.0 - rates * self.options.weight_decay
        return torch.as_tensor(factors).to(self.first)

    def step(self, parameters: Tensor, gradients: Tensor, factors: Tensor) -> None:
        """One step of all members, in place; ``gradients`` [E, P] is used up. ``factors`` is a row of `plan`."""
        epsilon, rate, kept = factors.unbind()
        if self.options.weight_decay and self.options.name == "Adam":
            gradients.add_(parameters, alpha=self.options.weight_decay)
        elif self.options.weight_decay:
            parameters.mul_(kept)
        self.first.lerp_(gradients, 1 - BETA_1)
        self.second.mul_(BETA_2).addcmul_(gradients, gradients, value=1 - BETA_2)
        torch.sqrt(self.second, out=gradients)
        gradients.add_(epsilon)
        torch.div(self.first, gradients, out=gradients)
        parameters.addcmul_(gradients, rate)

    def select(self, members: Tensor) -> Adam:
        """The same for some of the members (positions, int64)."""
        kept = members.cpu().numpy()
        return Adam(self.options, self.first[members], self.second[members], self.decay[kept])
