"""Molecular fingerprints: separate weights for every number of neighbours (Duvenaud et al., NIPS 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import MFConv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes
from hydragnn_hpc.member.library.shared import SharedGeometry, linear

MOST_NEIGHBOURS = 32
"""Atoms with more neighbours use the weights of this number."""
COPIED = 2**26
"""Numbers of weights that are copied at once on a device: 256 MB."""


class Layer(nn.Module):
    """PyTorch Geometric's layer."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.conv = MFConv(sizes.fan_in, sizes.out, max_degree=MOST_NEIGHBOURS)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Convolve ``x`` [N, in]; return [N, out]."""
        if x.device.type != "cpu":
            return self._on_device(x, graph.edges)
        out: Tensor = self.conv(x, graph.edges)
        return out

    def over_shared(self, x: Tensor, geometry: SharedGeometry) -> Tensor:
        """Do the same over one geometry, ``[in, n * B]`` to ``[out, n * B]``."""
        samples, out = x.shape[1] // geometry.sites, []
        sizes = [samples * count for _, count in geometry.groups]
        parts = zip(geometry.groups, torch.split(geometry.total(x), sizes, 1), torch.split(x, sizes, 1), strict=True)
        for (degree, _), neighbours, own in parts:
            number = min(degree, MOST_NEIGHBOURS)
            out.append(torch.addmm(linear(self.conv.lins_l[number], neighbours), self.conv.lins_r[number].weight, own))
        return torch.cat(out, dim=1)

    def _on_device(self, x: Tensor, edges: Tensor) -> Tensor:
        """Do the same with a copy of the weights for each atom: MFConv groups atoms by degree, and waits for that."""
        ones = torch.ones_like(edges[1])
        degree = torch.zeros_like(x[:, 0], dtype=torch.int64).index_add_(0, edges[1], ones)
        degree.clamp_(max=MOST_NEIGHBOURS)
        around, own = (torch.stack([each.weight.T for each in of]) for of in (self.conv.lins_l, self.conv.lins_r))
        bias = torch.stack([each.bias for each in self.conv.lins_l])
        weights = torch.cat([around, own], 1)
        both = torch.cat([self.conv.propagate(edges, x=(x, x), size=None), x], 1)
        out = []
        for atoms in torch.split(torch.arange(len(x), device=x.device), max(1, COPIED // weights[0].numel())):
            chosen = degree.index_select(0, atoms)
            own_bias, own_weights = bias.index_select(0, chosen)[:, None], weights.index_select(0, chosen)
            out.append(torch.baddbmm(own_bias, both.index_select(0, atoms)[:, None], own_weights))
        return torch.cat(out).squeeze(1)
