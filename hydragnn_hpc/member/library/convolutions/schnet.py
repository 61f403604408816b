"""SchNet's interaction: continuous-filter convolution (Schütt et al., NIPS 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_geometric.nn.models.schnet import InteractionBlock

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes
from hydragnn_hpc.member.library.shared import SharedGeometry, linear, perceptron


class Layer(nn.Module):
    """PyTorch Geometric's interaction block added to its input, after a linear map where the width changes."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.widen = nn.Identity() if sizes.fan_in == sizes.out else nn.Linear(sizes.fan_in, sizes.out)
        self.interaction = InteractionBlock(sizes.out, sizes.edge_features, sizes.out, sizes.cutoff)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Convolve ``x`` [N, in]; return [N, out]."""
        x = self.widen(x)
        out: Tensor = x + self.interaction(x, graph.edges, graph.lengths, graph.features)
        return out

    def over_shared(self, x: Tensor, geometry: SharedGeometry) -> Tensor:
        """Do the same over one geometry, ``[in, n * B]`` to ``[out, n * B]``."""
        x, block = linear(self.widen, x), self.interaction
        assert geometry.lengths is not None and geometry.features is not None
        envelope = 0.5 * (torch.cos(geometry.lengths * math.pi / block.conv.cutoff) + 1.0)
        filters = perceptron(block.mlp, geometry.features.t()) * envelope
        messages = geometry.weighted(filters, linear(block.conv.lin1, x))
        out: Tensor = x + linear(block.lin, block.act(linear(block.conv.lin2, messages)))
        return out
