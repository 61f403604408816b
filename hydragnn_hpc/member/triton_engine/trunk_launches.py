"""Launches of the trunk's kernels and of the optimiser's, as operations of torch.

Arrays are those of `hydragnn_hpc.member.triton_engine.trunk_kernels`, under the same names.
"""

from __future__ import annotations

import triton
from torch import Tensor

from hydragnn_hpc.member.triton_engine import trunk_kernels as kernels
from hydragnn_hpc.member.triton_engine.launch import INTERPRETED, operation, registers

NARROWEST = 16
"""Rows and columns of the smallest matrix that Triton multiplies."""
COLUMNS = 16
"""Features that a program aggregates at once, at most."""
EDGE_TILE = 128 if INTERPRETED else 32
"""Rows of a program that computes something for each of their edges."""
WARPS = 8
"""Warps of a program that multiplies matrices."""
MOST_REGISTERS = 128
"""Of a thread that goes through neighbours."""
BLOCK = 1024
"""Parameters that one program of the optimiser updates."""


def power(size: int) -> int:
    """Return the size of a block that holds ``size`` rows or columns."""
    return max(NARROWEST, int(triton.next_power_of_2(size)))


def _warps(width: int) -> int:
    """Return the warps of a program whose registers would not suffice for the widest networks."""
    return WARPS if power(width) <= 32 else 2 * WARPS


def _columns(width: int) -> int:
    return min(COLUMNS, power(width))


