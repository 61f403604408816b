"""What a campaign has learned: each task's best variant, compared with the baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.rows import Snapshot


@dataclass(frozen=True)
class Headline:
    """The best variant for a task: that with the lowest mean validation error, as the test set must not choose.

    A variant is ranked by its test error only where a result does not state the validation error.

    Attributes
    ----------
    n, n_total : int
        Finished members, and all members.
    rmse, rmse_std : float, float or None
        Test RMSE of a member in ``unit``: mean and standard deviation.
    rmse_of_mean : float or None
        RMSE of the ensemble's mean prediction; None for a single member.
    r2 : float or None
        Mean over members; None where it is not known.
    baseline, rmse_baseline : str, float or None
        The better baseline on the validation set, and its test RMSE in ``unit``; empty and None where it is not known,
        or not to be shown.
    not_learned : int or None
        Members that are no better than the baselines on the validation set.
    """

    task: str
    variant: str
    n: int
    n_total: int
    unit: str
    rmse: float
    rmse_std: float | None
    rmse_of_mean: float | None
    r2: float | None
    baseline: str
    rmse_baseline: float | None
    not_learned: int | None

    @property
    def gain(self) -> float | None:
        """The baseline's error over that of the ensemble's mean, or of a member where that is not known."""
        best = self.rmse if self.rmse_of_mean is None else self.rmse_of_mean
        return self.rmse_baseline / best if self.rmse_baseline is not None and best else None


def headlines(snapshot: Snapshot) -> list[Headline]:
    """Return a headline for every task that a finished member predicts."""
    per_task = []
    content = rows.variant_rows(snapshot)
    for task in snapshot.campaign.tasks:
        own = [(r, r.rmse_unit_mean) for r in content if r.task == task and r.rmse_unit_mean is not None]
        if not own:
            continue
        best, rmse = min(own, key=lambda pair: _validation(snapshot, pair[0]))
        test = validation = None
        if snapshot.baselines:
            test, validation = snapshot.part(task), snapshot.part(task, "validation")
        baseline = validation.better if validation else ""
        per_task.append(
            Headline(
                task=task,
                variant=best.variant,
                n=best.n,
                n_total=best.n_total,
                unit=best.unit,
                rmse=rmse,
                rmse_std=best.rmse_unit_std,
                rmse_of_mean=best.rmse_of_mean,
                r2=best.r2,
                baseline=baseline,
                rmse_baseline=getattr(test, baseline).rmse_unit if test else None,
                not_learned=best.not_learned,
            )
        )
    return per_task


def _validation(snapshot: Snapshot, row: rows.Table1Row) -> float:
    """Return a variant's mean validation error of a task; the test error where a result does not state the former."""
    finished = snapshot.finished(row.variant)
    errors = rows.metrics(finished, row.task, "rmse_validation")
    if len(errors) < len(finished):
        errors = rows.metrics(finished, row.task, "rmse")
    mean = rows.mean_std(errors)[0]
    return math.inf if mean is None else mean
