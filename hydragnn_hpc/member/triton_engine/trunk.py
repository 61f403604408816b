"""The trunk of a stack in Triton's kernels: PNA, batch norm and ReLU, layer after layer, forward and backward.

A layer is two launches forward, `send` and `mix`, and two backward, `mix_back` and `aggregate_back`. Between them only
the sums of batch norm, which are over all rows, make programs wait for each other. The gradients of all layers' weights
are summed at the end, in one launch and one more that turns them into those of the parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from hydragnn_hpc.member.engine.edges import gaussians
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.sizes import AGGREGATES, NetworkSizes
from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.triton_engine import trunk_kernels as kernels
from hydragnn_hpc.member.triton_engine.heads import HeadsBack
from hydragnn_hpc.member.triton_engine.launch import INTERPRETED, operation, registers
from hydragnn_hpc.member.triton_engine.rows import BatchGeometry, Rows, Tiles

WIDEST = 64
"""The most channels, inputs or functions of a basis; each program has a matrix of so many rows and columns."""
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
BASES, ENVELOPES = {"gaussian", "bessel"}, {"none", "polynomial"}
"""Of `hydragnn_hpc.member.engine.edges`, those that the kernels have."""


def unsupported(sizes: NetworkSizes) -> str:
    """Return why the kernels cannot compute such a trunk, ``""`` if they can."""
    widest = max(sizes.inputs, *sizes.channels, (sizes.edges.number + 1) if sizes.edges else 0)
    if widest > WIDEST:
        return f"they have at most {WIDEST} channels, inputs and edge features, not {widest}"
    if sizes.edges and (sizes.edges.basis not in BASES or sizes.edges.envelope not in ENVELOPES):
        return f"they lack the basis {sizes.edges.basis} or the envelope {sizes.edges.envelope}"
    return ""


def _places(layout: ParameterLayout, sizes: NetworkSizes) -> list[list[int]]:
    """Return where the flat vectors hold what each layer needs, in the order of `trunk_kernels`."""
    table = []
    for number, (inputs, outputs) in enumerate(sizes.layers):
        prefix, norm = sizes.convolution_prefix(number), f"trunk.{number}.norm"
        linears = [f"{prefix}.{name}" for name in ("pre_nns.0.0", "post_nns.0.0", "lin")]
        both = [layout.parameters[f"{name}.{kind}"][0] for name in (*linears, norm) for kind in ("weight", "bias")]
        running = [layout.buffers[f"{norm}.running_{kind}"][0] for kind in ("mean", "var")]
        encoder = (
            [layout.parameters[f"{prefix}.edge_encoder.{k}"][0] for k in ("weight", "bias")] if sizes.edges else [0] * 2
        )
        table.append([*both, *running, inputs, outputs, *encoder, 0, 0])
    return [*table, [0] * len(table[0])]  # the last launch of `send` has no layer


def power(size: int) -> int:
    """Return the size of a block that holds ``size`` rows or columns."""
    return max(NARROWEST, int(triton.next_power_of_2(size)))


@dataclass(frozen=True)
class Pass:
    """A batch on its way through the trunk: its rows and arrays (`trunk_kernels` says what they hold).

    Attributes
    ----------
    own, sent, raw : tensor [layers, E, R, W]
        In evaluation, where nothing is kept, there is one layer.
    received : tensor [layers, 4, E, R, W]
    ties : int32 tensor [layers, E, R, W]
    statistics : tensor [layers, 2, E, W]
    partial : tensor [tiles, 2, E, W]
    features : tensor [E, R, out]
        The output: the last activations.
    added : tensor [layers, E, U, W] or None
    folded : tensor [layers, matrices, E, 5 W + 1, W]
    """

    rows: Rows
    tiles: Tiles
    parameters: Tensor
    own: Tensor
    sent: Tensor
    raw: Tensor
    received: Tensor
    ties: Tensor
    statistics: Tensor
    partial: Tensor
    features: Tensor
    added: Tensor | None
    folded: Tensor

    def at(self, layer: int) -> int:
        """Return where a layer's arrays are."""
        return layer if len(self.own) > 1 else 0


