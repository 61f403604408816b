"""Layers over one geometry: all samples of a batch share its edges, and everything derived from them.

Values of B samples over n sites are columns, ``[F, n * B]``, site after site: the factor of an edge or a site then
applies to B adjacent numbers, and a sum over neighbours is a small product for each feature.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from hydragnn_hpc.member.library.convolutions import Graph

FILLED = 1 / 16
"""If at least this share of the pairs of sites are neighbours, sums over neighbours are products with a matrix of all
pairs; with fewer, its zeros cost more than gathering does."""


class SharedGeometry:
    """One geometry with n sites and m edges.

    Parameters
    ----------
    edges : int64 tensor [2, m]
        Source (neighbour), then target; ordered by target. Sites with fewer neighbours come first.
    sites : int
        n.
    lengths, directions, features : tensor [m], [m, 3], [m, K] or None
        As those of `Graph`.

    Attributes
    ----------
    groups : list of (int, int)
        Numbers of neighbours, ascending, and how many sites have each.
    """

    def __init__(
        self, edges: Tensor, sites: int, lengths: Tensor | None, directions: Tensor | None, features: Tensor | None
    ) -> None:
        self.edges, self.sites = edges, sites
        self.lengths, self.directions, self.features = lengths, directions, features
        degrees = torch.bincount(edges[1], minlength=sites)
        self.groups = [(degree, len([*same])) for degree, same in groupby(degrees.tolist())]
        self._degrees = degrees.clamp(min=1)[:, None]
        self._pairs = edges[1] * sites + edges[0]
        self._counts, self._repeated = None, False
        if len(self._pairs) >= FILLED * sites * sites:  # otherwise a matrix of all pairs is neither used nor made
            self._counts = torch.bincount(self._pairs, minlength=sites * sites).view(sites, sites)
            self._repeated = bool((self._counts > 1).any())
        self._graphs: dict[int, Graph] = {}

    def total(self, x: Tensor) -> Tensor:
        """Sum over each site's neighbours, ``[F, n * B]`` to ``[F, n * B]``."""
        if self._counts is None:
            return self.collected(self.at_sources(x))
        return self._product(self._counts.to(x).expand(x.shape[0], -1, -1), x)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over each site's neighbours, 0 without any, ``[F, n * B]`` to ``[F, n * B]``."""
        if self._counts is None:
            return (self.total(x).view(x.shape[0], self.sites, -1) / self._degrees).view_as(x)
        return self._product((self._counts.to(x) / self._degrees).expand(x.shape[0], -1, -1), x)

    def weighted(self, weights: Tensor, x: Tensor) -> Tensor:
        """Sum over each site's neighbours, times their edges' ``weights`` [F, m], ``[F, n * B]`` to ``[F, n * B]``."""
        if self._counts is None:
            return self.collected(self.at_sources(x) * weights[:, :, None])
        zeros = x.new_zeros(x.shape[0], self.sites**2)
        put = zeros.index_add if self._repeated else zeros.index_copy
        return self._product(put(1, self._pairs, weights).view(x.shape[0], self.sites, -1), x)

    def _product(self, matrices: Tensor, x: Tensor) -> Tensor:
        """Multiply the values of all sites, feature by feature, by matrices ``[F, n, n]``."""
        return torch.bmm(matrices, x.view(x.shape[0], self.sites, -1)).view_as(x)

    def at_sources(self, x: Tensor) -> Tensor:
        """Return the values at each edge's source, ``[F, n * B]`` to ``[F, m, B]``."""
        return x.view(x.shape[0], self.sites, -1).index_select(1, self.edges[0])

    def at_targets(self, x: Tensor) -> Tensor:
        """Return the values at each edge's target, ``[F, n * B]`` to ``[F, m, B]``."""
        return x.view(x.shape[0], self.sites, -1).index_select(1, self.edges[1])

    def collected(self, messages: Tensor) -> Tensor:
        """Sum messages to each site, ``[F, m, B]`` to ``[F, n * B]``."""
        return self._sums(messages, self.edges[1])

    def collected_at_sources(self, messages: Tensor) -> Tensor:
        """Sum values of edges at their sources, ``[F, m, B]`` to ``[F, n * B]``."""
        return self._sums(messages, self.edges[0])

    def _sums(self, messages: Tensor, sites: Tensor) -> Tensor:
        zeros = messages.new_zeros(messages.shape[0], self.sites, messages.shape[2])
        return zeros.index_add_(1, sites, messages).flatten(1)

    def softmax(self, scores: Tensor) -> Tensor:
        """Take the softmax over the edges to each site, ``[F, m, B]`` to ``[F, m, B]``."""
        parts = torch.split(scores, [degree * count for degree, count in self.groups], dim=1)
        by_degree = [
            part.reshape(part.shape[0], count, degree, part.shape[2])
            for part, (degree, count) in zip(parts, self.groups, strict=True)
        ]
        return torch.cat([each.softmax(2).flatten(1, 2) for each in by_degree], dim=1)

    def softmax_slope(self, shares: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of the scores of `softmax`, from that of ``shares``."""
        weighted = shares * gradient
        return weighted.sub_(self.at_targets(self.collected(weighted)).mul_(shares))

    def graph(self, samples: int) -> Graph:
        """Return the same as a graph of B samples, for layers that have no form for a shared geometry."""
        if samples not in self._graphs:
            self._graphs[samples] = self._graph(samples)
        return self._graphs[samples]

    def _graph(self, samples: int) -> Graph:
        number = torch.arange(samples, device=self.edges.device)
        edges = (self.edges[:, :, None] * samples + number).flatten(1)
        lengths, directions, features = (
            None if each is None else each.repeat_interleave(samples, 0)
            for each in (self.lengths, self.directions, self.features)
        )
        return Graph(edges, lengths, directions, features, number.repeat(self.sites), samples)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer (or none) to columns, ``[in, N]`` to ``[out, N]``; without a bias also ``[..., in, N]``."""
    if isinstance(layer, nn.Identity):
        return x
    weight, bias = cast(Tensor, layer.weight), cast(Tensor | None, layer.bias)
    return weight @ x if bias is None else torch.addmm(bias[:, None], weight, x)


def perceptron(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply linear layers, and the activations between them, to columns."""
    for layer in layers:
        x = linear(layer, x) if hasattr(layer, "weight") else layer(x)
    return x
