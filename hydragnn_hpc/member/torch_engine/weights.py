"""The weights of a stack as the matrices that a step uses, and the inverse mapping of their gradients.

A member's parameters lie in one flat vector, in PyTorch Geometric's shapes. One gather brings those of a whole stack
into the order of `_WeightOrder`: weights are transposed, a bias is the row that is multiplied by a column of ones, and
each member has one block. Another gather reorders the gradients.

PNA's layer is folded. With m_ij = W1 x_i + b + y_j, y_j = W2 x_j, the aggregates of m_ij over j are those of y_j, all
but the standard deviation shifted by W1 x_i + b. With L the last matrix, and P0 and P_sa the blocks of the matrix
before it (scaler s, aggregate a), the layer is ::

    out_i = L P0 x_i + L p + l + sum_s c_s(d_i) [ S_s (W1 x_i + b) + sum_a Q_sa aggregate_a(y) ]
    Q_sa = L P_sa,    S_s = Q_s,mean + Q_s,min + Q_s,max

which takes a single product of [x, 1, mean, min, max, std] with a matrix that has one block of columns per scaler; the
blocks are then summed, weighted with the scalers of each atom. Scaler 0 is the identity, and its block also holds the
unscaled part, unless there are atoms without neighbours (all c_s = 0): then the unscaled part has its own block.

Where edges have features e_ij, they add W3 (V e_ij + v) to y_j, a product of [e, 1] with one matrix, W3 [V, v].
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.engine.head_groups import head_groups
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.sizes import AGGREGATES, SCALERS, Array, NetworkSizes

SHIFTED = 3  # mean, min and max are shifted by the receiver's own part, std is not


class _WeightOrder:
    """Indices into a member's vector, in the order of the matrices; each piece is [layers, rows, columns]."""

    def __init__(self, layout: ParameterLayout) -> None:
        self._layout = layout
        self.zero = layout.parameter_size - 1  # the last number is padding, and zero
        self.pieces: list[tuple[str, Array]] = []

    def weight(self, name: str) -> Array:
        """Return the indices of a weight, transposed: [in, out]."""
        return self._indices(f"{name}.weight").T

    def bias(self, name: str) -> Array:
        """Return the indices of a bias, as a row."""
        return self._indices(f"{name}.bias")[None]

    def both(self, name: str) -> Array:
        """Return the indices of a weight, transposed, with the bias as the last row."""
        return np.concatenate([self.weight(name), self.bias(name)])

    def add(self, name: str, arrays: list[Array]) -> None:
        """Add a piece: one array per layer, or a single one."""
        self.pieces.append((name, np.stack(arrays)))

    def _indices(self, name: str) -> Array:
        at, shape = self._layout.parameters[name]
        return np.arange(at, at + math.prod(shape)).reshape(shape)


def _pieces(layout: ParameterLayout, sizes: NetworkSizes) -> list[tuple[str, Array]]:
    order = _WeightOrder(layout)
    for group, numbers in enumerate(trunk_groups(sizes)):
        names = [sizes.convolution_prefix(n) for n in numbers]
        width = sizes.layers[numbers[0]][0]
        post = [order.both(f"{n}.post_nns.0.0") for n in names]
        # The bias row moves up: the rows of post become those of x, the bias, then (scaler, aggregate, feature).
        order.add(f"post.{group}", [np.concatenate([p[:width], p[-1:], p[width:-1]]) for p in post])
        order.add(f"lin.{group}", [order.weight(f"{n}.lin") for n in names])
        order.add(f"lin_bias.{group}", [order.bias(f"{n}.lin") for n in names])
        pre = [order.both(f"{n}.pre_nns.0.0") for n in names]
        order.add(f"own.{group}", [np.concatenate([p[:width], p[-1:]]) for p in pre])
        order.add(f"sent.{group}", [p[width : 2 * width] for p in pre])
        if sizes.edges:
            order.add(f"edge.{group}", [p[2 * width : -1] for p in pre])
            order.add(f"encoder.{group}", [order.both(f"{n}.edge_encoder") for n in names])
    for kind in ("weight", "bias"):
        norms = [layout.parameters[f"trunk.{n}.norm.{kind}"] for n in range(len(sizes.channels))]
        order.add(f"norm.{kind}", [np.arange(at, at + shape[0])[None] for at, shape in norms])
    for number, heads in enumerate(head_groups(sizes)):
        first = [order.both(f"heads.{t.name}.0") for t in heads.tasks]
        order.add(f"head.{number}.0", [np.concatenate(first, axis=1)])
        for k in range(1, len(heads.widths)):
            order.add(f"head.{number}.{k}", [np.stack([order.both(f"heads.{t.name}.{k}") for t in heads.tasks])])
    return order.pieces


