"""The network in plain torch, for E members at once: a trunk of PNA layers, heads, losses.

PNA (Corso et al., NeurIPS 2020) as in PyTorch Geometric, with the algebra folded. A message is linear in both ends,
``W [x_i, x_j] + b = W1 x_i + W2 x_j + b``, so ``W2 x`` is multiplied per node and aggregated; the receiver's own part
shifts mean, minimum and maximum and leaves the deviation alone. What follows is linear too: with ``T = lin post`` split
into a part for x and one block ``T_s`` per scaler s, and ``z = [mean, min, max, std of W2 x_j, x_i]``, ::

    out_i = T_x x_i + c + sum_s scale_s(degree_i) (U_s z_i + d_s)
    U_s = [T_s, (T_s,mean + T_s,min + T_s,max) W1],   d_s = (T_s,mean + T_s,min + T_s,max) b

Rows without neighbours have all scales zero: they receive nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hydragnn_hpc.member.aggregate import Aggregate, NeighbourTable
from hydragnn_hpc.member.fused.sizes import NetworkSizes, TaskSizes

Named = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """What E members see in one step; each member has N rows (atoms) of B samples, padded to the longest.

    Attributes
    ----------
    inputs : torch.Tensor
        ``[E, N, F0]``.
    table : NeighbourTable
        Over all E N rows.
    scales : torch.Tensor
        ``[E, N, 4, 1]`` degree scalers: identity, amplification, attenuation, linear; zeros without neighbours.
    valid : torch.Tensor or None
        ``[E, N, 1]``, 1 for atoms, 0 for padding; None where there is none.
    atoms : torch.Tensor
        ``[E, B, n]`` int64: each sample's rows within its member; padded with N.
    n_atoms : torch.Tensor
        ``[E, B, 1]`` atoms of each sample.
    uniform : bool
        Every sample has n atoms, in order: rows can be viewed as ``[E, B, n]``.
    """

    inputs: torch.Tensor
    table: NeighbourTable
    scales: torch.Tensor
    valid: torch.Tensor | None
    atoms: torch.Tensor
    n_atoms: torch.Tensor
    uniform: bool


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply every member's matrices: ``[E, M, K]`` and ``[E, K, N]``.

    With K = 1 by broadcasting: the gradient would be a product of single numbers, for which the library takes another
    path for one matrix than for many, and a member would not be the same, bit for bit, alone and in a stack.
    """
    return a * b if a.shape[-1] == 1 else a @ b


