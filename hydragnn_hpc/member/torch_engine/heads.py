"""Pooling, heads and losses of a stack, forward and backward.

Heads of the same level, widths and loss are computed together: the first layer as one product with the columns of all
of them, the others as products batched over (member, task). A bias is a row of the weights, multiplied by a column of
ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hydragnn_hpc.member.engine.losses import Loss
from hydragnn_hpc.member.torch_engine.arena import Arena
from hydragnn_hpc.member.torch_engine.batches import Batch
from hydragnn_hpc.member.torch_engine.weights import Weights


class TaskHeads:
    """One group of heads for batches of one shape.

    Parameters
    ----------
    number : int
        Index of the group in ``weights``.
    weights : Weights
    rows : int
        Rows (atoms or samples) per member.
    arena : Arena
    """

    def __init__(self, number: int, weights: Weights, rows: int, arena: Arena) -> None:
        group = weights.heads[number]
        self.level, self.loss, self._members, self._rows = group.level, group.loss, weights.members, rows
        widths = group.widths
        self.task_weights = weights.task_weights[number]
        # [E, in + 1, T * out], then [E * T, in + 1, out].
        self._value, self._grad = (
            [source[f"head.{number}.{k}"].flatten(0, 2 if k else 1) for k in range(len(widths))]
            for source in (weights.value, weights.grad)
        )
        pairs = weights.members * len(group.tasks)
        name = f"head.{number}"
        # For each layer and (member, task): its output, and the output after the ReLU with a column of ones.
        self._linear = [arena.take(f"{name}.linear.{k}", rows, pairs, out) for k, (_, out) in enumerate(widths)]
        self._hidden = [
            arena.take(f"{name}.hidden.{k}", rows, pairs, out + 1) for k, (_, out) in enumerate(widths[:-1])
        ]
        for hidden in self._hidden:
            hidden[..., -1] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return the values [R, E, T * outputs] of x [R, E, F + 1], whose last column is ones."""
        for k, (weight, linear) in enumerate(zip(self._value, self._linear, strict=True)):
            torch.bmm(x.transpose(0, 1), weight, out=linear.view(self._rows, len(weight), -1).transpose(0, 1))
            if k < len(self._hidden):
                x = self._hidden[k]
                torch.clamp_min(linear, 0.0, out=x[..., :-1])
        return self._linear[-1].view(self._rows, self._members, -1)

    def backward(self, x: Tensor, grad: Tensor, out: Tensor, accumulate: bool) -> None:
        """Fill the weights' gradients; write the gradient of x without its ones to ``out`` [R, E, F], or add it there.

        ``grad`` [R, E, T * outputs] is the gradient of the values.
        """
        for k in range(len(self._hidden), 0, -1):
            hidden, weight = self._hidden[k - 1], self._value[k]
            pairs = grad.view(self._rows, len(weight), -1).transpose(0, 1)
            torch.bmm(hidden.permute(1, 2, 0), pairs, out=self._grad[k])
            before = self._linear[k - 1]
            torch.bmm(pairs, weight[:, :-1].mT, out=before.transpose(0, 1))
            grad = torch.ops.aten.threshold_backward(before, hidden[..., :-1], 0.0)
        pairs = grad.reshape(self._rows, self._members, -1).transpose(0, 1)
        torch.bmm(x.permute(1, 2, 0), pairs, out=self._grad[0])
        back, weight = out.transpose(0, 1), self._value[0][:, :-1].mT
        if accumulate:
            back.baddbmm_(pairs, weight)
        else:
            torch.bmm(pairs, weight, out=back)


@dataclass(frozen=True)
class GroupLosses:
    """Mean losses of a group of heads, and their gradient.

    Attributes
    ----------
    losses : tensor [E, T]
        Not weighted.
    grad : tensor [R, E, T * outputs]
        Of the weighted sum of losses.
    """

    losses: Tensor
    grad: Tensor


