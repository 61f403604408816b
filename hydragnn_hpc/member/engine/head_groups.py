"""Heads that are computed together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hydragnn_hpc.member.engine.losses import Loss
from hydragnn_hpc.member.engine.resident import resident
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes
from hydragnn_hpc.member.engine.training_data import TrainingData


@dataclass(frozen=True)
class HeadGroup:
    """Heads of the same level, widths and loss, computed together."""

    tasks: tuple[TaskSizes, ...]
    widths: tuple[tuple[int, int], ...]

    @property
    def level(self) -> str:
        """``node`` or ``graph``."""
        return self.tasks[0].level

    @property
    def loss(self) -> Loss:
        """The loss of every head."""
        return self.tasks[0].loss


def head_groups(sizes: NetworkSizes) -> tuple[HeadGroup, ...]:
    """Group the tasks by level, widths and loss."""
    by_kind: dict[tuple[object, ...], list[TaskSizes]] = {}
    for task in sizes.tasks:
        by_kind.setdefault((task.level, task.hidden, task.width, task.loss), []).append(task)
    return tuple(HeadGroup(tuple(tasks), sizes.linears(tasks[0])) for tasks in by_kind.values())


def resident_targets(
    groups: tuple[HeadGroup, ...], data: TrainingData, device: torch.device, dtype: torch.dtype
) -> tuple[list[Tensor], bool]:
    """Return the targets of each group on the device, ``[A, T * d]`` or ``[S, T * d]``, and whether any is missing."""
    by_group = [[data.targets[task.name] for task in group.tasks] for group in groups]
    targets = [resident(np.concatenate(v, axis=1) if len(v) > 1 else v[0], device, dtype) for v in by_group]
    return targets, any(bool(np.isnan(values).any()) for group in by_group for values in group)
