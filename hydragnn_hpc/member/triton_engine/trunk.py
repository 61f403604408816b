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
from hydragnn_hpc.member.triton_engine import trunk_launches as launches
from hydragnn_hpc.member.triton_engine.heads import HeadsBack
from hydragnn_hpc.member.triton_engine.rows import BatchGeometry, Rows, Tiles

WIDEST = 64
"""The most channels or inputs; of edge features one fewer, as their bias is multiplied with them: programs have whole
matrices of so many rows and columns."""
BASES, ENVELOPES = {"gaussian", "bessel"}, {"none", "polynomial"}
"""Of `hydragnn_hpc.member.engine.edges`, those that the kernels have."""


def unsupported(sizes: NetworkSizes) -> str:
    """Return why the kernels cannot compute such a trunk, ``""`` if they can."""
    widest, edges = max(sizes.inputs, *sizes.channels), sizes.edges
    if widest > WIDEST:
        return f"they support at most {WIDEST} channels and inputs, not {widest}"
    if edges and edges.number >= WIDEST:
        return f"they support at most {WIDEST - 1} edge features, not {edges.number}"
    if edges and edges.basis not in BASES:
        return f"they lack the basis {edges.basis}"
    if edges and edges.envelope not in ENVELOPES:
        return f"they lack the envelope {edges.envelope}"
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


