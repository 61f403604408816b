"""Crystal graph convolution (Xie and Grossman, Phys. Rev. Lett. 120, 145301, 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import CGConv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes
from hydragnn_hpc.member.library.messages import gated
from hydragnn_hpc.member.library.shared import SharedGeometry, linear


class Layer(nn.Module):
    """PyTorch Geometric's layer, which keeps the width, after a linear map where the width changes."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.widen = nn.Identity() if sizes.fan_in == sizes.out else nn.Linear(sizes.fan_in, sizes.out)
        self.conv = CGConv(sizes.out, dim=sizes.edge_features)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Convolve ``x`` [N, in]; return [N, out]."""
        out: Tensor = self.conv(self.widen(x), graph.edges, graph.features)
        return out

    def over_shared(self, x: Tensor, geometry: SharedGeometry) -> Tensor:
        """Do the same over one geometry, ``[in, n * B]`` to ``[out, n * B]``."""
        x = linear(self.widen, x)
        width = len(x)
        # Both linear maps act on target, source and edge side by side: a product each.
        weight = torch.cat([self.conv.lin_f.weight, self.conv.lin_s.weight])
        bias = torch.cat([self.conv.lin_f.bias, self.conv.lin_s.bias])
        targets, sources, edges = weight.tensor_split((width, 2 * width), dim=1)
        of_edges = None if geometry.features is None else edges @ geometry.features.t()
        messages = gated(geometry, torch.addmm(bias[:, None], targets, x), sources @ x, of_edges)
        return x + messages
