"""Features of edges: the length of each in a radial basis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EdgeBasis:
    """``number`` Gaussians, evenly spaced from 0 to ``cutoff``, each as wide as their distance (Schütt et al. 2017).

    Attributes
    ----------
    number : int
        K.
    cutoff : float
        Bohr.
    """

    number: int
    cutoff: float

    def of(self, lengths: Tensor) -> Tensor:
        """Return the features of edges of these lengths, bohr: ``[...]`` to ``[..., K]``."""
        # Centres and width in float32, as PyTorch Geometric's GaussianSmearing has them.
        centres = torch.linspace(0.0, self.cutoff, self.number, device=lengths.device)
        factor = -0.5 / float(centres[1] - centres[0]) ** 2
        return torch.exp(factor * torch.pow(lengths[..., None] - centres.to(lengths.dtype), 2))
