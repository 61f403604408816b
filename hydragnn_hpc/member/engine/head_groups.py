"""Heads that are computed together."""

from __future__ import annotations

from dataclasses import dataclass

from hydragnn_hpc.member.engine.losses import Loss
from hydragnn_hpc.member.engine.sizes import NetworkSizes, TaskSizes


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
