"""Molecular fingerprints: separate weights for every number of neighbours (Duvenaud et al., NIPS 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MFConv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes
from hydragnn_hpc.member.library.shared import SharedGeometry, linear

MOST_NEIGHBOURS = 32
"""Atoms with more neighbours use the weights of this number."""


class Layer(nn.Module):
    """The library's layer."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.conv = MFConv(sizes.fan_in, sizes.out, max_degree=MOST_NEIGHBOURS)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """[N, in] to [N, out]."""
        found: Tensor = self.conv(x, graph.edges)
        return found

    def over_shared(self, x: Tensor, geometry: SharedGeometry) -> Tensor:
        """Do the same over one geometry, ``[in, n * B]`` to ``[out, n * B]``."""
        samples, found = x.shape[1] // geometry.sites, []
        sizes = [samples * count for _, count in geometry.groups]
        parts = zip(geometry.groups, torch.split(geometry.total(x), sizes, 1), torch.split(x, sizes, 1), strict=True)
        for (degree, _), neighbours, own in parts:
            number = min(degree, MOST_NEIGHBOURS)
            found.append(
                torch.addmm(linear(self.conv.lins_l[number], neighbours), self.conv.lins_r[number].weight, own)
            )
        return torch.cat(found, dim=1)
