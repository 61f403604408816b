"""The network in plain torch for E members at once, forward and backward.

The backward pass is written by hand: a step then takes about fifty kernels per layer for any number of members, the
gradients of all weights are in one flat tensor, and every large array is allocated once. `weights` derives the algebra.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hydragnn_hpc.member.engine.sizes import AGGREGATES
from hydragnn_hpc.member.torch_engine.aggregation import Aggregation
from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.torch_engine.batches import Batch, Padding
from hydragnn_hpc.member.torch_engine.edges import EdgeTable, by_member
from hydragnn_hpc.member.torch_engine.heads import GroupLosses, Pooling, TaskHeads, group_losses
from hydragnn_hpc.member.torch_engine.weights import Weights


class PnaLayer:
    """One layer of the trunk for batches of one shape: PNA, forward and backward.

    Attributes
    ----------
    x, x_grad : tensor [R, E, 5 F + 1]
        Its input, a column of ones, and the aggregates: mean, minimum, maximum, standard deviation.
    """

    def __init__(self, number: int, width: int, batch: Batch, weights: Weights, arena: Arena) -> None:
        self.number, self.width, self.rows, self.members = number, width, batch.rows, batch.members
        self._weights, pairs = weights, (batch.rows, batch.members)
        self.x, self.x_grad = (
            arena.take(f"{name}.{number}", *pairs, (1 + AGGREGATES) * width + 1) for name in ("x", "x_grad")
        )
        self.x[..., width] = 1.0
        self._received, self._received_grad = (self._last(t) for t in (self.x, self.x_grad))
        self._sent = arena.take(f"sent.{number}", *pairs, width)
        # The table has one row per row of the batch, with the features of all members, or one per row and member.
        rows = batch.table.rows
        self._table_shape = (rows, width * batch.rows * batch.members // rows)
        self._added = arena.take(f"added.{number}", batch.edges.rows, self._table_shape[1]) if batch.edges else None
        self._aggregation = Aggregation(number, self._table_shape, batch, arena)
        self._blocks = arena.take("blocks", *pairs, weights.big[number].shape[2])

    def _last(self, x: Tensor) -> Tensor:
        """Return the columns of the aggregates, [4, R, E, F]."""
        return torch.unflatten(x[..., self.width + 1 :], 2, (AGGREGATES, self.width)).permute(2, 0, 1, 3)

    def forward(self, batch: Batch, training: bool) -> Tensor:
        """Return PNA of ``x``, [R, E, out]."""
        sent, big = self._weights.sent[self.number], self._weights.big[self.number]
        torch.bmm(self.x[..., : self.width].transpose(0, 1), sent, out=self._sent.transpose(0, 1))
        flat = self._sent.view(self._table_shape)
        if batch.edges is not None and self._added is not None:
            added = by_member(self._added, self.members, self.width)
            torch.bmm(self._features(batch.edges), self._weights.edge[self.number], out=added)
        self._aggregation.forward(batch, flat, self._added, self._received, training)
        torch.bmm(self.x.transpose(0, 1), big, out=self._blocks.transpose(0, 1))
        blocks = self._blocks.view(self.rows * self.members, self._weights.blocks, -1)
        return torch.bmm(batch.scales, blocks).view(self.rows, self.members, -1)

    def backward(self, batch: Batch, grad: Tensor) -> Tensor:
        """Compute the gradients of the weights from ``grad`` [R, E, out]; return that of the input [R, E, F].

        That of the first layer, which is not needed, is incomplete.
        """
        sent, big = self._weights.sent[self.number], self._weights.big[self.number]
        pairs = self.rows * self.members
        torch.mul(grad.view(pairs, 1, -1), batch.scales.mT, out=self._blocks.view(pairs, self._weights.blocks, -1))
        blocks = self._blocks.transpose(0, 1)
        torch.bmm(self.x.permute(1, 2, 0), blocks, out=self._weights.big_grad[self.number])
        torch.bmm(blocks, big.mT, out=self.x_grad.transpose(0, 1))
        back = self._aggregate_back(batch)
        back = back.view(self.rows, self.members, self.width).transpose(0, 1)
        own = self.x[..., : self.width]
        torch.bmm(own.permute(1, 2, 0), back, out=self._weights.sent_grad[self.number])
        own_grad = self.x_grad[..., : self.width]
        if self.number:
            own_grad.transpose(0, 1).baddbmm_(back, sent.mT)
        return own_grad

    def _aggregate_back(self, batch: Batch) -> Tensor:
        """Return the gradient of what atoms send; write that of the edges' matrix to the weights."""
        back, added = self._aggregation.backward(batch, self._received_grad)
        if batch.edges is not None and added is not None:
            grad = by_member(added, self.members, self.width)
            torch.bmm(self._features(batch.edges).mT, grad, out=self._weights.edge_grad[self.number])
        return back

    def _features(self, edges: EdgeTable) -> Tensor:
        """Return the features of the edges of each member, [E, U, K + 1]."""
        return edges.features.expand(self.members, -1, -1)


