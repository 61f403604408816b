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


def rectified(geometry: SharedGeometry, sources: Tensor, edges: Tensor) -> Tensor:
    """Sum ReLU(sources + edges) over neighbours, ``[F, n * B]`` and ``[F, m]`` to ``[F, n * B]``."""
    out: Tensor = _Rectified.apply(geometry, sources, edges)  # type: ignore[no-untyped-call]
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


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometry: SharedGeometry, sources: Tensor, edges: Tensor) -> Tensor:
        """Save the messages."""
        messages = geometry.at_sources(sources).add_(edges[:, :, None]).relu_()
        ctx.geometry = geometry
        ctx.save_for_backward(messages)
        return geometry.collected(messages)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        """Only positive messages pass a gradient."""
        given = torch.ops.aten.threshold_backward(ctx.geometry.at_targets(gradient), *ctx.saved_tensors, 0)
        return None, ctx.geometry.collected_at_sources(given), given.sum(2)


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, geometry: SharedGeometry, sources: Tensor, targets: Tensor, edges: Tensor | None, vector: Tensor
    ) -> Tensor:
        """Save the attention of each edge, ``[H, m, B]``."""
        all_values, all_active, all_scores = [], [], []
        for head, (values, mixed) in enumerate(_by_head(geometry, sources, targets, edges, len(vector))):
            all_active.append(leaky_relu(mixed, LEAKY_SLOPE, inplace=True))
            all_scores.append(vector[head] @ mixed.flatten(1))
            all_values.append(values)
        shares = geometry.softmax(torch.stack(all_scores).view(len(vector), *all_values[0].shape[1:]))
        total = all_values[0].mul_(shares[0])
        for values, share in zip(all_values[1:], shares[1:], strict=True):
            total += values.mul_(share)
        ctx.geometry, ctx.has_edges = geometry, edges is not None
        ctx.save_for_backward(sources, vector, shares, *all_active)
        return geometry.collected(total) / len(vector)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of a head at a time."""
        sources, vector, shares, *all_active = ctx.saved_tensors
        geometry, heads = ctx.geometry, len(vector)
        given = geometry.at_targets(gradient / heads)
        of_shares = [geometry.at_sources(source).mul_(given).sum(0) for source in sources.chunk(heads)]
        all_scores = geometry.softmax_slope(shares, torch.stack(of_shares))
        gradients = []
        for scores, share, weights, active in zip(all_scores, shares, vector, all_active, strict=True):
            of_vector = active.flatten(1) @ scores.flatten()
            slopes = torch.ops.aten.leaky_relu_backward(weights[:, None, None] * scores, active, LEAKY_SLOPE, True)
            of_edges = slopes.sum(2) if ctx.has_edges else slopes.new_empty(0)
            of_targets = geometry.collected(slopes)
            of_sources = geometry.collected_at_sources(slopes.addcmul_(given, share))
            gradients.append((of_sources, of_targets, of_edges, of_vector))
        *by_row, by_head = zip(*gradients, strict=True)
        all_sources, all_targets, all_edges = map(torch.cat, by_row)
        return None, all_sources, all_targets, all_edges if ctx.has_edges else None, torch.stack(by_head)


def _by_head(
    geometry: SharedGeometry, sources: Tensor, targets: Tensor, edges: Tensor | None, heads: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each head's values at the sources, and the sums that scores are computed from, ``[C, m, B]``."""
    by_head = [t.chunk(heads) for t in (sources, targets)]
    for head, (source, target) in enumerate(zip(*by_head, strict=True)):
        values, mixed = geometry.at_sources(source), geometry.at_targets(target)
        mixed += values
        if edges is not None:
            mixed += edges.chunk(heads)[head][:, :, None]
        yield values, mixed
