"""The four aggregations of PNA over padded neighbour tables, forward and backward by gathering alone.

Nothing is scattered: no atomics are needed, and results are deterministic on every device. The backward pass may gather
because the neighbour relation is symmetric: those who receive from j are j's own neighbours. Slots of the table come
first ([K, N, ...]), so that every reduction runs along long contiguous rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

SMALLEST_VARIANCE = 1e-5  # PyTorch Geometric's StdAggregation: up to it the deviation counts as zero


@dataclass(frozen=True)
class Table:
    """Neighbours of N rows, K slots each; K is the largest degree, at least 1.

    Attributes
    ----------
    slots : int
        K.
    forward : tensor [K * N]
        Row in each slot; rows with fewer neighbours repeat their first one, those without any themselves.
    backward : tensor [4 * K * N]
        Where a row finds its receivers' minimum, maximum and their gradients, stacked [4 N + 1]; the last row for
        repeats.
    bag, bag_first : tensor [N * K], [N]
        ``forward`` row by row.
    weight, weight_back : tensor [N * K]
        1 / degree of the row, and of its neighbour; 0 for repeats.
    inverse : tensor [N, 1]
        1 / degree; 0 without neighbours.
    repeats : tensor [N, 1] or None
        How often each row's first neighbour is repeated; None where nothing is.
    """

    slots: int
    forward: Tensor
    backward: Tensor
    bag: Tensor
    bag_first: Tensor
    weight: Tensor
    weight_back: Tensor
    inverse: Tensor
    repeats: Tensor | None


def make_table(neighbour: Tensor, degree: Tensor, dtype: torch.dtype, regular: bool = False) -> Table:
    """Make the tables of rows with these neighbours.

    Parameters
    ----------
    neighbour : int64 tensor [N, K]
        Rows; beyond the degree anything within 0 .. N - 1.
    degree : int64 tensor [N]
    regular : bool
        Whether all rows are known to have K neighbours.
    """
    rows, slots = neighbour.shape
    slot = torch.arange(slots, device=neighbour.device)
    real = slot < degree[:, None]
    own = torch.arange(rows, device=neighbour.device)[:, None]
    first = torch.where(degree[:, None] > 0, neighbour[:, :1], own)
    bag = torch.where(real, neighbour, first)
    part = (torch.arange(4, device=neighbour.device) * rows)[:, None, None]
    backward = torch.where(real.T, bag.T + part, 4 * rows)
    inverse = torch.where(degree > 0, 1.0 / degree.clamp(min=1).to(dtype), 0.0)
    repeats = (slots - degree.clamp(min=1))[:, None].to(dtype)
    return Table(
        slots,
        bag.T.reshape(-1),
        backward.reshape(-1),
        bag.reshape(-1),
        torch.arange(0, rows * slots, slots, device=neighbour.device),
        (real * inverse[:, None]).reshape(-1),
        (real * inverse[bag]).reshape(-1),
        inverse[:, None],
        None if regular else repeats,
    )


class Aggregated:
    """What one layer's aggregation leaves for its backward pass.

    Attributes
    ----------
    sent : tensor [N, W]
        What was aggregated.
    mean, slope : tensor [N, W]
        Mean; 1 / std, 0 where std counts as zero.
    stacked : tensor [4 N + 1, W]
        Minimum, maximum, their gradients, and a row of zeros.
    extremes, ties : tensor [2, N, W]
        The first half of ``stacked``; how many neighbours have that value.
    """

    sent: Tensor
    mean: Tensor
    slope: Tensor

    def __init__(self, stacked: Tensor, ties: Tensor) -> None:
        self.stacked, self.ties = stacked, ties
        self.extremes = stacked[: 2 * ties.shape[1]].view(ties.shape)


def aggregate(sent: Tensor, table: Table, scratch: Tensor, kept: Aggregated, out: Tensor, training: bool) -> None:
    """Aggregate ``sent`` [N, W] over each row's neighbours: mean, minimum, maximum, standard deviation.

    Parameters
    ----------
    scratch : tensor [4 * K, N, W]
        Overwritten.
    kept : Aggregated
        Filled; its ``sent`` is taken over.
    out : tensor [4, N, W] or [4, R, E, F] of as many numbers
        Filled; may be strided.
    training : bool
        Whether the backward pass will follow.
    """
    slots = table.slots
    values, matches = scratch[:slots], torch.unflatten(scratch[slots : 3 * slots], 0, (2, slots))
    torch.index_select(sent, 0, table.forward, out=values.flatten(0, 1))
    torch.amin(values, 0, out=kept.extremes[0])
    torch.amax(values, 0, out=kept.extremes[1])
    if training:
        torch.eq(values[None], kept.extremes[:, None], out=matches)
        torch.sum(matches, 1, out=kept.ties)
    kept.sent = sent
    kept.mean = embedding_bag(table.bag, sent, table.bag_first, mode="sum", per_sample_weights=table.weight)
    # Two passes: the mean is taken off first, so that nothing cancels.
    values.sub_(kept.mean)
    values.mul_(values)
    variance = torch.sum(values, 0)
    if table.repeats is not None:
        if training:
            kept.ties.addcmul_(matches[:, 0], table.repeats, value=-1)
        variance.addcmul_(values[0], table.repeats, value=-1)
    variance.mul_(table.inverse)
    kept.slope = torch.threshold(variance, SMALLEST_VARIANCE, torch.inf).rsqrt_()
    like = out.shape[1:]
    torch.mul(variance.view(like), kept.slope.view(like), out=out[3])
    out[0].copy_(kept.mean.view(like))
    out[1:3].copy_(kept.extremes.view(2, *like))


def aggregate_back(grad: Tensor, table: Table, scratch: Tensor, kept: Aggregated, packed: Tensor) -> Tensor:
    """Gradient of `aggregate` with respect to ``sent``, [N, W].

    Where several neighbours tie for an extreme they share its gradient, as in PyTorch Geometric.

    Parameters
    ----------
    grad : tensor [4, N, W] or [4, R, E, F]
    scratch, packed : tensor [4 * K, N, W], [N, 2, W]
        Overwritten.
    """
    rows, width = kept.sent.shape
    like = grad.shape[1:]
    torch.div(grad[1:3], kept.ties.view(2, *like), out=kept.stacked[2 * rows : -1].view(2, *like))
    # d std_i / d y_j = (y_j - mean_i) / (degree_i std_i): a constant and a multiple of y_j, summed over i.
    constant, multiple = packed[:, 0].view(like), packed[:, 1].view(like)
    torch.mul(grad[3], kept.slope.view(like), out=multiple)
    torch.addcmul(grad[0], multiple, kept.mean.view(like), value=-1, out=constant)
    flat = packed.view(rows, 2 * width)
    linear = embedding_bag(table.bag, flat, table.bag_first, mode="sum", per_sample_weights=table.weight_back)
    torch.index_select(kept.stacked, 0, table.backward, out=scratch.flatten(0, 1))
    matches, shares = scratch.view(2, -1, rows, width)
    matches.eq_(kept.sent).mul_(shares)
    # The shares are used up: the rest of the gradient takes a slot of theirs, and is summed with them.
    torch.addcmul(linear[:, :width], kept.sent, linear[:, width:], out=shares[0])
    return torch.sum(scratch[: len(matches) + 1], 0)
