"""Whether a campaign and a data set fit each other; checked before anything is started."""

from __future__ import annotations

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.store import Manifest
from hydragnn_hpc.errors import UserError, nearest


def check(campaign: Campaign, manifest: Manifest) -> None:
    """Hold a campaign's tasks and batch size to a data set.

    Raises
    ------
    UserError
        If a task's field is missing, of the other level, or constant, or a batch is larger than the training part.
    """
    where = campaign.dataset
    for name, task in campaign.tasks.items():
        target = manifest.targets.get(task.field)
        if target is None:
            raise UserError(
                f"task '{name}': {where} has no target '{task.field}'{nearest(task.field, manifest.targets)}"
            )
        if target["level"] != task.level:
            raise UserError(
                f"task '{name}': '{task.field}' is a {target['level']}-level target, not {task.level}; set"
                f" tasks.{name}.level={target['level']}"
            )
        for low, high in zip(target["minimum"], target["maximum"], strict=True):
            if low == high:
                raise UserError(
                    f"task '{name}': target '{task.field}' is constant ({low:g} {target['unit']}) in {where}: there is"
                    " nothing to learn; leave the task out"
                )
    n_train = manifest.split_counts[0]
    if campaign.training.batch_size > n_train:
        raise UserError(
            f"training.batch_size={campaign.training.batch_size} is larger than the training part of {where}"
            f" ({n_train} samples); set training.batch_size={min(64, n_train)} or less"
        )