class TrunkKernels:
    """The trunk of one network, for batches of any shape.

    Parameters
    ----------
    sizes : NetworkSizes
    layout : ParameterLayout
    geometry : BatchGeometry
    like : tensor
        An empty tensor of the device and type.

    Attributes
    ----------
    width : int
        W, the most inputs or channels.
    """

    def __init__(self, sizes: NetworkSizes, layout: ParameterLayout, geometry: BatchGeometry, like: Tensor) -> None:
        self._sizes, self._geometry = sizes, geometry
        self._used = max(at + math.prod(shape) for at, shape in layout.parameters.values())
        self._places = torch.tensor(_places(layout, sizes), dtype=torch.int32).to(like.device)
        self._layers, self.width = len(sizes.channels), max(sizes.inputs, *sizes.channels)
        self._centres, self._factor = None, 0.0
        if sizes.edges and sizes.edges.basis == "gaussian":
            centres, self._factor = gaussians(sizes.edges.number, sizes.edges.cutoff, like.device)
            self._centres = centres.to(like.dtype)

    def forward(
        self, rows: Rows, tiles: Tiles, edges: int, inputs: Tensor, parameters: Tensor, buffers: Tensor, arena: Arena,
        *, training: bool,
    ) -> Pass:  # fmt: skip
        """Run a batch through all layers; in training, update the running statistics in ``buffers``.

        ``inputs`` [A, F0] are those of all atoms, ``edges`` is U (`BatchGeometry.sizes_of`).
        """
        layers, width, sizes = self._layers, self.width, self._sizes
        depth, pairs, matrices = layers if training else 1, (rows.members, rows.rows), len(self._geometry.coefficients)
        by_layer = {n: arena.take(f"trunk.{n}", depth, *pairs, width) for n in ("own", "sent", "raw")}
        made = Pass(
            rows, tiles, parameters, **by_layer,
            received=arena.take("trunk.received", depth, AGGREGATES, *pairs, width),
            ties=arena.take("trunk.ties", depth, *pairs, width, dtype=torch.int32),
            statistics=arena.take("trunk.statistics", layers, 2, rows.members, width),
            partial=arena.take("trunk.partial", len(tiles.tiles), 2, rows.members, width),
            features=arena.take("trunk.features", *pairs, sizes.channels[-1]),
            added=arena.take("trunk.added", layers, rows.members, edges, width) if sizes.edges else None,
            folded=arena.take("trunk.folded", layers, matrices, rows.members, (1 + AGGREGATES) * width + 1, width),
        )  # fmt: skip
        folded_edges = None
        if sizes.edges:
            folded_edges = arena.take("trunk.folded_edges", layers, rows.members, sizes.edges.number + 1, width)
        fold(parameters, self._places, self._geometry.coefficients, made.folded, folded_edges)
        if made.added is not None:
            edge_messages(
                self._geometry.lengths, self._centres, folded_edges, self._places, self._of_edges(rows), made.added,
                *self._basis(rows),
            )  # fmt: skip
        for layer in range(layers + 1):
            self._send(made, layer, inputs, buffers, training)
            if layer < layers:
                self._mix(made, layer, training)
        return made

    def _of_edges(self, rows: Rows) -> list[Tensor]:
        return [rows.first, rows.degree, rows.edge_row, rows.count]

    def _basis(self, rows: Rows) -> tuple[float, float, str, str, int, int]:
        """Return the basis of edges' features, and how rows share edges."""
        edges = self._sizes.edges
        if edges is None:
            raise ValueError("edges have no features")
        return self._factor, edges.cutoff, edges.basis, edges.envelope, rows.stride, self._geometry.most_neighbours

    def _send(self, made: Pass, layer: int, inputs: Tensor, buffers: Tensor, training: bool) -> None:
        at, last = made.at(layer), layer == self._layers
        send(
            made.raw[made.at(layer - 1)] if layer else inputs,
            made.rows.atoms,
            made.partial if layer and training else None,
            made.parameters, buffers, self._places, made.tiles.tiles, made.rows.count,
            made.features if last else made.own[at],
            None if last else made.sent[at],
            made.statistics[layer - 1] if layer and training else None,
            layer, self._sizes.momentum, self._sizes.epsilon, self._sizes.edges is not None, made.tiles.size,
        )  # fmt: skip

    def _mix(self, made: Pass, layer: int, training: bool) -> None:
        at, rows = made.at(layer), made.rows
        mix(
            made.own[at], made.sent[at], None if made.added is None else made.added[layer], self._geometry.neighbours,
            [rows.sample, rows.start, rows.first, rows.degree, rows.edge_row], made.folded[layer],
            self._geometry.scales, self._places, made.tiles.tiles, rows.count,
            *((made.received[at], made.ties[at]) if training else (None, None)), made.raw[at],
            made.partial if training else None, layer, rows.stride, self._geometry.blocks, made.tiles.size,
        )  # fmt: skip

    def backward(self, made: Pass, heads: HeadsBack, gradients: Tensor, arena: Arena) -> None:
        """Write the gradients of all weights to ``gradients`` [E, P], from what the heads return."""
        rows, tiles, geometry, sizes = made.rows, made.tiles, self._geometry, self._sizes
        grad, back = (arena.take(f"trunk.{n}", *made.own.shape) for n in ("grad", "back"))
        x_grad = arena.take("trunk.x_grad", 1 + AGGREGATES, *made.own.shape[1:])
        added_grad = None if made.added is None else arena.take("trunk.added_grad", *made.added.shape)
        last = self._layers - 1
        collect(
            heads.node, heads.pooled, heads.values, rows.sample, rows.length, made.features, made.raw[last],
            made.statistics[last], tiles.tiles, rows.count, grad[last], made.partial, sizes.pooling, tiles.size,
        )  # fmt: skip
        for layer in reversed(range(self._layers)):
            mix_back(
                made.raw[layer], made.statistics[layer], made.partial, made.parameters, gradients, rows.degree,
                made.folded[layer], geometry.scales, self._places, tiles.tiles, rows.count, grad[layer], x_grad,
                layer, geometry.blocks, tiles.size,
            )  # fmt: skip
            of_rows = [rows.sample, rows.start, rows.first, rows.degree, rows.edge_row]
            arrived = [made.received[layer], x_grad, made.ties[layer]]
            added = None if made.added is None else made.added[layer]
            before = [made.own[layer], made.raw[layer - 1], made.statistics[layer - 1]] if layer else []
            aggregate_back(
                before, made.sent[layer], added, geometry.receivers, geometry.slots, of_rows, arrived, made.parameters,
                self._places, tiles.tiles, rows.count, back[layer], grad[layer - 1] if layer else None,
                made.partial if layer else None, layer, rows.stride, tiles.size,
            )  # fmt: skip
            if added_grad is not None:
                edges_back(
                    made.sent[layer], added, geometry.neighbours, of_rows, arrived, self._places, rows.count,
                    added_grad[layer], layer, rows.stride, geometry.most_neighbours,
                )  # fmt: skip
        self._weights(made, grad, back, added_grad, gradients, arena)

    def _weights(
        self, made: Pass, grad: Tensor, back: Tensor, added_grad: Tensor | None, gradients: Tensor, arena: Arena
    ) -> None:
        """Sum the gradients of the folded matrices over all rows, and turn them into those of the parameters."""
        rows, segments, geometry = made.rows, made.tiles.segments, self._geometry
        of_segments = (len(segments), self._layers, rows.members)
        sums = arena.take("trunk.sums", *of_segments, *made.folded.shape[3:])
        sent_sums = arena.take("trunk.sent_sums", *of_segments, self.width, self.width)
        trunk_products(
            made.own, made.received, grad, back, rows.degree, geometry.scales, self._places, segments, rows.count,
            sums, sent_sums, geometry.blocks, made.tiles.size,
        )  # fmt: skip
        edge_sums = None
        if added_grad is not None and self._sizes.edges:
            tiles = triton.cdiv(rows.rows // rows.stride, EDGE_TILE)
            edge_sums = arena.take(
                "trunk.edge_sums", tiles, self._layers, rows.members, self._sizes.edges.number + 1, self.width
            )
            edge_products(
                added_grad, geometry.lengths, self._centres, self._of_edges(rows), self._places, edge_sums,
                *self._basis(rows),
            )  # fmt: skip
        unfold(
            made.parameters, gradients, self._places, geometry.coefficients, segments, sums, sent_sums, edge_sums,
            self._used,
        )  # fmt: skip


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
        num_warps=WARPS, num_stages=1, **registers(MOST_REGISTERS),
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
