"""Graph isomorphism network (Xu et al., ICLR 2019); with edge features GINE (Hu et al., ICLR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import GINConv, GINEConv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes
from hydragnn_hpc.member.library.messages import rectified
from hydragnn_hpc.member.library.shared import SharedGeometry, linear, perceptron


class Layer(nn.Module):
    """PyTorch Geometric's layer with a perceptron of two layers, and a learned epsilon."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        layers = nn.Sequential(nn.Linear(sizes.fan_in, sizes.out), nn.ReLU(), nn.Linear(sizes.out, sizes.out))
        self._with_edges = sizes.edge_features > 0
        if self._with_edges:
            self.conv = GINEConv(layers, train_eps=True, edge_dim=sizes.edge_features)
        else:
            self.conv = GINConv(layers, train_eps=True)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Convolve ``x`` [N, in]; return [N, out]."""
        more = (graph.features,) if self._with_edges else ()
        out: Tensor = self.conv(x, graph.edges, *more)
        return out

    def over_shared(self, x: Tensor, geometry: SharedGeometry) -> Tensor:
        """Do the same over one geometry, ``[in, n * B]`` to ``[out, n * B]``."""
        if geometry.features is None:
            total = geometry.total(x)
        else:
            total = rectified(geometry, x, linear(self.conv.lin, geometry.features.t()))
        return perceptron(self.conv.nn, torch.addcmul(total, x, 1 + self.conv.eps))