def group_losses(loss: Loss, values: Tensor, targets: Tensor, weights: Tensor, missing: bool) -> GroupLosses:
    """Compare ``values`` [R, E, T * outputs] with ``targets`` [R, E, T * d].

    NaN targets are ignored if any may be ``missing``. ``weights`` [T, 1] are the tasks' weights in the loss.
    """
    truth = torch.unflatten(targets, 2, (len(weights), -1))
    mean, *noise = loss.split(torch.unflatten(values, 2, (len(weights), -1)))
    difference = mean - truth
    if not missing:
        factor = weights[..., None] * (1.0 / (truth.shape[0] * truth.shape[3]))
        return GroupLosses(loss.of(difference, *noise).mean((0, 3)), _by_row(loss.gradient(difference, *noise), factor))
    known = ~truth.isnan()
    difference, noise = torch.where(known, difference, 0.0), [torch.where(known, n, 1.0) for n in noise]
    count = known.sum((0, 3)).clamp_(min=1).to(values.dtype)
    losses = loss.of(difference, *noise).sum((0, 3)) / count
    gradient = loss.gradient(difference, *noise)
    if noise:  # whose gradient does not vanish with the difference
        gradient = torch.where(known[..., None, :], gradient, 0.0)
    return GroupLosses(losses, _by_row(gradient, (weights / count[..., None])[..., None]))


def _by_row(gradient: Tensor, factor: Tensor) -> Tensor:
    """Multiply [R, E, T, outputs / d, d] by a factor; return [R, E, T * outputs]."""
    return (gradient * factor).flatten(2)


class Pooling:
    """Pooling of atoms to samples, ``mean``, ``sum`` or ``max``, for one batch.

    Values are outputs of a ReLU, so that zeros change neither sum nor maximum.

    Parameters
    ----------
    how : str
    batch : Batch
    x : tensor [R * E + 1, F + 1]
        Features of every pair, a column of ones, and a row of zeros.
    """

    def __init__(self, how: str, batch: Batch, x: Tensor) -> None:
        self._how, self._batch, self._x = how, batch, x

    def forward(self, out: Tensor) -> None:
        """Fill ``out`` [B, E, F]."""
        pooling, grouped = self._batch.pooling, self._grouped()
        if self._how == "max":
            torch.amax(grouped, 0, out=out)
        elif self._how == "mean" and pooling is None:
            torch.mean(grouped, 0, out=out)
        else:
            torch.sum(grouped, 0, out=out)
            if self._how == "mean" and pooling is not None:
                out.mul_(pooling.inverse)

    def backward(self, out: Tensor, grad: Tensor, total: Tensor) -> None:
        """Add the gradient of the features to ``total`` [R, E, F].

        ``out`` is as `forward` filled it; ``grad`` [B, E, F] is overwritten. Atoms that tie for a maximum share its
        gradient.
        """
        pooling = self._batch.pooling
        if self._how != "max":
            if pooling is None:
                share = self._batch.samples / self._batch.rows if self._how == "mean" else 1.0
                self._spread(total).add_(grad, alpha=share)
            else:
                total.add_(self._gathered(grad.mul_(pooling.inverse) if self._how == "mean" else grad))
            return
        grad.div_((self._grouped() == out).sum(0))
        if pooling is None:
            self._spread(total).addcmul_(self._spread(self._features()) == out, grad)
        else:
            total.addcmul_(self._features() == self._gathered(out), self._gathered(grad))

    def _features(self) -> Tensor:
        batch = self._batch
        return self._x[:-1, :-1].view(batch.rows, batch.members, -1)

    def _grouped(self) -> Tensor:
        """Return the features by sample, [atoms, B, E, F]."""
        batch = self._batch
        if batch.pooling is None:
            return self._spread(self._features())
        rows = batch.pooling.rows
        gathered = self._x[rows.view(-1), :-1]
        return gathered.view(len(rows), batch.samples, batch.members, -1)

    def _spread(self, features: Tensor) -> Tensor:
        """View [R, E, F] by sample, [atoms, B, E, F]."""
        return features.view(-1, self._batch.samples, *features.shape[1:])

    def _gathered(self, values: Tensor) -> Tensor:
        """Give every atom its sample's values: [B, E, F] to [R, E, F]; zeros to padding."""
        batch = self._batch
        flat = values.reshape(batch.samples * batch.members, -1)
        padded = torch.cat([flat, flat.new_zeros(1, flat.shape[1])])
        sample = batch.pooling.sample if batch.pooling is not None else batch.graphs
        return padded[sample].view(batch.rows, batch.members, -1)
