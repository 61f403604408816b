"""Principal neighbourhood aggregation (Corso et al., NeurIPS 2020).

Campaigns train with the other engines, which compute the same layer many times faster and are tested against this one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import PNAConv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes

_AGGREGATORS = ["mean", "min", "max", "std"]
_SCALERS = ["identity", "amplification", "attenuation", "linear"]


class Layer(nn.Module):
    """PyTorch Geometric's layer, with the average degrees of the whole training set."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        degrees = torch.tensor([0, 1])  # any histogram of degrees: the averages from it are replaced
        edge_dim = sizes.edge_features or None
        self.conv = PNAConv(sizes.fan_in, sizes.out, _AGGREGATORS, _SCALERS, degrees, edge_dim=edge_dim)
        linear, logarithmic = sizes.average_degree
        self.conv.aggr_module.avg_deg_lin.fill_(linear)
        self.conv.aggr_module.avg_deg_log.fill_(logarithmic)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Convolve ``x`` [N, in]; return [N, out]."""
        out: Tensor = self.conv(x, graph.edges, graph.features)
        return out
