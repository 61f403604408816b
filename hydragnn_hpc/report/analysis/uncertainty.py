"""The ensemble as a predictor: what its mean gains over single members, and how well its spread predicts errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from hydragnn_hpc.report.results.ground_truth import GroundTruth
from hydragnn_hpc.report.results.predictions import EnsembleStatistics

LEVELS = np.round(np.arange(0.05, 1.0, 0.05), 2)
"""Confidence levels of the calibration curve."""
GROUPS = 10
"""Number of groups by spread, of which errors are compared with spreads."""
SHOWN = 5
"""Number of least certain compositions."""


@dataclass(frozen=True)
class CompositionSpread:
    """Samples of one composition: their number, and mean spread and RMSE of the ensemble's mean in the task's unit.

    ``rmse`` is None if no true value is known.
    """

    formula: str
    samples: int
    spread: float
    rmse: float | None


@dataclass(frozen=True)
class Uncertainty:
    """The ensemble of a variant for one task, in the task's unit.

    Attributes
    ----------
    rmse_mean_member, rmse_best_member, rmse_ensemble : float
        Test RMSE: mean and smallest over members; of the ensemble's mean prediction.
    spread : float
        Root mean square over the test set of the members' standard deviation (ddof = 1), including the noise where
        they predict one.
    noise : float or None
        Root mean square of that noise.
    pearson, spearman : float or None
        Correlation of spread and absolute error of the ensemble's mean, over all values.
    coverage : numpy.ndarray
        Fraction of true values within the central normal interval of each confidence level in :data:`LEVELS`.
    calibration_error : float
        Expected calibration error: mean of ``|coverage - level|``. A spread over initial weights alone
        reflects neither noise nor the limits of the model, and is expected to be too small.
    groups : numpy.ndarray
        ``[k, 2]``: (spread, error), both root mean square, in groups of equal size ordered by spread.
    least_certain : list of CompositionSpread
        The compositions with the largest mean spread.
    """

    variant: str
    task: str
    unit: str
    n: int
    rmse_mean_member: float
    rmse_best_member: float
    rmse_ensemble: float
    spread: float
    noise: float | None
    pearson: float | None
    spearman: float | None
    coverage: np.ndarray
    calibration_error: float
    groups: np.ndarray
    least_certain: list[CompositionSpread]


def assess(ensemble: EnsembleStatistics, test_set: GroundTruth) -> Uncertainty | None:
    """Assess the ensemble of a variant for one task; None for fewer than two members."""
    std = ensemble.std
    if std is None:
        return None
    error = np.where(ensemble.valid, ensemble.mean - ensemble.truth, np.nan)
    absolute, spread = np.abs(error[ensemble.valid]), std[ensemble.valid]
    coverage = coverage_of(absolute, spread)
    return Uncertainty(
        variant=ensemble.variant,
        task=ensemble.task,
        unit=ensemble.unit,
        n=ensemble.n,
        rmse_mean_member=float(np.mean(ensemble.rmse)),
        rmse_best_member=min(ensemble.rmse),
        rmse_ensemble=_rms(absolute),
        spread=_rms(spread),
        noise=None if ensemble.noise is None else _rms(ensemble.noise[ensemble.valid]),
        pearson=_correlation(stats.pearsonr, spread, absolute),
        spearman=_correlation(stats.spearmanr, spread, absolute),
        coverage=coverage,
        calibration_error=float(np.mean(np.abs(coverage - LEVELS))),
        groups=_groups(absolute, spread),
        least_certain=_least_certain(ensemble, error, std, test_set),
    )


def coverage_of(absolute: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return the fraction of absolute errors within ``z(level) * spread``, for every level of :data:`LEVELS`."""
    return np.array([float(np.mean(absolute <= stats.norm.ppf((1 + level) / 2) * spread)) for level in LEVELS])


def _groups(absolute: np.ndarray, spread: np.ndarray) -> np.ndarray:
    parts = np.array_split(np.argsort(spread, kind="stable"), min(GROUPS, len(spread)))
    return np.array([(_rms(spread[p]), _rms(absolute[p])) for p in parts])


def _least_certain(
    ensemble: EnsembleStatistics, error: np.ndarray, std: np.ndarray, test_set: GroundTruth
) -> list[CompositionSpread]:
    if ensemble.level == "node":
        counts = np.maximum(test_set.n_atoms, 1)
        spread = np.sqrt(test_set.total(std**2).mean(axis=1) / counts)
        known = test_set.total(ensemble.valid.astype(np.int64)).sum(axis=1)
        squared = test_set.total(np.nan_to_num(error) ** 2).sum(axis=1)
    else:
        spread, known = np.sqrt((std**2).mean(axis=1)), ensemble.valid.sum(axis=1)
        squared = np.nan_to_num(error**2).sum(axis=1)
    formulas, group = np.unique(test_set.formulas(), return_inverse=True)
    samples = np.bincount(group)
    mean = np.bincount(group, spread) / samples
    known, squared = np.bincount(group, known), np.bincount(group, squared)
    rmse = [math.sqrt(s / n) if n else None for s, n in zip(squared.tolist(), known.tolist(), strict=True)]
    order = np.argsort(-mean, kind="stable")[:SHOWN].tolist()
    return [CompositionSpread(str(formulas[k]), int(samples[k]), float(mean[k]), rmse[k]) for k in order]


def _correlation(function: Callable[..., Any], a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(function(a, b).statistic)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
