"""The four aggregations of PNA over padded neighbour tables: mean, minimum, maximum, standard deviation.

Forward and backward only gather; nothing is scattered, so that no atomics are needed and results are deterministic on
every device. The backward pass may gather because the neighbour relation is symmetric: those who receive from j are
j's own neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

_SMALLEST_VARIANCE = 1e-5  # PyTorch Geometric's StdAggregation: below it the deviation counts as zero


@dataclass(frozen=True)
class NeighbourTable:
    """Neighbours of R rows.

    Attributes
    ----------
    index : torch.Tensor
        ``[R, K]`` int64, rows; a row with fewer than K neighbours repeats its first, one without any names itself.
    zero_index : torch.Tensor
        ``[R, K]`` int64: the same with R, one past the last row, in the place of padding.
    weight : torch.Tensor
        ``[R, K, 1]``: 1 / degree, 0 for padding.
    inverse_degree : torch.Tensor
        ``[R, 1]``: 1 / degree, 0 where there are no neighbours.
    """

    index: torch.Tensor
    zero_index: torch.Tensor
    weight: torch.Tensor
    inverse_degree: torch.Tensor


class Aggregate(torch.autograd.Function):
    """``h [R, F]`` to ``[R, 4 F]``: mean, min, max, std over each row's neighbours.

    Rows without neighbours come out meaningless for min and max: their scalers are zero.
    """

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, table: NeighbourTable) -> torch.Tensor:
        gathered = h[table.index]
        mean = (gathered * table.weight).sum(1)
        low, high = gathered.amin(1), gathered.amax(1)
        # Two passes: the mean is taken off first, so that nothing cancels.
        variance = (gathered - mean[:, None]).square_().mul_(table.weight).sum(1)
        deviation = variance.clamp(min=_SMALLEST_VARIANCE).sqrt_()
        deviation.masked_fill_(deviation <= math.sqrt(_SMALLEST_VARIANCE), 0.0)
        ctx.save_for_backward(h, mean, low, high, deviation)
        ctx.table = table
        return torch.cat([mean, low, high, deviation], 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        h, mean, low, high, deviation = ctx.saved_tensors
        table: NeighbourTable = ctx.table
        g_mean, g_low, g_high, g_deviation = gradients[0].chunk(4, 1)
        gathered = h[table.index]
        real = table.weight > 0
        # Where several neighbours tie for an extreme, they share its gradient, as in PyTorch Geometric.
        ties_low = ((gathered == low[:, None]) & real).sum(1)
        ties_high = ((gathered == high[:, None]) & real).sum(1)
        slope = torch.where(deviation > 0, g_deviation / deviation, 0.0) * table.inverse_degree
        constant = g_mean * table.inverse_degree - mean * slope
        sent = torch.cat(
            [constant, slope, g_low / ties_low.clamp(min=1), low, g_high / ties_high.clamp(min=1), high], 1
        )
        sent = torch.cat([sent, sent.new_zeros(1, sent.shape[1])])[table.zero_index]
        constant, slope, g_low, low, g_high, high = sent.chunk(6, 2)
        own = h[:, None]
        total = torch.addcmul(constant, own, slope)
        total.addcmul_(own == low, g_low).addcmul_(own == high, g_high)
        return total.sum(1), None
