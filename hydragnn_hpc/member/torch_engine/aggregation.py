"""The aggregation of one layer with what it saves for its backward pass: in plain torch, or in Triton's kernels.

The batch decides: its neighbours are padded for torch (`NeighbourTable`), or lists for the kernels (`NeighbourLists`).
A batch has R rows of E members with F features each (`batches`). Neighbours are those of N rows of W numbers: R rows of
E * F numbers where the members share them, else R * E rows of F.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from hydragnn_hpc.member.engine.sizes import AGGREGATES
from hydragnn_hpc.member.torch_engine.aggregate import Aggregated, NeighbourTable, aggregate, aggregate_back
from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.torch_engine.batches import Batch
from hydragnn_hpc.member.torch_engine.edges import EdgeLists, EdgeTable, MessageGradients, aggregate_back_with_edges


class Aggregation(Protocol):
    """Mean, minimum, maximum and standard deviation over neighbours.

    The message of a neighbour is what its row sends and, if edges have features, what the edge adds.
    """

    def forward(self, batch: Batch, sent: Tensor, added: Tensor | None, out: Tensor, training: bool) -> None:
        """Write the aggregates to ``out`` [4, R, E, F]; ``sent`` is [N, W], ``added`` [rows of the edges, W]."""

    def backward(self, batch: Batch, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of ``sent`` and ``added``; ``grad`` [4, R, E, F] is that of the aggregates."""


class PaddedAggregation:
    """The aggregation in plain torch, for batches of one shape."""

    def __init__(self, number: int, shape: tuple[int, int], batch: Batch, arena: Arena) -> None:
        table, edges = _padded(batch)
        rows, width = shape
        stacked = arena.take(f"stacked.{number}", AGGREGATES * rows + 1, width)
        stacked[-1] = 0.0
        self._saved = Aggregated(stacked, arena.take(f"ties.{number}", 2, *shape))
        if edges is not None:
            slots = arena.take("slots", edges.slots + 1, width)
            self._messages = MessageGradients(slots, arena.take("linear", 2, *shape))
        self._packed = arena.take("packed", rows, 2, width)
        self._scratch = arena.take("scratch", 4 * table.room, width)

    def forward(self, batch: Batch, sent: Tensor, added: Tensor | None, out: Tensor, training: bool) -> None:
        """See `Aggregation`."""
        self._saved.added = added
        aggregate(sent, _padded(batch)[0], self._scratch, self._saved, out, training)

    def backward(self, batch: Batch, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Aggregation`."""
        table, edges = _padded(batch)
        arrays = (grad, table, self._scratch, self._saved)
        if edges is None:
            return aggregate_back(*arrays, self._packed), None
        return aggregate_back_with_edges(*arrays, edges, self._messages)


class ListedAggregation:
    """The aggregation in Triton's kernels: one forward and one backward, and one more for what edges add."""

    def __init__(self, number: int, shape: tuple[int, int], batch: Batch, arena: Arena) -> None:
        # Imported here: Triton is an optional dependency.
        from hydragnn_hpc.member.triton_kernels import operations

        self._kernels = operations
        # The numbers of ties for both extremes share an int32 (`kernels.TIES`).
        integers = arena.take(f"ties.{number}", *shape).view(torch.int32)
        self._ties = integers.view(-1)[: shape[0] * shape[1]].view(shape)
        self._sent_grad = arena.take("sent_grad", *shape)
        self._added_grad = arena.take("added_grad", batch.edges.rows, shape[1]) if batch.edges else None

    def forward(self, batch: Batch, sent: Tensor, added: Tensor | None, out: Tensor, training: bool) -> None:
        """See `Aggregation`."""
        self._saved = (sent, added, out)
        table = batch.table
        lists = [table.neighbours, table.first, table.degree]
        self._kernels.aggregate(sent, added, lists, table.edge_rows, out, self._ties if training else None)

    def backward(self, batch: Batch, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Aggregation`."""
        sent, added, x = self._saved
        table, edges = batch.table, batch.edges
        receivers, edge_rows = table.neighbours, None  # without edges' features the lists are their own transpose
        if isinstance(edges, EdgeLists):
            receivers, edge_rows = edges.receivers, edges.edge_rows
            self._kernels.edges_back(sent, added, edges.ends, table.degree, x, self._ties, grad, self._added_grad)
        lists = [receivers, table.first, table.degree]
        self._kernels.aggregate_back(sent, added, lists, edge_rows, x, self._ties, grad, self._sent_grad)
        return self._sent_grad, self._added_grad


def aggregation_for(number: int, shape: tuple[int, int], batch: Batch, arena: Arena) -> Aggregation:
    """Return the aggregation of layer ``number`` over rows of ``shape`` [N, W], for batches like ``batch``."""
    kind = PaddedAggregation if isinstance(batch.table, NeighbourTable) else ListedAggregation
    return kind(number, shape, batch, arena)


def _padded(batch: Batch) -> tuple[NeighbourTable, EdgeTable | None]:
    if not isinstance(batch.table, NeighbourTable) or isinstance(batch.edges, EdgeLists):
        raise TypeError("the batch has lists of neighbours where padded ones are expected")
    return batch.table, batch.edges
