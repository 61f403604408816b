"""The four aggregations of PNA over padded neighbour tables, forward and backward by gathering alone.

Nothing is scattered: no atomics are needed, and results are deterministic on every device. The backward pass can gather
because the neighbour relation is symmetric: the atoms that receive from j are j's own neighbours. The slots of the
table are the leading dimension ([K, N, ...]), so that every reduction runs along long contiguous rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from hydragnn_hpc.member.engine.sizes import Array

FEWEST_ROWS = 64  # of a part: with fewer, its kernel launches do not pay off
SMALLEST_VARIANCE = 1e-5  # as in PyTorch Geometric's StdAggregation: up to it, the deviation counts as zero


@dataclass(frozen=True)
class TablePart:
    """Some rows of a table, padded to the same number of slots K.

    Attributes
    ----------
    rows : slice
        The n rows of the part.
    slots : int
        K, the largest degree among them, at least 1.
    forward : tensor [K * n]
        Row that each slot gathers; rows with fewer than K neighbours repeat their first one, rows without any repeat
        themselves.
    backward : tensor [4 * K * n]
        Rows of the stacked minimum, maximum and their gradients [4 N + 1] that belong to each row's receivers; the
        last row, of zeros, for repeats.
    repeats : tensor [n, 1] or None
        How often each row's first neighbour is repeated; None if no row repeats any.
    """

    rows: slice
    slots: int
    forward: Tensor
    backward: Tensor
    repeats: Tensor | None


@dataclass(frozen=True)
class NeighbourTable:
    """Neighbours of N rows.

    Attributes
    ----------
    rows : int
        N.
    parts : tuple of TablePart
        The parts that cover the rows, in order.
    room : int
        The largest K * n of any part.
    bag, bag_first : tensor [edges], [N]
        Neighbours row by row, and where each row's neighbours begin.
    weight, weight_back : tensor [edges]
        1 / degree of the row, and of its neighbour.
    inverse : tensor [N, 1]
        1 / degree; 0 for rows without neighbours.
    """

    rows: int
    parts: tuple[TablePart, ...]
    room: int
    bag: Tensor
    bag_first: Tensor
    weight: Tensor
    weight_back: Tensor
    inverse: Tensor


def make_table(bag: Tensor, degree: Array, on_device: Tensor, dtype: torch.dtype, room: int) -> NeighbourTable:
    """Make the table of rows with these neighbours.

    Parameters
    ----------
    bag : int64 tensor [edges]
        Neighbours row by row.
    degree : int64 array [N]
        In descending order; on the host, so that nothing waits for the device.
    on_device : int64 tensor [2, N]
        ``degree``, and where each row's neighbours begin.
    room : int
        Approximate size of a part: its rows times their largest degree.
    """
    parts: list[TablePart] = []
    while not parts or parts[-1].rows.stop < len(degree):
        start = parts[-1].rows.stop if parts else 0
        stop = min(start + max(FEWEST_ROWS, room // max(1, int(degree[start]))), len(degree))
        parts.append(_part(bag, on_device[:, start:stop], degree, slice(start, stop), dtype))
    inverse = torch.where(on_device[0] > 0, 1.0 / on_device[0].clamp(min=1).to(dtype), 0.0)
    return NeighbourTable(
        len(degree),
        tuple(parts),
        max(len(part.forward) for part in parts),
        bag,
        on_device[1],
        torch.repeat_interleave(inverse, on_device[0], output_size=len(bag)),
        inverse[bag],
        inverse[:, None],
    )


def _part(bag: Tensor, on_device: Tensor, degrees: Array, rows: slice, dtype: torch.dtype) -> TablePart:
    degree, first = on_device
    fewest, slots = int(degrees[rows].min()), max(1, int(degrees[rows].max()))
    slot = torch.arange(slots, device=bag.device)[:, None]
    occupied = slot < degree
    neighbour = torch.arange(rows.start, rows.stop, device=bag.device).expand(slots, -1)
    if len(bag):
        edge = first + torch.where(occupied, slot, 0)
        gathered = bag[edge.clamp_(max=len(bag) - 1)]
        neighbour = gathered if fewest else torch.where(degree > 0, gathered, neighbour)
    total = len(degrees)
    block = (torch.arange(4, device=bag.device) * total)[:, None, None]
    backward = torch.where(occupied, neighbour + block, 4 * total)
    repeats = None if fewest == slots else (slots - degree.clamp(min=1))[:, None].to(dtype)
    return TablePart(rows, slots, neighbour.reshape(-1), backward.reshape(-1), repeats)


class Aggregated:
    """What one layer's aggregation saves for its backward pass.

    Attributes
    ----------
    sent : tensor [N, W]
        The values that were aggregated.
    mean, slope : tensor [N, W]
        Mean; 1 / std, or 0 where std counts as zero.
    stacked : tensor [4 N + 1, W]
        Minimum, maximum, their gradients, and a row of zeros.
    extremes, ties : tensor [2, N, W]
        The first half of ``stacked``; how many neighbours have the extreme value.
    """

    sent: Tensor
    mean: Tensor
    slope: Tensor

    def __init__(self, stacked: Tensor, ties: Tensor) -> None:
        self.stacked, self.ties = stacked, ties
        self.extremes = stacked[: 2 * ties.shape[1]].view(ties.shape)


def aggregate(
    sent: Tensor, table: NeighbourTable, scratch: Tensor, kept: Aggregated, out: Tensor, training: bool
) -> None:
    """Aggregate ``sent`` [N, W] over each row's neighbours: mean, minimum, maximum, standard deviation.

    Parameters
    ----------
    scratch : tensor [4 * room, W]
        Overwritten.
    kept : Aggregated
        Filled; it keeps a reference to ``sent``.
    out : tensor [4, N, W], or [4, R, E, F] with as many elements
        Filled; may be strided.
    training : bool
        Whether the backward pass will follow.
    """
    kept.sent = sent
    kept.mean = embedding_bag(table.bag, sent, table.bag_first, mode="sum", per_sample_weights=table.weight)
    variance = torch.empty_like(kept.mean)
    for part in table.parts:
        _aggregate(part, scratch, kept, variance[part.rows], training)
    variance.mul_(table.inverse)
    kept.slope = torch.threshold(variance, SMALLEST_VARIANCE, torch.inf).rsqrt_()
    shape = out.shape[1:]
    torch.mul(variance.view(shape), kept.slope.view(shape), out=out[3])
    out[0].copy_(kept.mean.view(shape))
    out[1:3].copy_(kept.extremes.view(2, *shape))


def _aggregate(part: TablePart, scratch: Tensor, kept: Aggregated, squares: Tensor, training: bool) -> None:
    """Extremes and ties of a part, and the sum of squared deviations."""
    shape = (part.slots, *squares.shape)
    room = len(part.forward)
    values, matches = scratch[:room].view(shape), scratch[room : 3 * room].view(2, *shape)
    extremes, ties = kept.extremes[:, part.rows], kept.ties[:, part.rows]
    torch.index_select(kept.sent, 0, part.forward, out=values.flatten(0, 1))
    torch.amin(values, 0, out=extremes[0])
    torch.amax(values, 0, out=extremes[1])
    if training:
        torch.eq(values[None], extremes[:, None], out=matches)
        torch.sum(matches, 1, out=ties)
    # Two passes: the mean is subtracted first, so that no digits are lost to cancellation.
    values.sub_(kept.mean[part.rows])
    values.mul_(values)
    torch.sum(values, 0, out=squares)
    if part.repeats is not None:
        if training:
            ties.addcmul_(matches[:, 0], part.repeats, value=-1)
        squares.addcmul_(values[0], part.repeats, value=-1)


def aggregate_back(grad: Tensor, table: NeighbourTable, scratch: Tensor, kept: Aggregated, packed: Tensor) -> Tensor:
    """Gradient of `aggregate` with respect to ``sent``, [N, W].

    Where several neighbours tie for an extreme they share its gradient, as in PyTorch Geometric.

    Parameters
    ----------
    grad : tensor [4, N, W] or [4, R, E, F]
    scratch, packed : tensor [4 * room, W], [N, 2, W]
        Overwritten.
    """
    rows, width = kept.sent.shape
    shape = grad.shape[1:]
    torch.div(grad[1:3], kept.ties.view(2, *shape), out=kept.stacked[2 * rows : -1].view(2, *shape))
    # d std_i / d y_j = (y_j - mean_i) / (degree_i std_i): a constant and a multiple of y_j, summed over i.
    constant, multiple = packed[:, 0].view(shape), packed[:, 1].view(shape)
    torch.mul(grad[3], kept.slope.view(shape), out=multiple)
    torch.addcmul(grad[0], multiple, kept.mean.view(shape), value=-1, out=constant)
    flat = packed.view(rows, 2 * width)
    linear = embedding_bag(table.bag, flat, table.bag_first, mode="sum", per_sample_weights=table.weight_back)
    result = torch.empty_like(kept.sent)
    for part in table.parts:
        _aggregate_back(part, scratch, kept, linear[part.rows], result[part.rows])
    return result


def _aggregate_back(part: TablePart, scratch: Tensor, kept: Aggregated, linear: Tensor, out: Tensor) -> None:
    rows, width = out.shape
    gathered = scratch[: 4 * len(part.forward)]
    torch.index_select(kept.stacked, 0, part.backward, out=gathered)
    by_slot = gathered.view(-1, rows, width)
    matches, shares = by_slot.chunk(2)
    sent = kept.sent[part.rows]
    matches.eq_(sent).mul_(shares)
    # The shares are no longer needed: the linear part of the gradient takes their first slot and is summed too.
    torch.addcmul(linear[:, :width], sent, linear[:, width:], out=shares[0])
    torch.sum(by_slot[: len(matches) + 1], 0, out=out)