@dataclass(frozen=True)
class Pass:
    """A batch on its way through the trunk: its rows and arrays (`trunk_kernels` says what they hold).

    In evaluation, where nothing is kept, there is one layer of ``own``, ``sent`` and ``raw``, and none of ``received``
    and ``ties``.

    Attributes
    ----------
    own, sent, raw : tensor [layers, E, R, W]
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
        kept, pairs, matrices = layers if training else 0, (rows.members, rows.rows), len(self._geometry.coefficients)
        by_layer = {n: arena.take(f"trunk.{n}", max(1, kept), *pairs, width) for n in ("own", "sent", "raw")}
        forward = Pass(
            rows, tiles, parameters, **by_layer,
            received=arena.take("trunk.received", kept, AGGREGATES, *pairs, width),
            ties=arena.take("trunk.ties", kept, *pairs, width, dtype=torch.int32),
            statistics=arena.take("trunk.statistics", layers, 2, rows.members, width),
            partial=arena.take("trunk.partial", len(tiles.tiles), 2, rows.members, width),
            features=arena.take("trunk.features", *pairs, sizes.channels[-1]),
            added=arena.take("trunk.added", layers, rows.members, edges, width) if sizes.edges else None,
            folded=arena.take("trunk.folded", layers, matrices, rows.members, (1 + AGGREGATES) * width + 1, width),
        )  # fmt: skip
        folded_edges = None
        if sizes.edges:
            folded_edges = arena.take("trunk.folded_edges", layers, rows.members, sizes.edges.number + 1, width)
        launches.fold(parameters, self._places, self._geometry.coefficients, forward.folded, folded_edges)
        if forward.added is not None:
            launches.edge_messages(
                self._geometry.lengths, self._centres, folded_edges, self._places, self._of_edges(rows), forward.added,
                *self._basis(rows),
            )  # fmt: skip
        for layer in range(layers + 1):
            self._send(forward, layer, inputs, buffers, training)
            if layer < layers:
                self._mix(forward, layer, training)
        return forward

    def _of_edges(self, rows: Rows) -> list[Tensor]:
        return [rows.first, rows.degree, rows.edge_row, rows.count]

    def _basis(self, rows: Rows) -> tuple[float, float, str, str, int, int]:
        """Return the basis of edges' features, and how rows share edges."""
        edges = self._sizes.edges
        assert edges is not None
        return self._factor, edges.cutoff, edges.basis, edges.envelope, rows.stride, self._geometry.most_neighbours

    def _send(self, forward: Pass, layer: int, inputs: Tensor, buffers: Tensor, training: bool) -> None:
        at, last = forward.at(layer), layer == self._layers
        launches.send(
            forward.raw[forward.at(layer - 1)] if layer else inputs,
            forward.rows.atoms,
            forward.partial if layer and training else None,
            forward.parameters, buffers, self._places, forward.tiles.tiles, forward.rows.count,
            forward.features if last else forward.own[at],
            None if last else forward.sent[at],
            forward.statistics[layer - 1] if layer and training else None,
            layer, self._sizes.momentum, self._sizes.epsilon, self._sizes.edges is not None, forward.tiles.size,
        )  # fmt: skip

    def _mix(self, forward: Pass, layer: int, training: bool) -> None:
        at, rows = forward.at(layer), forward.rows
        launches.mix(
            forward.own[at], forward.sent[at], None if forward.added is None else forward.added[layer],
            self._geometry.neighbours, [rows.sample, rows.start, rows.first, rows.degree, rows.edge_row],
            forward.folded[layer], self._geometry.scales, self._places, forward.tiles.tiles, rows.count,
            *((forward.received[at], forward.ties[at]) if training else (None, None)), forward.raw[at],
            forward.partial if training else None, layer, rows.stride, self._geometry.blocks, forward.tiles.size,
        )  # fmt: skip

    def backward(self, forward: Pass, heads: HeadsBack, gradients: Tensor, arena: Arena) -> None:
        """Write the gradients of all weights to ``gradients`` [E, P], from what the heads return."""
        rows, tiles, geometry, sizes = forward.rows, forward.tiles, self._geometry, self._sizes
        grad, back = (arena.take(f"trunk.{n}", *forward.own.shape) for n in ("grad", "back"))
        x_grad = arena.take("trunk.x_grad", 1 + AGGREGATES, *forward.own.shape[1:])
        added_grad = None if forward.added is None else arena.take("trunk.added_grad", *forward.added.shape)
        last = self._layers - 1
        launches.collect(
            heads.node, heads.pooled, heads.values, rows.sample, rows.length, forward.features, forward.raw[last],
            forward.statistics[last], tiles.tiles, rows.count, grad[last], forward.partial, sizes.pooling, tiles.size,
        )  # fmt: skip
        for layer in reversed(range(self._layers)):
            launches.mix_back(
                forward.raw[layer], forward.statistics[layer], forward.partial, forward.parameters, gradients,
                rows.degree, forward.folded[layer], geometry.scales, self._places, tiles.tiles, rows.count,
                grad[layer], x_grad, layer, geometry.blocks, tiles.size,
            )  # fmt: skip
            of_rows = [rows.sample, rows.start, rows.first, rows.degree, rows.edge_row]
            arrived = [forward.received[layer], x_grad, forward.ties[layer]]
            added = None if forward.added is None else forward.added[layer]
            before = [forward.own[layer], forward.raw[layer - 1], forward.statistics[layer - 1]] if layer else []
            launches.aggregate_back(
                before, forward.sent[layer], added, geometry.receivers, geometry.slots, of_rows, arrived,
                forward.parameters, self._places, tiles.tiles, rows.count, back[layer],
                *((grad[layer - 1], forward.partial) if layer else (None, None)), layer, rows.stride, tiles.size,
            )  # fmt: skip
            if added_grad is not None:
                launches.edges_back(
                    forward.sent[layer], added, geometry.neighbours, of_rows, arrived, self._places, rows.count,
                    added_grad[layer], layer, rows.stride, geometry.most_neighbours,
                )  # fmt: skip
        self._weights(forward, grad, back, added_grad, gradients, arena)

    def _weights(
        self, forward: Pass, grad: Tensor, back: Tensor, added_grad: Tensor | None, gradients: Tensor, arena: Arena
    ) -> None:
        """Sum the gradients of the folded matrices over all rows, and turn them into those of the parameters."""
        rows, segments, geometry = forward.rows, forward.tiles.segments, self._geometry
        of_segments = (len(segments), self._layers, rows.members)
        sums = arena.take("trunk.sums", *of_segments, *forward.folded.shape[3:])
        sent_sums = arena.take("trunk.sent_sums", *of_segments, self.width, self.width)
        launches.trunk_products(
            forward.own, forward.received, grad, back, rows.degree, geometry.scales, self._places, segments, rows.count,
            sums, sent_sums, geometry.blocks, forward.tiles.size,
        )  # fmt: skip
        edge_sums = None
        if added_grad is not None and self._sizes.edges:
            tiles = triton.cdiv(rows.rows // rows.stride, launches.EDGE_TILE)
            edge_sums = arena.take(
                "trunk.edge_sums", tiles, self._layers, rows.members, self._sizes.edges.number + 1, self.width
            )
            launches.edge_products(
                added_grad, geometry.lengths, self._centres, self._of_edges(rows), self._places, edge_sums,
                *self._basis(rows),
            )  # fmt: skip
        launches.unfold(
            forward.parameters, gradients, self._places, geometry.coefficients, segments, sums, sent_sums, edge_sums,
            self._used,
        )  # fmt: skip
