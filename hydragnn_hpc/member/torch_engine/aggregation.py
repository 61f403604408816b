"""The aggregation of one layer with what it saves for its backward pass.

A batch has R rows of E members with F features each (`batches`). Neighbours are those of N rows of W numbers: R rows of
E * F numbers where the members share them, else R * E rows of F.
"""

from __future__ import annotations

from torch import Tensor

from hydragnn_hpc.member.engine.sizes import AGGREGATES
from hydragnn_hpc.member.torch_engine.aggregate import Aggregated, aggregate, aggregate_back
from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.torch_engine.batches import Batch
from hydragnn_hpc.member.torch_engine.edges import MessageGradients, aggregate_back_with_edges


class Aggregation:
    """Mean, minimum, maximum and standard deviation over neighbours, for batches of one shape.

    The message of a neighbour is what its row sends and, if edges have features, what the edge adds.
    """

    def __init__(self, number: int, shape: tuple[int, int], batch: Batch, arena: Arena) -> None:
        table, edges = batch.table, batch.edges
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
        """Write the aggregates to ``out`` [4, R, E, F]; ``sent`` is [N, W], ``added`` [rows of the edges, W]."""
        self._saved.added = added
        aggregate(sent, batch.table, self._scratch, self._saved, out, training)

    def backward(self, batch: Batch, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of ``sent`` and ``added``; ``grad`` [4, R, E, F] is that of the aggregates."""
        table, edges = batch.table, batch.edges
        arrays = (grad, table, self._scratch, self._saved)
        if edges is None:
            return aggregate_back(*arrays, self._packed), None
        return aggregate_back_with_edges(*arrays, edges, self._messages)
