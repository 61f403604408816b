"""Features of edges: the length of each in a radial basis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def gaussians(number: int, cutoff: float, device: torch.device | None = None) -> tuple[Tensor, float]:
    """Return the centres of K = ``number`` Gaussians from 0 to ``cutoff``, and the factor in their exponents.

    A Gaussian is exp(factor * (length - centre)^2). Centres are ``[K]`` float32 in bohr, the factor is in 1 / bohr^2.
    """
    # In float32, as in PyTorch Geometric's GaussianSmearing.
    centres = torch.linspace(0.0, cutoff, number)
    factor = -0.5 / float(centres[1] - centres[0]) ** 2  # on the host: reading it from a device would wait
    return torch.linspace(0.0, cutoff, number, device=device), factor


def _gaussian(lengths: Tensor, number: int, cutoff: float) -> Tensor:
    """Return Gaussians evenly spaced from 0 to the cutoff, as wide as their spacing (Schütt et al. 2017, SchNet)."""
    centres, factor = gaussians(number, cutoff, lengths.device)
    return torch.exp(factor * torch.pow(lengths[..., None] - centres.to(lengths.dtype), 2))


def _bessel(lengths: Tensor, number: int, cutoff: float) -> Tensor:
    """Return sin(n pi x) / x, x = length / cutoff, n = 1 to K (Gasteiger et al. 2020, DimeNet, eq. 7, unscaled)."""
    x = lengths[..., None] / cutoff
    order = torch.arange(1, number + 1, device=lengths.device, dtype=lengths.dtype)
    return torch.sin(math.pi * order * x) / x


def _none(lengths: Tensor, cutoff: float) -> Tensor:
    """Return 1, no envelope: features end abruptly at the cutoff."""
    return torch.ones_like(lengths)


def _polynomial(lengths: Tensor, cutoff: float) -> Tensor:
    """Return 1 - 28 x^6 + 48 x^7 - 21 x^8: 0 at the cutoff, as are two derivatives (DimeNet, eq. 8, p = 6)."""
    x = (lengths / cutoff).clamp(max=1.0)
    return 1.0 + torch.pow(x, 6) * (-28.0 + x * (48.0 - 21.0 * x))


BASES: dict[str, Callable[[Tensor, int, float], Tensor]] = {"gaussian": _gaussian, "bessel": _bessel}
ENVELOPES: dict[str, Callable[[Tensor, float], Tensor]] = {"none": _none, "polynomial": _polynomial}


@dataclass(frozen=True)
class EdgeBasis:
    """The features of an edge: functions of its length that form a radial basis, times an envelope.

    Attributes
    ----------
    number : int
        Number of functions, K.
    cutoff : float
        Bohr.
    basis, envelope : str
        Keys of `BASES` and `ENVELOPES`.
    """

    number: int
    cutoff: float
    basis: str = "gaussian"
    envelope: str = "none"

    def of(self, lengths: Tensor) -> Tensor:
        """Return the features of edges of these lengths, bohr: ``[...]`` to ``[..., K]``."""
        features = BASES[self.basis](lengths, self.number, self.cutoff)
        return features * ENVELOPES[self.envelope](lengths, self.cutoff)[..., None]
