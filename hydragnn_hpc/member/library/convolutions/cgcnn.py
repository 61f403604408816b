"""Crystal graph convolution (Xie and Grossman, Phys. Rev. Lett. 120, 145301, 2018)."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn import CGConv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes


class Layer(nn.Module):
    """The library's layer, which keeps the width, after a linear map where the width changes."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.widen = nn.Identity() if sizes.fan_in == sizes.out else nn.Linear(sizes.fan_in, sizes.out)
        self.conv = CGConv(sizes.out, dim=sizes.edge_features)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """[N, in] to [N, out]."""
        found: Tensor = self.conv(self.widen(x), graph.edges, graph.features)
        return found
