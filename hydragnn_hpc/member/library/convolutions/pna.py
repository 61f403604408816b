"""Principal neighbourhood aggregation (Corso et al., NeurIPS 2020).

Campaigns train with the other engines, which compute the same layer many times faster and are tested against this one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import PNAConv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes

AGGREGATORS = ["mean", "min", "max", "std"]
SCALERS = ["identity", "amplification", "attenuation", "linear"]


class Layer(nn.Module):
    """PyTorch Geometric's layer, with the average degrees of the whole training set."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        some = torch.tensor([0, 1])  # a degree histogram; the averages from it are replaced
        self.conv = PNAConv(sizes.fan_in, sizes.out, AGGREGATORS, SCALERS, some, edge_dim=sizes.edge_features or None)
        linear, logarithmic = sizes.average_degree
        self.conv.aggr_module.avg_deg_lin.fill_(linear)
        self.conv.aggr_module.avg_deg_log.fill_(logarithmic)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Convolve ``x`` [N, in]; return [N, out]."""
        out: Tensor = self.conv(x, graph.edges, graph.features)
        return out