def times_vector(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply every member's matrix ``[E, M, K]`` and vector ``[E, K]``; by sums, for the reason given above."""
    return (a * b[:, None]).sum(2)


def linear(x: torch.Tensor, named: Named, name: str) -> torch.Tensor:
    """Apply every member's own linear layer: ``[E, N, in]`` to ``[E, N, out]``."""
    weight = named[f"{name}.weight"]
    if weight.shape[1] == 1:  # as in times_vector
        return (x * weight).sum(2, keepdim=True) + named[f"{name}.bias"][:, None]
    return torch.baddbmm(named[f"{name}.bias"][:, None], x, weight.mT)


def convolve(x: torch.Tensor, named: Named, name: str, batch: Batch) -> torch.Tensor:
    """Apply one PNA layer: ``[E, N, F]`` to ``[E, N, out]`` (the module's docstring derives it)."""
    members, rows, width = x.shape
    pre, post = named[f"{name}.pre_nns.0.0.weight"], named[f"{name}.post_nns.0.0.weight"]
    lin, pre_bias = named[f"{name}.lin.weight"], named[f"{name}.pre_nns.0.0.bias"]
    out = lin.shape[1]
    folded = lin @ post
    blocks = (
        folded[:, :, width:].reshape(members, out, 4, 4 * width).transpose(1, 2).reshape(members, 4 * out, 4 * width)
    )
    shift = blocks[:, :, : 3 * width].reshape(members, 4 * out, 3, width).sum(2)
    weights = torch.cat([blocks, product(shift, pre[:, :, :width])], 2)
    offsets = times_vector(shift, pre_bias)
    constant = times_vector(lin, named[f"{name}.post_nns.0.0.bias"]) + named[f"{name}.lin.bias"]

    sent = product(x, pre[:, :, width:].mT)
    gathered = Aggregate.apply(sent.reshape(members * rows, width), batch.table)  # type: ignore[no-untyped-call]
    z = torch.cat([gathered.view(members, rows, 4 * width), x], 2)
    scaled = torch.baddbmm(offsets[:, None], z, weights.mT).view(members, rows, 4, out)
    received = (scaled * batch.scales).sum(2)
    return product(x, folded[:, :, :width].mT) + constant[:, None] + received


class _NormRelu(torch.autograd.Function):
    """Batch normalisation over each member's atoms, then ReLU; also returns mean and biased variance."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, valid: torch.Tensor | None, epsilon: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if valid is None:
            variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        else:
            count = valid.sum(1, keepdim=True)
            mean = (x * valid).sum(1, keepdim=True) / count
            variance = ((x - mean).square() * valid).sum(1, keepdim=True) / count
        inverse = (variance + epsilon).rsqrt()
        normal = (x - mean) * inverse
        y = torch.addcmul(bias[:, None], normal, weight[:, None]).relu_()
        if valid is not None:
            y.mul_(valid)
        ctx.save_for_backward(normal, y, inverse, weight, valid)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normal, y, inverse, weight, valid = ctx.saved_tensors
        g = gradients[0] * (y > 0)  # padding has y = 0, so it sends nothing back
        g_bias = g.sum(1, keepdim=True)
        g_weight = (g * normal).sum(1, keepdim=True)
        count = float(y.shape[1]) if valid is None else valid.sum(1, keepdim=True)
        g_x = torch.addcmul(g - g_bias / count, normal, g_weight / count, value=-1).mul_(inverse * weight[:, None])
        if valid is not None:
            g_x.mul_(valid)
        return g_x, g_weight[:, 0], g_bias[:, 0], None, None


def normalise_fixed(
    x: torch.Tensor, named: Named, buffers: Named, name: str, batch: Batch, epsilon: float
) -> torch.Tensor:
    """Normalise ``[E, N, F]`` by the running statistics, then ReLU."""
    scale = named[f"{name}.weight"] * (buffers[f"{name}.running_var"] + epsilon).rsqrt()
    shift = named[f"{name}.bias"] - buffers[f"{name}.running_mean"] * scale
    y = torch.addcmul(shift[:, None], x, scale[:, None]).relu_()
    return y if batch.valid is None else y * batch.valid


def normalise(
    x: torch.Tensor, named: Named, buffers: Named, name: str, batch: Batch, sizes: NetworkSizes
) -> torch.Tensor:
    """Batch-normalise ``[E, N, F]`` per member, then ReLU; the running statistics are updated in place."""
    weight, bias = named[f"{name}.weight"], named[f"{name}.bias"]
    running_mean, running_var = buffers[f"{name}.running_mean"], buffers[f"{name}.running_var"]
    y, mean, variance = _NormRelu.apply(x, weight, bias, batch.valid, sizes.epsilon)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        count = x.shape[1] if batch.valid is None else batch.valid.sum(1)
        running_mean.lerp_(mean[:, 0], sizes.momentum)
        running_var.lerp_(variance[:, 0] * (count / (count - 1)), sizes.momentum)
    result: torch.Tensor = y
    return result


def pool(x: torch.Tensor, batch: Batch, how: str) -> torch.Tensor:
    """Pool ``[E, N, F]`` over the atoms of each sample: ``[E, B, F]``."""
    members, _, width = x.shape
    _, samples, most = batch.atoms.shape
    if batch.uniform:
        grouped = x.view(members, samples, most, width)
        if how == "max":
            return grouped.amax(2)
        return grouped.sum(2) if how == "sum" else grouped.mean(2)
    # Values after a ReLU are not negative, so that the zeros of the padding change neither sum nor maximum.
    padded = torch.cat([x, x.new_zeros(members, 1, width)], 1)
    atoms = batch.atoms.reshape(members, samples * most, 1).expand(-1, -1, width)
    grouped = padded.gather(1, atoms).view(members, samples, most, width)
    if how == "max":
        return grouped.amax(2)
    total = grouped.sum(2)
    return total if how == "sum" else total / batch.n_atoms


def head(x: torch.Tensor, named: Named, task: TaskSizes) -> torch.Tensor:
    """Apply a task's fully connected layers to ``[E, rows, F]``."""
    last = len(task.hidden)
    for k in range(last + 1):
        x = linear(x, named, f"heads.{task.name}.{k}")
        if k < last:
            x = torch.relu(x)
    return x


def forward(batch: Batch, named: Named, buffers: Named, sizes: NetworkSizes, training: bool) -> dict[str, torch.Tensor]:
    """Return every task's predictions: ``[E, N, d]`` at node level, ``[E, B, d]`` at graph level, scaled."""
    x = batch.inputs
    for layer in range(len(sizes.channels)):
        x = convolve(x, named, f"trunk.{layer}.conv", batch)
        norm = f"trunk.{layer}.norm"
        if training:
            x = normalise(x, named, buffers, norm, batch, sizes)
        else:
            x = normalise_fixed(x, named, buffers, norm, batch, sizes.epsilon)
    needs_pool = any(t.level == "graph" for t in sizes.tasks)
    pooled = pool(x, batch, sizes.pooling) if needs_pool else x
    return {t.name: head(pooled if t.level == "graph" else x, named, t) for t in sizes.tasks}


def losses(
    predicted: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], sizes: NetworkSizes
) -> torch.Tensor:
    """Return per-task mean squared errors ``[E, T]``; values whose target is NaN do not count."""
    found = []
    for task in sizes.tasks:
        target = targets[task.name]
        known = ~target.isnan()
        squared = torch.where(known, predicted[task.name] - target.nan_to_num(0.0), 0.0).square()
        found.append(squared.sum((1, 2)) / known.sum((1, 2)).clamp(min=1))
    return torch.stack(found, 1)
