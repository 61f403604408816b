"""Polarizable atom interaction network (Schütt, Unke & Gastegger, ICML 2021): vectors beside the scalars of an atom."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hydragnn_hpc.member.library.convolutions import Graph, LayerSizes
from hydragnn_hpc.member.library.shared import SharedGeometry, linear, perceptron

_TINY = 1e-12  # keeps the slope of a vector's norm finite at 0, where the first layer's vectors are


class Layer(nn.Module):
    """One message and one update block; the first layer of a trunk widens the inputs and begins with no vectors."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        width = sizes.out
        self.width, self.cutoff = width, sizes.cutoff
        self.widen = nn.Identity() if sizes.fan_in == width else nn.Linear(sizes.fan_in, width)
        self.filter = nn.Linear(sizes.edge_features, 3 * width)
        self.message = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.mix = nn.Linear(width, 2 * width, bias=False)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, vectors: Tensor | None, graph: Graph) -> tuple[Tensor, Tensor]:
        """Scalars ``[N, in]`` and vectors ``[N, 3, in]`` (None: zero) to ``[N, out]`` and ``[N, 3, out]``."""
        x = self.widen(x)
        if vectors is None:
            vectors = x.new_zeros(len(x), 3, self.width)
        x, vectors = self._exchanged(x, vectors, graph)
        return self._mixed(x, vectors)

    def _exchanged(self, x: Tensor, vectors: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Add the messages of all neighbours."""
        assert graph.directions is not None and graph.features is not None
        senders, receivers = graph.edges
        filters = self.filter(graph.features) * self._envelope(graph)[:, None]
        scalar, along, carried = (self.message(x)[senders] * filters).split(self.width, dim=1)
        sent = vectors[senders] * carried[:, None] + graph.directions[:, :, None] * along[:, None]
        return x.index_add(0, receivers, scalar), vectors.index_add(0, receivers, sent)

    def _envelope(self, edges: Graph | SharedGeometry) -> Tensor:
        """Return a factor of each edge's messages, ``[m]``."""
        assert edges.lengths is not None
        # Vanishes smoothly at the cutoff, where a neighbour enters the list.
        return 0.5 * (1 + torch.cos(edges.lengths * (math.pi / self.cutoff)))

    def _mixed(self, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Let an atom's scalars and vectors change each other."""
        left, right = self.mix(vectors).split(self.width, dim=2)
        lengths = (right.square().sum(dim=1) + _TINY).sqrt()
        scalar, product, scale = self.update(torch.cat([x, lengths], dim=1)).split(self.width, dim=1)
        return x + scalar + product * (left * right).sum(dim=1), vectors + scale[:, None] * left

    def over_shared(self, x: Tensor, vectors: Tensor | None, geometry: SharedGeometry) -> tuple[Tensor, Tensor]:
        """Do the same over one geometry, with vectors ``[3, in, n * B]`` and ``[3, out, n * B]``."""
        x = linear(self.widen, x)
        if vectors is None:
            vectors = x.new_zeros(3, *x.shape)
        assert geometry.directions is not None and geometry.features is not None
        filters = linear(self.filter, geometry.features.t()) * self._envelope(geometry)
        scalar, along, carried = torch.split(filters, self.width)
        given, pushed, kept = torch.split(perceptron(self.message, x), self.width)
        along = (geometry.directions.t()[:, None] * along).flatten(0, 1)
        weights = torch.cat([scalar, along, carried.repeat(3, 1)])
        values = torch.cat([given, pushed.repeat(3, 1), (vectors * kept).flatten(0, 1)])
        more, pushed, kept = geometry.weighted(weights, values).tensor_split((self.width, 4 * self.width))
        return self._mixed_shared(x + more, vectors + (pushed + kept).view_as(vectors))

    def _mixed_shared(self, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        left, right = torch.split(linear(self.mix, vectors), self.width, dim=1)
        lengths = (right.square().sum(dim=0) + _TINY).sqrt()
        scalar, product, scale = torch.split(perceptron(self.update, torch.cat([x, lengths])), self.width)
        return x + scalar + product * (left * right).sum(dim=0), vectors + scale * left