def trunk_groups(sizes: NetworkSizes) -> list[list[int]]:
    """Group consecutive layers of the same widths, which are folded together: the first layer, and the others."""
    groups: list[list[int]] = []
    for number, widths in enumerate(sizes.layers):
        if groups and sizes.layers[groups[-1][-1]] == widths:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


class Weights:
    """Matrices of E members and, in the same order, their gradients.

    Attributes
    ----------
    value, grad : dict of str to Tensor
        Views of the two flat tensors: name -> [layers, E, rows, columns]; for layers of heads beyond the first,
        [1, E, T, rows, columns].
    heads : tuple of HeadGroup
    task_weights : list of Tensor
        The tasks' weights in the loss, [T, 1] for each group of heads.
    norm_grad : Tensor
        Gradients of all batch norms' weights, then of their biases, [2 * layers * E * out].
    sent, sent_grad : list of Tensor
        W2 of each layer, [E, in, in].
    big, big_grad : list of Tensor
        The folded matrix of each layer, [E, 5 in + 1, blocks * out].
    edge, edge_grad : list of Tensor
        W3 [V, v] of each layer, transposed, [E, K + 1, in]; empty where edges have no features.
    """

    def __init__(self, layout: ParameterLayout, sizes: NetworkSizes, members: int, blocks: int, like: Tensor) -> None:
        self.sizes, self.members, self.blocks = sizes, members, blocks
        pieces = _pieces(layout, sizes)
        # Each piece is [batch, ...] for one member; members become the second dimension.
        offset = np.arange(members) * layout.parameter_size
        order = [np.add.outer(offset, piece).swapaxes(0, 1) for _, piece in pieces]
        source = np.concatenate([piece.ravel() for piece in order])
        self._gather = torch.from_numpy(source).to(like.device)
        self._flat, self._flat_grad = (like.new_zeros(len(source) + 1) for _ in range(2))
        # The position of each parameter's gradient; padding refers to the last number, which stays zero.
        back = np.full(members * layout.parameter_size, len(source))
        back[source] = np.arange(len(source))
        self._scatter = torch.from_numpy(back).to(like.device)
        self.value, self.grad = (self._views(flat, pieces, order) for flat in (self._flat, self._flat_grad))
        self.heads = head_groups(sizes)
        self.task_weights = [like.new_tensor([t.weight for t in g.tasks])[:, None] for g in self.heads]
        at = self.grad["norm.weight"].storage_offset()
        self.norm_grad = self._flat_grad[at : at + 2 * self.grad["norm.weight"].numel()]
        self._folds = [_Fold(self, number, layers) for number, layers in enumerate(trunk_groups(sizes))]
        self.big = [big for fold in self._folds for big in fold.big]
        self.big_grad = [big for fold in self._folds for big in fold.big_grad]
        self.edge = [edge for fold in self._folds for edge in fold.edge]
        self.edge_grad = [edge for fold in self._folds for edge in fold.edge_grad]
        self.sent = [sent for fold in self._folds for sent in self.value[f"sent.{fold.number}"]]
        self.sent_grad = [sent for fold in self._folds for sent in self.grad[f"sent.{fold.number}"]]

    @staticmethod
    def _views(flat: Tensor, pieces: list[tuple[str, Array]], order: list[Array]) -> dict[str, Tensor]:
        views, at = {}, 0
        for (name, _), piece in zip(pieces, order, strict=True):
            views[name] = flat[at : at + piece.size].view(piece.shape)
            at += piece.size
        return views

    def load(self, parameters: Tensor) -> None:
        """Copy in the parameters [E, P] and fold those of the trunk."""
        torch.index_select(parameters.view(-1), 0, self._gather, out=self._flat[:-1])
        for fold in self._folds:
            fold.fold()

    def unload(self, gradients: Tensor) -> None:
        """Unfold the trunk's gradients and write all gradients to ``gradients`` [E, P], with zeros in the padding."""
        for fold in self._folds:
            fold.unfold()
        torch.index_select(self._flat_grad, 0, self._scatter, out=gradients.view(-1))


