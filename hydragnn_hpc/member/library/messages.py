"""Messages over one geometry, with few passes over the values of all edges and samples.

Autograd would keep and rewrite a dozen arrays ``[F, m, B]`` for each layer; these functions keep few of them, work in
place, and process one head at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from hydragnn_hpc.member.library.shared import SharedGeometry

LEAKY_SLOPE = 0.2
"""Of leaky ReLU in attention, as in PyTorch Geometric by default."""


def gated(geometry: SharedGeometry, targets: Tensor, sources: Tensor, edges: Tensor | None) -> Tensor:
    """Sum sigmoid(f) * softplus(c) over neighbours (Xie and Grossman 2018, eq. 5).

    f and c are the halves of ``targets + sources + edges``: ``[2 F, n * B]``, ``[2 F, n * B]``, ``[2 F, m]`` (or None)
    to ``[F, n * B]``.
    """
    out: Tensor = _Gated.apply(geometry, targets, sources, edges)  # type: ignore[no-untyped-call]
    return out


def attended(
    geometry: SharedGeometry, sources: Tensor, targets: Tensor, edges: Tensor | None, vector: Tensor
) -> Tensor:
    """Sum neighbours weighted by attention, and take the mean over heads (Brody, Alon and Yahav 2022, eq. 7).

    ``sources`` and ``targets`` ``[H * C, n * B]``, ``edges`` ``[H * C, m]`` (or None) and ``vector`` ``[H, C]`` to
    ``[C, n * B]``.
    """
    out: Tensor = _Attended.apply(geometry, sources, targets, edges, vector)  # type: ignore[no-untyped-call]
    return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometry: SharedGeometry, targets: Tensor, sources: Tensor, edges: Tensor | None) -> Tensor:
        """Save what the slopes are computed from."""
        mixed = geometry.at_sources(sources)
        mixed += geometry.at_targets(targets)
        if edges is not None:
            mixed += edges[:, :, None]
        f, c = mixed.chunk(2)
        gate = f.sigmoid_()
        # softplus(c) = -log(sigmoid(-c)), much faster than torch's; where sigmoid(-c) is too small, it is c.
        rest = c.neg().sigmoid_()
        core = torch.maximum(rest.clamp(min=torch.finfo(c.dtype).tiny).log_().neg_(), c)
        ctx.geometry, ctx.has_edges = geometry, edges is not None
        ctx.save_for_backward(gate, core, rest)
        return geometry.collected(gate * core)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, Tensor | None]:
        """Slopes are gate (1 - gate) core, and gate (1 - rest)."""
        gate, core, rest = ctx.saved_tensors
        given = ctx.geometry.at_targets(gradient).mul_(gate)
        slopes = torch.cat([given.addcmul(given, gate, value=-1).mul_(core), given.addcmul_(given, rest, value=-1)])
        edges = slopes.sum(2) if ctx.has_edges else None
        return None, ctx.geometry.collected(slopes), ctx.geometry.collected_at_sources(slopes), edges


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, geometry: SharedGeometry, sources: Tensor, targets: Tensor, edges: Tensor | None, vector: Tensor
    ) -> Tensor:
        """Save the attention of each edge, ``[H, m, B]``."""
        heads, total = len(vector), None
        shares = []
        for head, values, mixed in _by_head(geometry, sources, targets, edges, heads):
            scores = vector[head] @ leaky_relu(mixed, LEAKY_SLOPE, inplace=True).flatten(1)
            shares.append(geometry.softmax(scores.view(1, *values.shape[1:])))
            values *= shares[-1]
            total = values if total is None else total.add_(values)
        assert total is not None
        ctx.geometry, ctx.has_edges = geometry, edges is not None
        ctx.save_for_backward(sources, targets, vector, *shares, *([] if edges is None else [edges]))
        return geometry.collected(total) / heads

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the mixed values again, a head at a time."""
        sources, targets, vector, *shares = ctx.saved_tensors
        edges = shares.pop() if ctx.has_edges else None
        geometry, gradients = ctx.geometry, []
        given = geometry.at_targets(gradient / len(vector))
        for head, values, mixed in _by_head(geometry, sources, targets, edges, len(vector)):
            share = shares[head]
            scores = geometry.softmax_slope(share, values.mul_(given).sum(0, keepdim=True))
            active = leaky_relu(mixed, LEAKY_SLOPE)
            of_vector = active.flatten(1) @ scores.flatten()
            slopes = torch.ops.aten.leaky_relu_backward(vector[head][:, None, None] * scores, mixed, LEAKY_SLOPE, False)
            of_edges = slopes.sum(2) if ctx.has_edges else slopes.new_empty(0)
            of_targets = geometry.collected(slopes)
            gradients.append(
                (geometry.collected_at_sources(slopes.addcmul_(given, share)), of_targets, of_edges, of_vector)
            )
        all_sources, all_targets, all_edges, all_vectors = zip(*gradients, strict=True)
        edges_gradient = torch.cat(all_edges) if ctx.has_edges else None
        return None, torch.cat(all_sources), torch.cat(all_targets), edges_gradient, torch.stack(all_vectors)


def _by_head(
    geometry: SharedGeometry, sources: Tensor, targets: Tensor, edges: Tensor | None, heads: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield each head's number, its sources' values, and the sums that scores are computed from, ``[C, m, B]``."""
    for head, (source, target) in enumerate(zip(sources.chunk(heads), targets.chunk(heads), strict=True)):
        values, mixed = geometry.at_sources(source), geometry.at_targets(target)
        mixed += values
        if edges is not None:
            mixed += edges.chunk(heads)[head][:, :, None]
        yield head, values, mixed
