"""The kernels as operations of torch, which declare what they write to, so that a recorder of operations sees them too.

A batch has R rows of E members, with F features each; a member has P parameters. Neighbours are those of N rows of W
numbers: R rows of E * F where the members share them, else R * E rows of F. Integer tensors are int64, but for
``ties``. ``x`` and ``x_grad`` are [4, R, E, F], or [4, N, W / F, F] with the same elements: mean, minimum, maximum and
standard deviation, with equal strides, the last of them 1.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from hydragnn_hpc.member.triton_kernels import kernels

INTERPRETED_TILE = 8192
"""Elements of a tile in the interpreter, whose time depends on the number of programs."""
TILE = 128
"""Elements of a tile on a device, one for each thread of a program."""
WIDEST = TILE
"""The most columns that a tile has."""
BLOCK = 1024
"""Parameters that one program of the optimiser updates."""


_LIBRARY = torch.library.Library("hydragnn_hpc", "DEF")
_LIBRARY.define(
    "aggregate(Tensor sent, Tensor? added, Tensor[] lists, Tensor? edge_rows, Tensor(a!) x, Tensor(b!)? ties) -> ()"
)
_LIBRARY.define(
    "aggregate_back(Tensor sent, Tensor? added, Tensor[] lists, Tensor? edge_rows, Tensor x, Tensor ties, "
    "Tensor x_grad, Tensor(a!) out) -> ()"
)
_LIBRARY.define(
    "edges_back(Tensor sent, Tensor added, Tensor ends, Tensor degree, Tensor x, Tensor ties, Tensor x_grad, "
    "Tensor(a!) out) -> ()"
)
_LIBRARY.define(
    "adam(Tensor(a!) parameters, Tensor gradients, Tensor(b!) first, Tensor(c!) second, Tensor factors, "
    "float beta_1, float beta_2, float decay, bool decoupled) -> ()"
)


def tile(shape: torch.Size, device: torch.device) -> tuple[int, int, tuple[int, int]]:
    """Return the rows and columns of a tile, and the grid of tiles that covers ``shape`` = [rows, width]."""
    rows, width = shape
    columns = min(WIDEST, triton.next_power_of_2(width))
    tile_rows = max(1, (INTERPRETED_TILE if device.type == "cpu" else TILE) // columns)
    return tile_rows, columns, (triton.cdiv(rows, tile_rows), triton.cdiv(width, columns))


def _strides(x: Tensor, width: int) -> tuple[int, int, int, int]:
    """Return F, and the strides of ``x`` by kind, by row of ``width`` elements, and by member within it."""
    features = x.shape[3]
    members = width // features
    by_row = x.stride(1) if x.shape[2] == members else x.stride(2)
    return features, x.stride(0), by_row, x.stride(2)


def _aggregate(
    sent: Tensor, added: Tensor | None, lists: list[Tensor], edge_rows: Tensor | None, x: Tensor, ties: Tensor | None
) -> None:
    neighbours, first, degree = lists
    tile_rows, columns, grid = tile(sent.shape, sent.device)
    kernels.aggregate[grid](
        sent, added, neighbours, edge_rows, first, degree, x, ties, *sent.shape, *_strides(x, sent.shape[1]),
        EDGES=added is not None, TRAINING=ties is not None, ROWS=tile_rows, COLUMNS=columns,
    )  # fmt: skip


def _aggregate_back(
    sent: Tensor, added: Tensor | None, lists: list[Tensor], edge_rows: Tensor | None, x: Tensor, ties: Tensor,
    x_grad: Tensor, out: Tensor,
) -> None:  # fmt: skip
    receivers, first, degree = lists
    tile_rows, columns, grid = tile(sent.shape, sent.device)
    kernels.aggregate_back[grid](
        sent, added, receivers, edge_rows, first, degree, x, ties, x_grad, out, *sent.shape,
        *_strides(x, sent.shape[1]), EDGES=added is not None, ROWS=tile_rows, COLUMNS=columns,
    )  # fmt: skip


def _edges_back(
    sent: Tensor, added: Tensor, ends: Tensor, degree: Tensor, x: Tensor, ties: Tensor, x_grad: Tensor, out: Tensor
) -> None:
    tile_rows, columns, grid = tile(added.shape, sent.device)
    kernels.edges_back[grid](
        sent, added, ends[0], ends[1], degree, x, ties, x_grad, out, len(added), ends.shape[1], sent.shape[1],
        *_strides(x, sent.shape[1]), ROWS=tile_rows, COLUMNS=columns,
    )  # fmt: skip


def _adam(
    parameters: Tensor, gradients: Tensor, first: Tensor, second: Tensor, factors: Tensor, beta_1: float,
    beta_2: float, decay: float, decoupled: bool,
) -> None:  # fmt: skip
    members, size = parameters.shape
    kernels.adam[(triton.cdiv(size, BLOCK), members)](
        parameters, gradients, first, second, factors, size, members, BETA_1=beta_1, BETA_2=beta_2, DECAY=decay,
        DECOUPLED=decoupled, COLUMNS=BLOCK,
    )  # fmt: skip


for _name, _function in {
    "aggregate": _aggregate, "aggregate_back": _aggregate_back, "edges_back": _edges_back, "adam": _adam,
}.items():  # fmt: skip
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")

aggregate = torch.ops.hydragnn_hpc.aggregate
"""Fill the aggregates ``x`` of messages ``sent`` [N, W], plus ``added`` [rows, W] at ``edge_rows`` [edges] if not
None, over lists: neighbours [edges], first and degree [N]; ``ties`` int32 [N, W] if a backward pass will follow, else
None."""
aggregate_back = torch.ops.hydragnn_hpc.aggregate_back
"""Fill ``out`` [N, W] with the gradient of ``sent``, from that of the aggregates and the transposed lists
(receivers, first, degree)."""
edges_back = torch.ops.hydragnn_hpc.edges_back
"""Fill ``out`` [rows, W] with the gradient of ``added``; ``ends`` [2, copies, rows] are the receivers and senders of
the edges of each row, -1 where there is none."""
adam = torch.ops.hydragnn_hpc.adam
"""One step of Adam over parameters [E, P]; ``factors`` [3, E, 1] as `Adam.plan` makes them."""