@operation(
    "fold(Tensor parameters, Tensor places, Tensor coefficients, Tensor(a!) folded, Tensor(b!)? folded_edges) -> ()"
)
def fold(parameters: Tensor, places: Tensor, coefficients: Tensor, folded: Tensor, folded_edges: Tensor | None) -> None:
    """Launch `trunk_kernels.fold`."""
    layers, matrices, members, _, width = folded.shape
    basis = 0 if folded_edges is None else folded_edges.shape[2] - 1
    kernels.fold[(matrices * (power(width) // NARROWEST), layers, members)](
        parameters, places, coefficients, folded, folded_edges, parameters.shape[1], members, matrices, width, basis,
        EDGES=folded_edges is not None, OUT=power(width), BASIS=power(basis + 1), PART=NARROWEST, num_warps=WARPS,
        num_stages=1,
    )  # fmt: skip


@operation(
    "edge_messages(Tensor lengths, Tensor? centres, Tensor folded_edges, Tensor places, Tensor[] of_edges,"
    " Tensor(a!) added, float factor, float cutoff, str basis, str envelope, int stride, int most) -> ()"
)
def edge_messages(
    lengths: Tensor, centres: Tensor | None, folded_edges: Tensor, places: Tensor, of_edges: list[Tensor],
    added: Tensor, factor: float, cutoff: float, basis: str, envelope: str, stride: int, most: int,
) -> None:  # fmt: skip
    """Launch `trunk_kernels.edge_messages`."""
    layers, members, edges, width = added.shape
    rows, functions = of_edges[0].shape[1], folded_edges.shape[2] - 1
    kernels.edge_messages[(triton.cdiv(rows // stride, EDGE_TILE), max(1, most), members)](
        lengths, centres, folded_edges, places, *of_edges, added, rows, edges, stride, members, layers, width,
        functions, FACTOR=factor, CUTOFF=cutoff, KIND=basis, ENVELOPE=envelope, ROWS=EDGE_TILE, OUT=power(width),
        BASIS=power(functions + 1), num_warps=WARPS, num_stages=1,
    )  # fmt: skip


@operation(
    "send(Tensor source, Tensor atoms, Tensor? partial, Tensor parameters, Tensor(a!) buffers, Tensor places,"
    " Tensor tiles, Tensor count, Tensor(b!) own, Tensor(c!)? sent, Tensor(d!)? statistics, int layer, float momentum,"
    " float epsilon, bool edges, int size) -> ()"
)
def send(
    source: Tensor, atoms: Tensor, partial: Tensor | None, parameters: Tensor, buffers: Tensor, places: Tensor,
    tiles: Tensor, count: Tensor, own: Tensor, sent: Tensor | None, statistics: Tensor | None, layer: int,
    momentum: float, epsilon: float, edges: bool, size: int,
) -> None:  # fmt: skip
    """Launch `trunk_kernels.send`."""
    members, rows, own_width = own.shape
    width = source.shape[-1] if sent is None else sent.shape[2]
    kernels.send[(len(tiles), members)](
        source, atoms, partial, parameters, buffers, places, tiles, count, own, sent, statistics, layer, rows,
        parameters.shape[1], buffers.shape[1], members, len(tiles), width, own_width, MOMENTUM=momentum,
        EPSILON=epsilon, FIRST=layer == 0, LAST=sent is None, TRAINING=partial is not None, EDGES=edges, ROWS=size,
        COLUMNS=_columns(width), OUT=power(width), num_warps=WARPS, num_stages=1,
    )  # fmt: skip


@operation(
    "mix(Tensor own, Tensor sent, Tensor? added, Tensor neighbours, Tensor[] of_rows, Tensor folded, Tensor scales,"
    " Tensor places, Tensor tiles, Tensor count, Tensor(a!)? received, Tensor(b!)? ties, Tensor(c!) raw,"
    " Tensor(d!)? partial, int layer, int stride, int blocks, int size) -> ()"
)
def mix(
    own: Tensor, sent: Tensor, added: Tensor | None, neighbours: Tensor, of_rows: list[Tensor], folded: Tensor,
    scales: Tensor, places: Tensor, tiles: Tensor, count: Tensor, received: Tensor | None, ties: Tensor | None,
    raw: Tensor, partial: Tensor | None, layer: int, stride: int, blocks: int, size: int,
) -> None:  # fmt: skip
    """Launch `trunk_kernels.mix`."""
    members, rows, width = own.shape
    kernels.mix[(len(tiles), members)](
        own, sent, added, neighbours, *of_rows, folded, scales, places, tiles, count, received, ties, raw, partial,
        layer, rows, _edges(added), of_rows[1].shape[1], stride, members, width, EDGES=added is not None,
        TRAINING=partial is not None, BLOCKS=blocks, ROWS=size, COLUMNS=_columns(width), OUT=power(width),
        num_warps=_warps(width), num_stages=1, **registers(MOST_REGISTERS),
    )  # fmt: skip


@operation(
    "collect(Tensor? node, Tensor? pooled, Tensor? values, Tensor sample, Tensor length, Tensor own, Tensor raw,"
    " Tensor statistics, Tensor tiles, Tensor count, Tensor(a!) grad, Tensor(b!) partial, str pooling, int size) -> ()"
)
def collect(
    node: Tensor | None, pooled: Tensor | None, values: Tensor | None, sample: Tensor, length: Tensor, own: Tensor,
    raw: Tensor, statistics: Tensor, tiles: Tensor, count: Tensor, grad: Tensor, partial: Tensor, pooling: str,
    size: int,
) -> None:  # fmt: skip
    """Launch `trunk_kernels.collect`."""
    members, rows, width = raw.shape
    columns = _columns(own.shape[2])
    kernels.collect[(len(tiles), members, triton.cdiv(own.shape[2], columns))](
        node, pooled, values, sample, length, own, raw, statistics, tiles, count, grad, partial, rows, length.shape[1],
        members, width, own.shape[2], NODE=node is not None, POOLING="" if pooled is None else pooling, ROWS=size,
        COLUMNS=columns,
    )  # fmt: skip


@operation(
    "mix_back(Tensor raw, Tensor statistics, Tensor partial, Tensor parameters, Tensor(a!) gradients, Tensor degree,"
    " Tensor folded, Tensor scales, Tensor places, Tensor tiles, Tensor count, Tensor(b!) grad, Tensor(c!) x_grad,"
    " int layer, int blocks, int size) -> ()"
)
def mix_back(
    raw: Tensor, statistics: Tensor, partial: Tensor, parameters: Tensor, gradients: Tensor, degree: Tensor,
    folded: Tensor, scales: Tensor, places: Tensor, tiles: Tensor, count: Tensor, grad: Tensor, x_grad: Tensor,
    layer: int, blocks: int, size: int,
) -> None:  # fmt: skip
    """Launch `trunk_kernels.mix_back`."""
    members, rows, width = raw.shape
    kernels.mix_back[(len(tiles), members)](
        raw, statistics, partial, parameters, gradients, degree, folded, scales, places, tiles, count, grad, x_grad,
        layer, rows, parameters.shape[1], members, len(tiles), width, BLOCKS=blocks, ROWS=size,
        COLUMNS=_columns(width), OUT=power(width), num_warps=WARPS, num_stages=1,
    )  # fmt: skip


@operation(
    "aggregate_back(Tensor[] before, Tensor sent, Tensor? added, Tensor receivers, Tensor? slots, Tensor[] of_rows,"
    " Tensor[] arrived, Tensor parameters, Tensor places, Tensor tiles, Tensor count, Tensor(a!) back,"
    " Tensor(b!)? grad, Tensor(c!)? partial, int layer, int stride, int size) -> ()"
)
def aggregate_back(
    before: list[Tensor], sent: Tensor, added: Tensor | None, receivers: Tensor, slots: Tensor | None,
    of_rows: list[Tensor], arrived: list[Tensor], parameters: Tensor, places: Tensor, tiles: Tensor, count: Tensor,
    back: Tensor, grad: Tensor | None, partial: Tensor | None, layer: int, stride: int, size: int,
) -> None:  # fmt: skip
    """Launch `trunk_kernels.aggregate_back`; ``before`` are the arrays of the layer before, if there is one."""
    members, rows, width = sent.shape
    own, raw, statistics = before or (None, None, None)
    kernels.aggregate_back[(len(tiles), members)](
        own, sent, added, receivers, slots, *of_rows, *arrived, parameters, places, tiles, count, back, raw,
        statistics, grad, partial, layer, rows, _edges(added), of_rows[1].shape[1], stride, parameters.shape[1],
        members, width, EDGES=added is not None, FIRST=not before, ROWS=size, COLUMNS=_columns(width),
        OUT=power(width), num_warps=WARPS, num_stages=1, **registers(MOST_REGISTERS),
    )  # fmt: skip


@operation(
    "edges_back(Tensor sent, Tensor added, Tensor neighbours, Tensor[] of_rows, Tensor[] arrived, Tensor places,"
    " Tensor count, Tensor(a!) added_grad, int layer, int stride, int most) -> ()"
)
def edges_back(
    sent: Tensor, added: Tensor, neighbours: Tensor, of_rows: list[Tensor], arrived: list[Tensor], places: Tensor,
    count: Tensor, added_grad: Tensor, layer: int, stride: int, most: int,
) -> None:  # fmt: skip
    """Launch `trunk_kernels.edges_back`."""
    members, rows, width = sent.shape
    kernels.edges_back[(triton.cdiv(rows // stride, EDGE_TILE), max(1, most), members)](
        sent, added, neighbours, *of_rows, *arrived, places, count, added_grad, layer, rows, _edges(added),
        of_rows[1].shape[1], stride, members, width, ROWS=EDGE_TILE, COLUMNS=_columns(width),
    )  # fmt: skip


@operation(
    "trunk_products(Tensor own, Tensor received, Tensor grad, Tensor back, Tensor degree, Tensor scales,"
    " Tensor places, Tensor segments, Tensor count, Tensor(a!) sums, Tensor(b!) sent_sums, int blocks, int size) -> ()"
)
def trunk_products(
    own: Tensor, received: Tensor, grad: Tensor, back: Tensor, degree: Tensor, scales: Tensor, places: Tensor,
    segments: Tensor, count: Tensor, sums: Tensor, sent_sums: Tensor, blocks: int, size: int,
) -> None:  # fmt: skip
    """Launch `trunk_kernels.trunk_products`."""
    layers, members, rows, width = own.shape
    columns = _columns(width)
    kernels.trunk_products[(len(segments), layers * triton.cdiv(width, columns), members)](
        own, received, grad, back, degree, scales, places, segments, count, sums, sent_sums, rows, layers, members,
        width, BLOCKS=blocks, ROWS=size, COLUMNS=columns, OUT=power(width), num_warps=WARPS, num_stages=1,
    )  # fmt: skip


@operation(
    "edge_products(Tensor added_grad, Tensor lengths, Tensor? centres, Tensor[] of_edges, Tensor places,"
    " Tensor(a!) edge_sums, float factor, float cutoff, str basis, str envelope, int stride, int most) -> ()"
)
def edge_products(
    added_grad: Tensor, lengths: Tensor, centres: Tensor | None, of_edges: list[Tensor], places: Tensor,
    edge_sums: Tensor, factor: float, cutoff: float, basis: str, envelope: str, stride: int, most: int,
) -> None:  # fmt: skip
    """Launch `trunk_kernels.edge_products`."""
    layers, members, edges, width = added_grad.shape
    functions = edge_sums.shape[3] - 1
    kernels.edge_products[(len(edge_sums), layers, members)](
        added_grad, lengths, centres, *of_edges, places, edge_sums, of_edges[0].shape[1], edges, stride, layers,
        members, width, functions, FACTOR=factor, CUTOFF=cutoff, KIND=basis, ENVELOPE=envelope,
        ROWS=EDGE_TILE, OUT=power(width), BASIS=power(functions + 1), num_warps=WARPS, num_stages=1,
    )  # fmt: skip


@operation(
    "unfold(Tensor parameters, Tensor(a!) gradients, Tensor places, Tensor coefficients, Tensor segments, Tensor sums,"
    " Tensor sent_sums, Tensor? edge_sums, int used) -> ()"
)
def unfold(
    parameters: Tensor, gradients: Tensor, places: Tensor, coefficients: Tensor, segments: Tensor, sums: Tensor,
    sent_sums: Tensor, edge_sums: Tensor | None, used: int,
) -> None:  # fmt: skip
    """Launch `trunk_kernels.unfold`; numbers of ``gradients`` beyond ``used`` are padding."""
    number, layers, members, _, width = sums.shape
    basis = 0 if edge_sums is None else edge_sums.shape[3] - 1
    kernels.unfold[(power(width) // NARROWEST, layers, members)](
        parameters, gradients, places, coefficients, segments, sums, sent_sums, edge_sums, parameters.shape[1], used,
        layers, members, number, 0 if edge_sums is None else len(edge_sums), width, basis,
        EDGES=edge_sums is not None, OUT=power(width), BASIS=power(basis + 1), PART=NARROWEST,
        PADDING=triton.next_power_of_2(parameters.shape[1] - used), num_warps=WARPS, num_stages=1,
    )  # fmt: skip


@operation(
    "adam(Tensor(a!) parameters, Tensor gradients, Tensor(b!) first, Tensor(c!) second, Tensor factors, "
    "float beta_1, float beta_2, float decay, bool decoupled) -> ()"
)
def adam(
    parameters: Tensor, gradients: Tensor, first: Tensor, second: Tensor, factors: Tensor, beta_1: float,
    beta_2: float, decay: float, decoupled: bool,
) -> None:  # fmt: skip
    """One step of Adam over parameters [E, P]; ``factors`` [3, E, 1] as `Adam.plan` makes them."""
    members, size = parameters.shape
    kernels.adam[(triton.cdiv(size, BLOCK), members)](
        parameters, gradients, first, second, factors, size, members, BETA_1=beta_1, BETA_2=beta_2, DECAY=decay,
        DECOUPLED=decoupled, COLUMNS=BLOCK,
    )  # fmt: skip


def _edges(added: Tensor | None) -> int:
    return 0 if added is None else added.shape[1]
