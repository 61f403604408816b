"""Whether a campaign and a data set fit each other; checked before anything is started."""

from __future__ import annotations

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.store import Manifest
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.sections import Folds


def check(campaign: Campaign, manifest: Manifest) -> None:
    """Check the tasks and the training settings of all variants against a data set.

    Raises
    ------
    UserError
        If a task's field is missing, of the other level, constant, or does not hold vectors although it should; if the
        batch size, ``training.samples`` or the folds exceed the samples; or if ``training.engine=fused`` cannot train
        them.
    """
    where = campaign.dataset
    for name, task in campaign.tasks.items():
        target = manifest.targets.get(task.field)
        if target is None:
            raise UserError(
                f"task '{name}': {where} has no target '{task.field}'{nearest(task.field, manifest.targets)}"
            )
        if target.level != task.level:
            raise UserError(
                f"task '{name}': '{task.field}' is a {target.level}-level target, not {task.level}; set"
                f" tasks.{name}.level={target.level}"
            )
        if task.vector and len(target.minimum) % 3:
            raise UserError(
                f"task '{name}': '{task.field}' has {len(target.minimum)} components, which do not form vectors; leave"
                f" tasks.{name}.vector out"
            )
        for k, (low, high) in enumerate(zip(target.minimum, target.maximum, strict=True)):
            if low == high:
                component = f"component {k} of " if len(target.minimum) > 1 else ""
                raise UserError(
                    f"task '{name}': {component}target '{task.field}' is constant ({f'{low:g} {target.unit}'.rstrip()})"
                    f" in {where}: there is nothing to learn; leave the task out"
                )
    _check_training(campaign, manifest)
    for variant in campaign.variants:
        if variant.differs:
            try:
                _check_training(campaign.of_variant(variant), manifest)
            except UserError as error:
                raise UserError(f"variant '{variant.name}': {error}") from error


def _check_training(campaign: Campaign, manifest: Manifest) -> None:
    """Check how tasks are to be trained; the shared settings apply to variants without any of their own."""
    if all(variant.differs for variant in campaign.variants):
        return
    if campaign.training.engine == "fused" and campaign.model.convolution != "PNA":
        raise UserError("training.engine=fused cannot be used: it supports only PNA; set training.engine=auto")
    resample, (n_train, n_validation, _) = campaign.training.resample, manifest.split
    if isinstance(resample, Folds) and resample.folds > n_train + n_validation:
        raise UserError(
            f"training.resample.folds={resample.folds}: {campaign.dataset} has"
            f" {counted(n_train + n_validation, 'sample')} to train and validate on; set fewer folds"
        )
    n_train, _ = campaign.training.split_sizes(n_train, n_validation)
    n_used = campaign.training.trained_on(n_train)
    if n_used > n_train:
        raise UserError(
            f"training.samples={n_used} is more than the training set of {campaign.dataset} has"
            f" ({counted(n_train, 'sample')}); set training.samples=all or less"
        )
    if campaign.training.batch_size > n_used:
        what = (
            f"the training set of {campaign.dataset} ({counted(n_train, 'sample')})"
            if n_used == n_train
            else "training.samples"
        )
        raise UserError(
            f"training.batch_size={campaign.training.batch_size} is larger than {what}; set"
            f" training.batch_size={min(64, n_used)} or less"
        )