class _Fold:
    """The folding (see the module's docstring) of the layers of one group, batched over layers and members."""

    def __init__(self, weights: Weights, number: int, layers: list[int]) -> None:
        self.number = number
        width, out = weights.sizes.layers[layers[0]]
        self._width, self._out, batch = width, out, len(layers) * weights.members
        names = ("post", "lin", "lin_bias", "own", *(("edge", "encoder") if weights.sizes.edges else ()))
        self._flat = {n: weights.value[f"{n}.{number}"].flatten(0, 1) for n in names}
        self._grad = {n: weights.grad[f"{n}.{number}"].flatten(0, 1) for n in names}
        like = self._flat["lin"]
        self._folded = like.new_zeros(batch, (1 + SCALERS * AGGREGATES) * width + 1, out)
        self._shift = like.new_zeros(batch, width, SCALERS * out)
        self._shift_grad = torch.zeros_like(self._shift)
        self._separate = weights.blocks > SCALERS
        shape = (batch, (1 + AGGREGATES) * width + 1, weights.blocks * out)
        big, grad = like.new_zeros(shape), like.new_zeros(shape)
        self._big, self._big_grad = self._parts(big), self._parts(grad)
        self.big = list(big.view(len(layers), weights.members, *shape[1:]))
        self.big_grad = list(grad.view(len(layers), weights.members, *shape[1:]))
        self._edges = weights.sizes.edges is not None
        encoder = (len(layers), weights.members, weights.sizes.edges.number + 1, width) if weights.sizes.edges else (0,)
        self._edge, self._edge_grad = like.new_zeros(encoder), like.new_zeros(encoder)
        self.edge, self.edge_grad = list(self._edge), list(self._edge_grad)

    def _parts(self, big: Tensor) -> dict[str, Tensor]:
        """Return views of the matrix: scaled and unscaled parts of the rows of x and 1, two of the aggregates' rows."""
        own, out = self._width + 1, self._out
        received = big[:, own:, : SCALERS * out]
        return {
            "scaled": big[:, :own, : SCALERS * out],
            "unscaled": big[:, :own, -out:] if self._separate else big[:, :own, :out],
            "received": torch.unflatten(torch.unflatten(received, 2, (SCALERS, out)), 1, (AGGREGATES, self._width)),
            "shifted": torch.unflatten(received[:, : SHIFTED * self._width], 1, (SHIFTED, self._width)),
        }

    def _by_scaler(self, folded: Tensor) -> Tensor:
        """View the rows of aggregates, (scaler, aggregate, in) by out, as [batch, aggregate, in, scaler, out]."""
        rows = torch.unflatten(folded[:, self._width + 1 :], 1, (SCALERS, AGGREGATES, self._width))
        return rows.permute(0, 2, 3, 1, 4)

    def fold(self) -> None:
        """Fill `big` from the gathered weights."""
        own = self._width + 1
        torch.bmm(self._flat["post"], self._flat["lin"], out=self._folded)
        self._big["received"].copy_(self._by_scaler(self._folded))
        torch.sum(self._big["shifted"], 1, out=self._shift)
        torch.bmm(self._flat["own"], self._shift, out=self._big["scaled"])
        if self._separate:
            self._big["unscaled"].copy_(self._folded[:, :own])
        else:
            self._big["unscaled"].add_(self._folded[:, :own])
        self._big["unscaled"][:, -1:].add_(self._flat["lin_bias"])
        if self._edges:
            torch.bmm(self._flat["encoder"], self._flat["edge"], out=self._edge.flatten(0, 1))

    def unfold(self) -> None:
        """Compute the gradients of the gathered weights from the gradient of `big`, which is overwritten."""
        own = self._width + 1
        scaled = self._big_grad["scaled"]
        torch.bmm(self._flat["own"].mT, scaled, out=self._shift_grad)
        torch.bmm(scaled, self._shift.mT, out=self._grad["own"])
        self._big_grad["shifted"].add_(self._shift_grad[:, None])
        self._by_scaler(self._folded).copy_(self._big_grad["received"])
        self._folded[:, :own].copy_(self._big_grad["unscaled"])
        self._grad["lin_bias"].copy_(self._big_grad["unscaled"][:, -1:])
        torch.bmm(self._folded, self._flat["lin"].mT, out=self._grad["post"])
        torch.bmm(self._flat["post"].mT, self._folded, out=self._grad["lin"])
        if self._edges:
            grad = self._edge_grad.flatten(0, 1)
            torch.bmm(self._flat["encoder"].mT, grad, out=self._grad["edge"])
            torch.bmm(grad, self._flat["edge"].mT, out=self._grad["encoder"])
