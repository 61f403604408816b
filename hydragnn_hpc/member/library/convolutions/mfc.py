"""Molecular fingerprints: separate weights for every number of neighbours (Duvenaud et al., NIPS 2015)."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn import MFConv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes

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
