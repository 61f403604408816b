"""Pooling, heads and losses of a stack, in Triton's kernels: two launches for each group of heads, one to pool.

A third counts the values that are not missing, where any may be. E members have R rows of F features, B samples each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from hydragnn_hpc.member.engine.head_groups import HeadGroup, head_groups
from hydragnn_hpc.member.engine.layout import ParameterLayout
from hydragnn_hpc.member.engine.sizes import NetworkSizes
from hydragnn_hpc.member.triton_engine import head_kernels as kernels
from hydragnn_hpc.member.triton_engine.launch import INTERPRETED, operation
from hydragnn_hpc.member.triton_engine.rows import Rows

ROWS = 128 if INTERPRETED else 16
"""Rows of a tile."""
BLOCK = int(kernels.BLOCK.value)
"""Columns of a block of activations."""
OUT, IN = 16, 32
"""Shape of a tile of a weight's gradient."""
SUMMED = 64
"""Rows that such a tile is summed over at once."""
COUNTED = 512
"""Rows whose known values are counted at once."""
POOLED = 512
"""Features that are pooled at once."""
WIDEST = 128
"""The most features of any layer of a head; those of its output include noise."""
LOSSES = ("mse", "mae", "huber", "nll")
"""Those of `hydragnn_hpc.member.engine.losses` that the kernels have."""


def unsupported(sizes: NetworkSizes) -> str:
    """Return why the kernels cannot compute these heads, ``""`` if they can."""
    for task in sizes.tasks:
        if task.loss.name not in LOSSES:
            return f"they lack the loss {task.loss.name} of task {task.name}"
        if max(width for pair in sizes.linears(task) for width in pair) > WIDEST:
            return f"they support at most {WIDEST} features in each layer of a head, not those of task {task.name}"
    return ""


def last_block(width: int) -> int:
    """Return the width of the only block of a last layer."""
    return int(max(BLOCK, triton.next_power_of_2(width)))


