"""SchNet's interaction: continuous-filter convolution (Schütt et al., NIPS 2017)."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn.models.schnet import InteractionBlock

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes


class Layer(nn.Module):
    """The library's interaction block added to its input, after a linear map where the width changes."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.widen = nn.Identity() if sizes.fan_in == sizes.out else nn.Linear(sizes.fan_in, sizes.out)
        self.interaction = InteractionBlock(sizes.out, sizes.edge_features, sizes.out, sizes.cutoff)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """[N, in] to [N, out]."""
        x = self.widen(x)
        found: Tensor = x + self.interaction(x, graph.edges, graph.lengths, graph.features)
        return found
