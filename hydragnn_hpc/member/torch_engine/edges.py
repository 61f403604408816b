"""The edges' part of the messages of a batch, t in m_ij = W1 x_i + W2 x_j + b + t_ij: its tables, and its gradient.

Messages of one sender differ by their edges, so that the backward pass computes the gradient of every message, in the
slots of the neighbour table, and gathers it twice: by sender, and by edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from hydragnn_hpc.member.engine.edges import EdgeBasis
from hydragnn_hpc.member.engine.sizes import Array
from hydragnn_hpc.member.engine.training_data import SampleGraphs
from hydragnn_hpc.member.torch_engine.aggregate import Aggregated, NeighbourTable, PaddedRows, gather_messages

AT_ONCE = 2**20
"""Edges whose lengths are computed together."""


@dataclass(frozen=True)
class EdgeRows:
    """Rows of t, which edges share: over one geometry those of all samples, else each member has its own rows.

    Attributes
    ----------
    features : tensor [E or 1, U, K + 1]
        Features and 1 of the U rows of each member, or of all; zeros in rows without an edge.
    row : int64 tensor [edges]
        Row of t of each edge.
    """

    features: Tensor
    row: Tensor


class EdgeRowsBuilder:
    """Assigns rows of t to the edges of batches, and computes their features.

    Parameters
    ----------
    graphs : SampleGraphs
    basis : EdgeBasis
    device, dtype
        Of the features.
    """

    def __init__(self, graphs: SampleGraphs, basis: EdgeBasis, device: torch.device, dtype: torch.dtype) -> None:
        self._basis, self._graphs, self._dtype = basis, graphs, dtype
        # On the host vectors stay mapped, and lengths are computed as they are needed.
        self._resident: Tensor | None = None
        if device.type != "cpu":
            edges = len(graphs.edge_vectors)
            parts = [graphs.lengths(slice(at, at + AT_ONCE)) for at in range(0, max(edges, 1), AT_ONCE)]
            self._resident = torch.from_numpy(np.concatenate(parts)).to(device, dtype)

    def shared(self, edge: Tensor) -> EdgeRows:
        """Return the rows of edges of one geometry; ``edge`` is the number of each."""
        every = torch.arange(len(self._graphs.edge_vectors), device=edge.device)
        return EdgeRows(self._features(every)[None], edge)

    def of_members(self, edge: Tensor, member: Tensor, starts: Tensor, most: int) -> EdgeRows:
        """Return the rows of edges of several members.

        Parameters
        ----------
        edge, member : int64 tensor [edges]
            Number and member of each.
        starts : int64 tensor [E]
            Edges of the members before each.
        most : int
            Largest number of edges of a member, at least 1.
        """
        order = torch.argsort(member, stable=True)
        row = torch.empty_like(edge)
        within = torch.arange(len(edge), device=edge.device) - starts[member[order]]
        row[order] = member[order] * most + within
        features = self._features(edge)
        table = features.new_zeros(len(starts) * most, self._basis.number + 1)
        table[row] = features[: len(edge)]
        return EdgeRows(table.view(len(starts), most, -1), row)

    def _features(self, edge: Tensor) -> Tensor:
        """Return the features of edges and a column of ones, [edges, K + 1]; a row of zeros if there are no edges."""
        if not len(edge):
            return torch.zeros(1, self._basis.number + 1, device=edge.device, dtype=self._dtype)
        if self._resident is None:
            lengths = torch.from_numpy(self._graphs.lengths(edge.numpy())).to(self._dtype)
        else:
            lengths = self._resident[edge]
        features = self._basis.of(lengths)
        return torch.cat([features, torch.ones_like(features[:, :1])], 1)


@dataclass(frozen=True)
class EdgeTable:
    """Features of a batch's edges, and the slots of the neighbour table from which gradients are gathered.

    Attributes
    ----------
    features : tensor [E or 1, U, K + 1]
        See `EdgeRows`.
    rows : int
        Rows of t.
    slots : int
        Slots of the neighbour table; one more holds zeros.
    copies : int64 tensor [copies, rows]
        Slots of each row's edges: one from each sample that shares them; the last slot where there is no edge.
    sent : int64 tensor [edges]
        Slots of edges by sender. An atom sends as many as it receives.
    """

    features: Tensor
    rows: int
    slots: int
    copies: Tensor
    sent: Tensor


def slots_of_rows(parts: tuple[PaddedRows, ...]) -> Array:
    """Return the first slot of each row of a neighbour table, and how far apart its slots are: int64 [2, N]."""
    slots, start = [], 0
    for part in parts:
        number = part.rows.stop - part.rows.start
        slots.append(np.stack([start + np.arange(number), np.full(number, number)]))
        start += part.slots * number
    return np.concatenate(slots, axis=1)


def make_edge_table(table: NeighbourTable, edge_rows: EdgeRows, slot: Tensor, shared: bool) -> EdgeTable:
    """Make the table of a batch's edges; ``slot`` [edges] is the slot of each in the neighbour table."""
    members, most, _ = edge_rows.features.shape
    rows, edges = members * most, len(slot)
    slots = sum(len(part.forward) for part in table.parts)
    if shared and edges:
        copies = slot[torch.argsort(edge_rows.row, stable=True)].view(rows, edges // rows).T.contiguous()
    else:
        copies = torch.full((1, rows), slots, device=slot.device)
        copies[0, edge_rows.row] = slot
    return EdgeTable(edge_rows.features, rows, slots, copies, slot[torch.argsort(table.neighbours, stable=True)])


@dataclass(frozen=True)
class MessageGradients:
    """Working memory of the backward pass.

    Attributes
    ----------
    slots : tensor [slots + 1, W]
        Gradients of messages; the last slot holds zeros.
    linear : tensor [2, N, W]
        Constant and slope of the part that is linear in the message.
    """

    slots: Tensor
    linear: Tensor


def aggregate_back_with_edges(
    grad: Tensor, table: NeighbourTable, scratch: Tensor, saved: Aggregated, edges: EdgeTable, memory: MessageGradients
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `aggregate` with respect to ``messages`` [N, W] and to what edges add, [rows, W].

    Parameters
    ----------
    grad : tensor [4, N, W] or [4, R, E, F]
    scratch, memory : tensor [4 * room, W], MessageGradients
        Overwritten.
    """
    rows, width = saved.messages.shape
    shape = grad.shape[1:]
    shares = saved.stacked[2 * rows : -1].view(2, rows, width)
    torch.div(grad[1:3], saved.ties.view(2, *shape), out=shares.view(2, *shape))
    # d std_i / d m_ij = (m_ij - mean_i) / (degree_i std_i): a constant and a multiple of m_ij.
    constant, multiple = memory.linear
    torch.mul(grad[3], saved.slope.view(shape), out=multiple.view(shape))
    torch.addcmul(grad[0], multiple.view(shape), saved.mean.view(shape), value=-1, out=constant.view(shape))
    memory.linear.mul_(table.inverse)
    start = 0
    for part in table.parts:
        room = len(part.forward)
        values = gather_messages(saved.messages, saved.added, part, scratch).view(part.slots, -1, width)
        matches = scratch[room : 2 * room].view(values.shape)
        out = memory.slots[start : start + room].view(values.shape)
        torch.addcmul(constant[part.rows], multiple[part.rows], values, out=out)
        for extreme, share in zip(saved.extremes, shares, strict=True):
            torch.eq(values, extreme[part.rows], out=matches)
            out.addcmul_(matches, share[part.rows])
        start += room
    memory.slots[-1] = 0.0
    sent = embedding_bag(edges.sent, memory.slots, table.first, mode="sum")
    added = memory.slots.index_select(0, edges.copies.view(-1)).view(*edges.copies.shape, width)
    return sent, added[0] if len(added) == 1 else added.sum(0)


def by_member(rows: Tensor, members: int, width: int) -> Tensor:
    """View rows of what edges add, [rows, W], as [E, U, F]."""
    if rows.shape[1] == width:  # each member has its own rows
        return rows.view(members, -1, width)
    return rows.view(-1, members, width).transpose(0, 1)