@operation(
    "pool_samples(Tensor features, Tensor start, Tensor length, int stride, str how, Tensor(a!) pooled, "
    "Tensor(b!)? ties) -> ()"
)
def pool_samples(
    features: Tensor, start: Tensor, length: Tensor, stride: int, how: str, pooled: Tensor, ties: Tensor | None
) -> None:
    """Launch `head_kernels.pool_samples`."""
    members, samples, width = pooled.shape
    columns = triton.next_power_of_2(width)
    kernels.pool_samples[(samples, members)](
        features, start, length, pooled, ties, features.shape[1], samples, stride, WIDTH=width, HOW=how,
        TIES=ties is not None, ATOMS=max(1, POOLED // columns), COLUMNS=columns,
    )  # fmt: skip


@operation("count_known(Tensor targets, Tensor index, Tensor count, int width, bool node, Tensor(a!) known) -> ()")
def count_known(targets: Tensor, index: Tensor, count: Tensor, width: int, node: bool, known: Tensor) -> None:
    """Launch `head_kernels.count_known`."""
    members, tasks = known.shape
    kernels.count_known[(tasks, members)](
        targets, index, count, known, index.shape[1], TASKS=tasks, D=width, NODE=node, ROWS=COUNTED
    )


@operation(
    "train_heads(Tensor features, Tensor index, Tensor count, Tensor targets, Tensor? known, Tensor parameters, "
    "Tensor offsets, Tensor weights, Tensor? ties, int[] widths, str loss, float delta, bool node, bool add, "
    "Tensor(a!) kept, Tensor(b!) partial, Tensor(c!) out) -> ()"
)
def train_heads(
    features: Tensor, index: Tensor, count: Tensor, targets: Tensor, known: Tensor | None, parameters: Tensor,
    offsets: Tensor, weights: Tensor, ties: Tensor | None, widths: list[int], loss: str, delta: float, node: bool,
    add: bool, kept: Tensor, partial: Tensor, out: Tensor,
) -> None:  # fmt: skip
    """Launch `head_kernels.train_heads`."""
    members, tasks, tiles = partial.shape
    width = targets.shape[1] // tasks
    kernels.train_heads[(tiles, members)](
        features, index, count, targets, known, parameters, offsets, weights, ties, kept, partial, out,
        features.shape[1], parameters.shape[1], tiles, TASKS=tasks, WIDTHS=tuple(widths),
        KEPT=kept.shape[3], D=width, LOSS=loss, DELTA=delta, LAST=last_block(width), NODE=node,
        MISSING=known is not None, ADD=add, TIES=ties is not None, ROWS=ROWS, num_stages=1,
    )  # fmt: skip


@operation(
    "weights_back(Tensor features, Tensor kept, Tensor count, Tensor plan, Tensor partial, bool node, "
    "Tensor(a!) gradients, Tensor(b!) losses) -> ()"
)
def weights_back(
    features: Tensor, kept: Tensor, count: Tensor, plan: Tensor, partial: Tensor, node: bool, gradients: Tensor,
    losses: Tensor,
) -> None:  # fmt: skip
    """Launch `head_kernels.weights_back`."""
    members, tasks, rows, columns = kept.shape
    kernels.weights_back[(len(plan), members)](
        features, kept, count, plan, partial, gradients, losses, rows, gradients.shape[1], partial.shape[2],
        losses.shape[1], TASKS=tasks, WIDTH=features.shape[2], KEPT=columns, NODE=node, ROWS=SUMMED, OUT=OUT, IN=IN,
    )  # fmt: skip


@operation(
    "predict_heads(Tensor features, Tensor count, Tensor parameters, Tensor offsets, int[] widths, bool node, "
    "Tensor(a!) out) -> ()"
)
def predict_heads(
    features: Tensor, count: Tensor, parameters: Tensor, offsets: Tensor, widths: list[int], node: bool, out: Tensor
) -> None:
    """Launch `head_kernels.predict_heads`."""
    members, rows, values = out.shape
    kernels.predict_heads[(triton.cdiv(rows, ROWS), members)](
        features, count, parameters, offsets, out, rows, parameters.shape[1], TASKS=values // widths[-1],
        WIDTHS=tuple(widths), LAST=last_block(widths[-1]),
        NODE=node, ROWS=ROWS, num_stages=1,
    )  # fmt: skip


@dataclass(frozen=True)
class HeadsBack:
    """What the heads return to the trunk.

    Attributes
    ----------
    losses : tensor [E, T]
        Not weighted, in the order of the tasks.
    node : tensor [E, R, F] or None
        Gradient of the features from heads of atoms; zero in padding.
    pooled : tensor [E, B, F] or None
        Gradient of the pooled features; for a maximum, of each atom that ties for it.
    values : tensor [E, B, F] or None
        The pooled features.
    """

    losses: Tensor
    node: Tensor | None
    pooled: Tensor | None
    values: Tensor | None


class _Group:
    """A group of heads, and where its weights are."""

    def __init__(self, group: HeadGroup, sizes: NetworkSizes, layout: ParameterLayout, like: Tensor) -> None:
        self.node, self.loss, self.width = group.level == "node", group.loss, group.tasks[0].width
        self.widths = [group.widths[0][0], *(out for _, out in group.widths)]
        self.delta = float(getattr(group.loss, "delta", 0.0))
        names = [[f"heads.{task.name}.{k}" for k in range(len(group.widths))] for task in group.tasks]
        offsets = [[[layout.parameters[f"{n}.{kind}"][0] for kind in ("weight", "bias")] for n in own] for own in names]
        self.kept = 2 * sum(self.widths[1:-1]) + self.widths[-1]
        plan = []
        for number, task in enumerate(group.tasks):
            for k, (width, out) in enumerate(group.widths):
                source = sum(self.widths[1:k]) if k else -1
                slopes = sum(self.widths[1:-1]) + sum(self.widths[1 : k + 1])
                for i in range(0, out, OUT):
                    for j in range(0, width, IN):
                        last = k == len(group.widths) - 1 and i == j == 0
                        loss = sizes.tasks.index(task) if last else -1
                        plan.append([*offsets[number][k], out, width, i, j, source, slopes, number, loss])
        self.offsets, self.plan = (torch.tensor(v, dtype=torch.int32, device=like.device) for v in (offsets, plan))
        self.weights = like.new_tensor([task.weight for task in group.tasks])


class Heads:
    """Heads of a network.

    Parameters
    ----------
    sizes : NetworkSizes
    layout : ParameterLayout
    like : Tensor
        An empty tensor of the device and dtype.
    missing : bool
        Whether any target may be NaN.

    Attributes
    ----------
    widest : int
        The most numbers that a head keeps for a row.
    """

    def __init__(self, sizes: NetworkSizes, layout: ParameterLayout, like: Tensor, missing: bool) -> None:
        self._pooling, self._tasks, self._missing = sizes.pooling, len(sizes.tasks), missing
        self._groups = [_Group(group, sizes, layout, like) for group in head_groups(sizes)]
        self.widest = max(group.kept for group in self._groups)

    def train(
        self, features: Tensor, rows: Rows, targets: list[Tensor], parameters: Tensor, gradients: Tensor
    ) -> HeadsBack:
        """Compare with the targets; write the gradients of all weights of the heads to ``gradients`` [E, P].

        Parameters
        ----------
        features : tensor [E, R, F]
            Outputs of a ReLU.
        rows : Rows
        targets : list of tensor
            By group of heads: [A, T * d] of all atoms, or [S, T * d] of all samples; NaN where missing.
        parameters, gradients : tensor [E, P]
        """
        members = len(features)
        losses, (pooled, ties) = features.new_empty(members, self._tasks), self._pool(features, rows, True)
        back: dict[bool, Tensor] = {}
        for group, target in zip(self._groups, targets, strict=True):
            x, index = (features, rows.atoms) if group.node else (pooled, rows.numbers)
            assert x is not None
            add = group.node in back
            out = back.setdefault(group.node, x if add else torch.empty_like(x))
            tasks, tiles = len(group.weights), triton.cdiv(x.shape[1], ROWS)
            known = None
            if self._missing:
                known = torch.empty(members, tasks, dtype=torch.int32, device=x.device)
                count_known(target, index, rows.count, group.width, group.node, known)
            kept, partial = x.new_empty(members, tasks, x.shape[1], group.kept), x.new_empty(members, tasks, tiles)
            train_heads(
                x, index, rows.count, target, known, parameters, group.offsets, group.weights,
                None if group.node else ties, group.widths, group.loss.name, group.delta, group.node, add, kept,
                partial, out,
            )  # fmt: skip
            weights_back(x, kept, rows.count, group.plan, partial, group.node, gradients, losses)
        return HeadsBack(losses, back.get(True), back.get(False), pooled)

    def predict(self, features: Tensor, rows: Rows, parameters: Tensor) -> list[Tensor]:
        """Return the values [E, R, T * outputs] or [E, B, T * outputs] by group of heads; zeros in padding."""
        pooled, _ = self._pool(features, rows, False)
        values = []
        for group in self._groups:
            x = features if group.node else pooled
            assert x is not None
            out = x.new_empty(len(x), x.shape[1], len(group.weights) * group.widths[-1])
            predict_heads(x, rows.count, parameters, group.offsets, group.widths, group.node, out)
            values.append(out)
        return values

    def _pool(self, features: Tensor, rows: Rows, training: bool) -> tuple[Tensor | None, Tensor | None]:
        """Return the pooled features [E, B, F], if a head needs them, and the atoms that tie for each maximum."""
        if all(group.node for group in self._groups):
            return None, None
        pooled = features.new_empty(*rows.numbers.shape, features.shape[2])
        ties = torch.empty_like(pooled) if training and self._pooling == "max" else None
        pool_samples(features, rows.start, rows.length, rows.stride, self._pooling, pooled, ties)
        return pooled, ties
