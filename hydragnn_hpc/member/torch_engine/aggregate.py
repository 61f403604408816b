"""The four aggregations of PNA over padded neighbour tables, forward and backward by gathering alone.

Nothing is scattered, so that no atomics are needed and results are deterministic on every device. The backward pass can
gather because the neighbour relation is symmetric: the atoms that receive from j are j's own neighbours. The slots of
the table are the leading dimension ([K, N, ...]), so that every reduction runs along long contiguous rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from hydragnn_hpc.member.engine.sizes import Array

FEWEST_ROWS = 64  # of a part: with fewer, its kernel launches cost more than its padding saves
SMALLEST_VARIANCE = 1e-5  # as in PyTorch Geometric's StdAggregation: up to this, the deviation counts as zero


@dataclass(frozen=True)
class PaddedRows:
    """Some rows of a table, padded to the same number of slots K.

    Attributes
    ----------
    rows : slice
        The n rows of the part.
    slots : int
        K, the largest degree among them, at least 1.
    forward : tensor [K * n]
        Row that each slot gathers; rows with fewer than K neighbours repeat their first one, and those without any
        gather themselves.
    backward : tensor [4 * K * n]
        Rows of the stacked minimum, maximum and their gradients [4 N + 1] that belong to each row's receivers; the
        last row, of zeros, for repeats.
    repeats : tensor [n, 1] or None
        How often each row's first neighbour is repeated; None if no row repeats any.
    edge_rows : tensor [K * n] or None
        Row of each slot's edge in what edges add to messages; None if they add nothing.
    """

    rows: slice
    slots: int
    forward: Tensor
    backward: Tensor
    repeats: Tensor | None
    edge_rows: Tensor | None


@dataclass(frozen=True)
class NeighbourLists:
    """Neighbours of N rows.

    Attributes
    ----------
    rows : int
        N.
    neighbours : int64 tensor [edges]
        Neighbours row by row.
    first, degree : int64 tensor [N]
        Where each row's neighbours begin, and their number, which descends.
    edge_rows : int64 tensor [edges] or None
        Row of each edge in what edges add to messages; None if they add nothing.
    """

    rows: int
    neighbours: Tensor
    first: Tensor
    degree: Tensor
    edge_rows: Tensor | None


@dataclass(frozen=True)
class NeighbourTable(NeighbourLists):
    """Neighbours of N rows, padded.

    Attributes
    ----------
    parts : tuple of PaddedRows
        The parts that cover the rows, in order.
    room : int
        The largest K * n of any part.
    weight, weight_back : tensor [edges]
        1 / degree of the row, and of its neighbour.
    inverse : tensor [N, 1]
        1 / degree; 0 for rows without neighbours.
    """

    parts: tuple[PaddedRows, ...]
    room: int
    weight: Tensor
    weight_back: Tensor
    inverse: Tensor


def make_neighbour_table(lists: NeighbourLists, degree: Array, dtype: torch.dtype, room: int) -> NeighbourTable:
    """Pad neighbour lists.

    Parameters
    ----------
    degree : int64 array [N]
        That of the lists, on the host, so that nothing waits for the device.
    room : int
        Approximate size of a part: its rows times their largest degree.
    """
    neighbours = lists.neighbours
    parts: list[PaddedRows] = []
    while not parts or parts[-1].rows.stop < len(degree):
        start = parts[-1].rows.stop if parts else 0
        stop = min(start + max(FEWEST_ROWS, room // max(1, int(degree[start]))), len(degree))
        parts.append(_part(lists, degree, slice(start, stop), dtype))
    inverse = torch.where(lists.degree > 0, 1.0 / lists.degree.clamp(min=1).to(dtype), 0.0)
    return NeighbourTable(
        **vars(lists),
        parts=tuple(parts),
        room=max(len(part.forward) for part in parts),
        weight=torch.repeat_interleave(inverse, lists.degree, output_size=len(neighbours)),
        weight_back=inverse[neighbours],
        inverse=inverse[:, None],
    )


def _part(lists: NeighbourLists, degrees: Array, rows: slice, dtype: torch.dtype) -> PaddedRows:
    neighbours, edge_rows, degree, first = lists.neighbours, lists.edge_rows, lists.degree[rows], lists.first[rows]
    fewest, slots = int(degrees[rows].min()), max(1, int(degrees[rows].max()))
    slot = torch.arange(slots, device=neighbours.device)[:, None]
    occupied = slot < degree
    neighbour = torch.arange(rows.start, rows.stop, device=neighbours.device).expand(slots, -1)
    slot_rows = None if edge_rows is None else torch.zeros_like(neighbour).reshape(-1)
    if len(neighbours):
        edge = (first + torch.where(occupied, slot, 0)).clamp_(max=len(neighbours) - 1)
        slot_rows = None if edge_rows is None else edge_rows[edge].view(-1)
        gathered = neighbours[edge]
        neighbour = gathered if fewest else torch.where(degree > 0, gathered, neighbour)
    total = len(degrees)
    block = (torch.arange(4, device=neighbours.device) * total)[:, None, None]
    backward = torch.where(occupied, neighbour + block, 4 * total)
    repeats = None if fewest == slots else (slots - degree.clamp(min=1))[:, None].to(dtype)
    return PaddedRows(rows, slots, neighbour.reshape(-1), backward.reshape(-1), repeats, slot_rows)


class Aggregated:
    """Values that the aggregation of one layer saves for its backward pass.

    Attributes
    ----------
    messages : tensor [N, W]
        The values that were aggregated.
    mean, slope : tensor [N, W]
        Mean; 1 / std, or 0 where std counts as zero.
    stacked : tensor [4 N + 1, W]
        Minimum, maximum, their gradients, and a row of zeros.
    extremes, ties : tensor [2, N, W]
        The first half of ``stacked``; how many neighbours have the extreme value.
    added : tensor [rows, W] or None
        What single edges add to the messages.
    """

    messages: Tensor
    mean: Tensor
    slope: Tensor

    def __init__(self, stacked: Tensor, ties: Tensor, added: Tensor | None = None) -> None:
        self.stacked, self.ties, self.added = stacked, ties, added
        self.extremes = stacked[: 2 * ties.shape[1]].view(ties.shape)


def gather_messages(messages: Tensor, added: Tensor | None, part: PaddedRows, scratch: Tensor) -> Tensor:
    """Return what each slot of a part receives, [K * n, W], in ``scratch``, of which twice as much is overwritten."""
    room = len(part.forward)
    values = torch.index_select(messages, 0, part.forward, out=scratch[:room])
    if added is not None and part.edge_rows is not None:
        values.add_(torch.index_select(added, 0, part.edge_rows, out=scratch[room : 2 * room]))
    return values


def aggregate(
    messages: Tensor, table: NeighbourTable, scratch: Tensor, saved: Aggregated, out: Tensor, training: bool
) -> None:
    """Aggregate ``messages`` [N, W] over each row's neighbours: mean, minimum, maximum, standard deviation.

    Parameters
    ----------
    messages : tensor [N, W]
        Of each row to all its neighbours; ``saved.added`` [rows, W], if any, is added to those of single edges.
    scratch : tensor [4 * room, W]
        Overwritten.
    saved : Aggregated
        Filled; it keeps a reference to ``messages``.
    out : tensor [4, N, W], or [4, R, E, F] with as many elements
        Filled; may be strided.
    training : bool
        Whether the backward pass will follow.
    """
    saved.messages = messages
    saved.mean = embedding_bag(table.neighbours, messages, table.first, mode="sum", per_sample_weights=table.weight)
    if saved.added is not None and table.edge_rows is not None:
        saved.mean += embedding_bag(
            table.edge_rows, saved.added, table.first, mode="sum", per_sample_weights=table.weight
        )
    variance = torch.empty_like(saved.mean)
    for part in table.parts:
        _aggregate(part, scratch, saved, variance[part.rows], training)
    variance.mul_(table.inverse)
    saved.slope = torch.threshold(variance, SMALLEST_VARIANCE, torch.inf).rsqrt_()
    shape = out.shape[1:]
    torch.mul(variance.view(shape), saved.slope.view(shape), out=out[3])
    out[0].copy_(saved.mean.view(shape))
    out[1:3].copy_(saved.extremes.view(2, *shape))


def _aggregate(part: PaddedRows, scratch: Tensor, saved: Aggregated, squares: Tensor, training: bool) -> None:
    """Compute the extremes and ties of a part, and the sum of squared deviations."""
    shape = (part.slots, *squares.shape)
    room = len(part.forward)
    values, matches = scratch[:room].view(shape), scratch[room : 3 * room].view(2, *shape)
    extremes, ties = saved.extremes[:, part.rows], saved.ties[:, part.rows]
    gather_messages(saved.messages, saved.added, part, scratch)
    torch.amin(values, 0, out=extremes[0])
    torch.amax(values, 0, out=extremes[1])
    if training:
        torch.eq(values[None], extremes[:, None], out=matches)
        torch.sum(matches, 1, out=ties)
    # Two passes: the mean is subtracted first, so that no digits are lost to cancellation.
    values.sub_(saved.mean[part.rows])
    values.mul_(values)
    torch.sum(values, 0, out=squares)
    if part.repeats is not None:
        if training:
            ties.addcmul_(matches[:, 0], part.repeats, value=-1)
        squares.addcmul_(values[0], part.repeats, value=-1)


def aggregate_back(grad: Tensor, table: NeighbourTable, scratch: Tensor, saved: Aggregated, packed: Tensor) -> Tensor:
    """Return the gradient of `aggregate` with respect to ``messages``, [N, W], where edges add nothing.

    Where several neighbours tie for an extreme they share its gradient, as in PyTorch Geometric.

    Parameters
    ----------
    grad : tensor [4, N, W] or [4, R, E, F]
    scratch, packed : tensor [4 * room, W], [N, 2, W]
        Overwritten.
    """
    rows, width = saved.messages.shape
    shape = grad.shape[1:]
    torch.div(grad[1:3], saved.ties.view(2, *shape), out=saved.stacked[2 * rows : -1].view(2, *shape))
    # d std_i / d y_j = (y_j - mean_i) / (degree_i std_i): a constant and a multiple of y_j, summed over i.
    constant, multiple = packed[:, 0].view(shape), packed[:, 1].view(shape)
    torch.mul(grad[3], saved.slope.view(shape), out=multiple)
    torch.addcmul(grad[0], multiple, saved.mean.view(shape), value=-1, out=constant)
    flat = packed.view(rows, 2 * width)
    linear = embedding_bag(table.neighbours, flat, table.first, mode="sum", per_sample_weights=table.weight_back)
    result = torch.empty_like(saved.messages)
    for part in table.parts:
        _aggregate_back(part, scratch, saved, linear[part.rows], result[part.rows])
    return result


def _aggregate_back(part: PaddedRows, scratch: Tensor, saved: Aggregated, linear: Tensor, out: Tensor) -> None:
    rows, width = out.shape
    gathered = scratch[: 4 * len(part.forward)]
    torch.index_select(saved.stacked, 0, part.backward, out=gathered)
    by_slot = gathered.view(-1, rows, width)
    matches, shares = by_slot.chunk(2)
    messages = saved.messages[part.rows]
    matches.eq_(messages).mul_(shares)
    # The shares of ties are no longer needed: the linear part of the gradient takes their first slot, and is summed as
    # well.
    torch.addcmul(linear[:, :width], messages, linear[:, width:], out=shares[0])
    torch.sum(by_slot[: len(matches) + 1], 0, out=out)
