"""GraphSAGE with the mean of the neighbours (Hamilton, Ying and Leskovec, NIPS 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes
from hydragnn_hpc.member.library.shared import SharedGeometry


class Layer(nn.Module):
    """PyTorch Geometric's layer."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.conv = SAGEConv(sizes.fan_in, sizes.out)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Convolve ``x`` [N, in]; return [N, out]."""
        out: Tensor = self.conv(x, graph.edges)
        return out

    def over_shared(self, x: Tensor, geometry: SharedGeometry) -> Tensor:
        """Do the same over one geometry, ``[in, n * B]`` to ``[out, n * B]``."""
        neighbours, own = (torch.cat([self.conv.lin_l.weight, self.conv.lin_r.weight]) @ x).chunk(2)
        out: Tensor = geometry.mean(neighbours) + (own + self.conv.lin_l.bias[:, None])
        return out