class Norm:
    """Batch normalisation of [R, E, F] per member, over its own atoms.

    Parameters
    ----------
    weight, bias : tensor [E, 1, F]
    statistics : tensor [2, E * F]
        Batch mean and unbiased variance are written here.
    """

    def __init__(self, weight: Tensor, bias: Tensor, statistics: Tensor, epsilon: float) -> None:
        self._weight, self._bias, self._statistics, self._epsilon = weight, bias, statistics, epsilon

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """Return ``x`` [R, E, F], normalised."""
        self._x = x
        if batch.padding is not None:
            return self._forward_padded(x, batch.padding)
        flat = x.view(batch.rows, -1)
        mean, variance = self._statistics
        weight, bias = self._weight.view(-1), self._bias.view(-1)
        # Momentum 1: the running statistics become the batch's own.
        out, self._mean, self._inverse = torch.native_batch_norm(
            flat, weight, bias, mean, variance, True, 1.0, self._epsilon
        )
        return out.view(x.shape)

    def backward(self, grad: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of x, weight and bias from ``grad`` [R, E, F]."""
        if batch.padding is not None:
            return self._backward_padded(grad, batch.padding)
        flat, weight = self._x.view(batch.rows, -1), self._weight.view(-1)
        x, weight, bias = torch.ops.aten.native_batch_norm_backward(
            grad.reshape(flat.shape), flat, weight, None, None, self._mean, self._inverse, True, self._epsilon,
            [True, True, True],
        )  # fmt: skip
        return x.view(self._x.shape), weight, bias

    def _forward_padded(self, x: Tensor, padding: Padding) -> Tensor:
        # The convolution leaves zeros in padded rows.
        mean = x.sum(0, keepdim=True) / padding.count
        centred = (x - mean) * padding.valid
        squares = (centred * centred).sum(0, keepdim=True)
        self._inverse = (squares / padding.count + self._epsilon).rsqrt_()
        self._statistics[0].copy_(mean.view(-1))
        self._statistics[1].copy_((squares / (padding.count - 1)).view(-1))
        self._normal = centred.mul_(self._inverse)
        return torch.addcmul(self._bias.transpose(0, 1), self._normal, self._weight.transpose(0, 1))

    def _backward_padded(self, grad: Tensor, padding: Padding) -> tuple[Tensor, Tensor, Tensor]:
        # Padded rows have no gradient; what they receive here is multiplied by scalers of zero.
        bias = grad.sum(0, keepdim=True)
        weight = (grad * self._normal).sum(0, keepdim=True)
        x = torch.addcmul(grad - bias / padding.count, self._normal, weight / padding.count, value=-1)
        return x.mul_(self._inverse * self._weight.transpose(0, 1)), weight, bias


class Network:
    """Forward and backward passes over batches of one shape, and their arrays.

    Parameters
    ----------
    weights : Weights
        Of as many members as the batch has.
    batch : Batch
        Any batch of the shape.
    arena : Arena
        Memory of the arrays; this network is invalid once another one uses it.

    Attributes
    ----------
    statistics : tensor [layers, 2, E * out]
        Mean and unbiased variance of the last training batch in each layer's batch norm.
    """

    def __init__(self, weights: Weights, batch: Batch, arena: Arena) -> None:
        sizes = weights.sizes
        self._weights, out = weights, sizes.channels[-1]
        self._layers = [PnaLayer(n, width, batch, weights, arena) for n, (width, _) in enumerate(sizes.layers)]
        self._last = arena.take("last", batch.rows * batch.members + 1, out + 1)
        self._last[:, -1], self._last[-1] = 1.0, 0.0
        self._pooled = arena.take("pooled", batch.samples, batch.members, out + 1)
        self._pooled[..., -1] = 1.0
        self._grad = arena.take("grad", batch.rows, batch.members, out)
        self._pooled_grad = arena.take("pooled_grad", batch.samples, batch.members, out)
        self._features = self._last[:-1].view(batch.rows, batch.members, -1)
        # Each layer writes its output to the next one's input.
        self._outputs = [*(layer.x[..., : layer.width] for layer in self._layers[1:]), self._features[..., :-1]]
        self.statistics = arena.take("statistics", len(self._layers), 2, batch.members * out)
        scale, shift = weights.value["norm.weight"], weights.value["norm.bias"]
        self._norms = [Norm(*row, sizes.epsilon) for row in zip(scale, shift, self.statistics, strict=True)]
        rows = {"node": batch.rows, "graph": batch.samples}
        self._heads = [TaskHeads(number, weights, rows[g.level], arena) for number, g in enumerate(weights.heads)]

    def train(self, batch: Batch, inputs: Tensor, targets: list[Tensor], missing: bool) -> Tensor:
        """Run a batch forward and backward; write the gradients to the weights, the batch statistics to `statistics`.

        Parameters
        ----------
        inputs : tensor [R * E, F0]
        targets : list of tensor [R, E, T * d] or [B, E, T * d]
            By group of heads.
        missing : bool
            Whether any target may be NaN.

        Returns
        -------
        tensor [E, T]
            Mean losses, groups of heads one after the other.
        """
        self.statistics.zero_()
        self._start(inputs)
        for layer, norm, out in zip(self._layers, self._norms, self._outputs, strict=True):
            torch.clamp_min(norm.forward(layer.forward(batch, True), batch), 0.0, out=out)
        pool = self._pool(batch)
        groups = [
            group_losses(head.loss, self._values(head), target, head.task_weights, missing)
            for head, target in zip(self._heads, targets, strict=True)
        ]
        self._trunk_back(batch, self._heads_back(pool, groups))
        return groups[0].losses if len(groups) == 1 else torch.cat([group.losses for group in groups], 1)

    def predict(self, batch: Batch, inputs: Tensor, buffers: Tensor) -> list[Tensor]:
        """Return the values [R, E, T * outputs] or [B, ...] by group of heads; ``buffers`` are [E, Q]."""
        layers, members = len(self._layers), batch.members
        mean, variance = buffers.view(members, layers, 2, 1, -1).permute(2, 1, 3, 0, 4).unbind()
        scale = self._weights.value["norm.weight"].transpose(1, 2) * (variance + self._weights.sizes.epsilon).rsqrt()
        shift = self._weights.value["norm.bias"].transpose(1, 2) - mean * scale
        self._start(inputs)
        for number, (layer, out) in enumerate(zip(self._layers, self._outputs, strict=True)):
            normal = torch.addcmul(shift[number], layer.forward(batch, False), scale[number])
            torch.clamp_min(normal, 0.0, out=out)
        self._pool(batch)
        return [self._values(head) for head in self._heads]

    def _start(self, inputs: Tensor) -> None:
        first = self._layers[0]
        first.x[..., : first.width].copy_(inputs.view(first.rows, first.members, -1))

    def _pool(self, batch: Batch) -> Pooling | None:
        if not any(head.level == "graph" for head in self._heads):
            return None
        pool = Pooling(self._weights.sizes.pooling, batch, self._last)
        pool.forward(self._pooled[..., :-1])
        return pool

    def _values(self, head: TaskHeads) -> Tensor:
        return head.forward(self._features if head.level == "node" else self._pooled)

    def _heads_back(self, pool: Pooling | None, groups: list[GroupLosses]) -> Tensor:
        """Return the gradient of the last activations, [R, E, F]."""
        total = self._grad
        first = True
        for head, group in zip(self._heads, groups, strict=True):
            if head.level == "node":
                head.backward(self._features, group.grad, total, accumulate=not first)
                first = False
        if first:
            total.zero_()
        for head, group in zip(self._heads, groups, strict=True):
            if head.level == "graph" and pool is not None:
                head.backward(self._pooled, group.grad, self._pooled_grad, accumulate=False)
                pool.backward(self._pooled[..., :-1], self._pooled_grad, total)
        return total

    def _trunk_back(self, batch: Batch, grad: Tensor) -> None:
        scales: list[Tensor] = []
        shifts: list[Tensor] = []
        for number in reversed(range(len(self._layers))):
            grad = torch.ops.aten.threshold_backward(grad, self._outputs[number], 0.0)
            grad, scale, shift = self._norms[number].backward(grad, batch)
            scales.insert(0, scale.view(-1))
            shifts.insert(0, shift.view(-1))
            grad = self._layers[number].backward(batch, grad)
        torch.cat([*scales, *shifts], out=self._weights.norm_grad)
