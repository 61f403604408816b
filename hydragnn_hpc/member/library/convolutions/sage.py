"""GraphSAGE with the mean of the neighbours (Hamilton, Ying and Leskovec, NIPS 2017)."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes


class Layer(nn.Module):
    """The library's layer."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.conv = SAGEConv(sizes.fan_in, sizes.out)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """[N, in] to [N, out]."""
        found: Tensor = self.conv(x, graph.edges)
        return found
