"""Graph attention with dynamic scores (Brody, Alon and Yahav, ICLR 2022)."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes
from hydragnn_hpc.member.library.messages import attended
from hydragnn_hpc.member.library.shared import SharedGeometry, linear

HEADS = 4


class Layer(nn.Module):
    """PyTorch Geometric's layer: the mean over its heads, plus a linear map of the atom's own features.

    No self-loops are added, because PyTorch Geometric would then drop an atom's edges to its own periodic images.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.conv = GATv2Conv(
            sizes.fan_in,
            sizes.out,
            heads=HEADS,
            concat=False,
            add_self_loops=False,
            residual=True,
            edge_dim=sizes.edge_features or None,
        )

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Convolve ``x`` [N, in]; return [N, out]."""
        out: Tensor = self.conv(x, graph.edges, graph.features)
        return out

    def over_shared(self, x: Tensor, geometry: SharedGeometry) -> Tensor:
        """Do the same over one geometry, ``[in, n * B]`` to ``[out, n * B]``."""
        conv = self.conv
        edges = None if geometry.features is None else linear(conv.lin_edge, geometry.features.t())
        sources, targets = linear(conv.lin_l, x), linear(conv.lin_r, x)
        messages = attended(geometry, sources, targets, edges, conv.att[0])
        out: Tensor = messages + linear(conv.res, x) + conv.bias[:, None]
        return out
