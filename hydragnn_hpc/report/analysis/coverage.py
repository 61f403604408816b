"""How many true values of the test set are inside the ensembles' intervals, before and after calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from hydragnn_hpc.calibration import ONE_SIGMA, TaskCalibration
from hydragnn_hpc.report.results.ground_truth import GroundTruth, symbol
from hydragnn_hpc.report.results.load import Results
from hydragnn_hpc.report.results.predictions import EnsembleStatistics

NOMINAL = (0.5, 0.8, 0.9, 0.95)
"""Levels of the intervals whose coverage is shown."""


@dataclass(frozen=True)
class Coverage:
    """Coverage of a variant's intervals of one level on the test set.

    Attributes
    ----------
    variant, task, unit : str
    species : str
        Chemical symbol, for a node-level task; empty for all species together.
    n, structures, values : int
        Numbers of members, of test structures with known values, and of these values.
    level : float
        Nominal coverage of the intervals.
    raw, calibrated : float
        Fraction of true values inside mean ± z(level) std, and inside the calibrated interval.
    width_raw, width_calibrated : float
        Mean half widths of these intervals, in ``unit``; infinite where too few structures calibrate the level.
    """

    variant: str
    task: str
    species: str
    n: int
    structures: int
    values: int
    unit: str
    level: float
    raw: float
    calibrated: float
    width_raw: float
    width_calibrated: float


@dataclass(frozen=True)
class CalibratedTask:
    """A variant's ensemble for one task on the test set, before and after calibration.

    Attributes
    ----------
    error, std : numpy.ndarray
        Absolute error of the ensemble's mean, and standard deviation, shaped as ``ensemble.truth``.
    numbers : numpy.ndarray or None
        ``[A]``, proton numbers of the atoms, at node level.
    """

    ensemble: EnsembleStatistics
    calibration: TaskCalibration
    error: np.ndarray
    std: np.ndarray
    numbers: np.ndarray | None

    def raw(self, level: float) -> np.ndarray:
        """Return the half widths of normal intervals from the members' spread."""
        return np.asarray(ndtri((1 + level) / 2) * self.std)

    def calibrated(self, level: float) -> np.ndarray:
        """Return the half widths of calibrated intervals."""
        return self.calibration.widths(level, self.std, self.numbers)

    @property
    def calibrated_std(self) -> np.ndarray:
        """The calibrated standard deviation."""
        return self.calibrated(ONE_SIGMA)

    def inside(self, widths: np.ndarray, chosen: np.ndarray | None = None) -> float:
        """Return the fraction of true values within ``widths`` of the mean: of all known ones, or of those ``chosen``.

        Both are shaped as ``error``.
        """
        valid = self.ensemble.valid if chosen is None else chosen
        return float(np.mean(self.error[valid] <= widths[valid]))


def calibrated_tasks(results: Results, variants: list[str], test_set: GroundTruth) -> Iterator[CalibratedTask]:
    """Yield the calibrated ensembles of some variants, task by task."""
    for variant in variants:
        calibration = results.calibration(variant)
        for task, own in calibration.tasks.items():
            ensemble = results.collected.ensembles.get((variant, task))
            if ensemble is None or ensemble.std is None or ensemble.n != len(results.finished(variant)):
                continue  # some predictions for the test set could not be read: it is not the same ensemble
            numbers = test_set.atomic_numbers if ensemble.level == "node" else None
            error = np.where(ensemble.valid, np.abs(ensemble.mean - ensemble.truth), np.nan)
            yield CalibratedTask(ensemble, own, error, ensemble.std, numbers)


def coverages(task: CalibratedTask, test_set: GroundTruth) -> Iterator[Coverage]:
    """Yield the coverage of :data:`NOMINAL` levels: of all values, then of every species at node level."""
    each = np.arange(len(test_set.n_atoms))
    structure = each if task.numbers is None else np.repeat(each, test_set.n_atoms)
    species = [] if task.numbers is None else test_set.species().tolist()
    ensemble = task.ensemble
    for number in [None, *(species if len(species) > 1 else [])]:
        chosen = ensemble.valid if number is None else ensemble.valid & (task.numbers == number)[:, None]
        with_value = chosen.any(axis=1)
        if not with_value.any():
            continue
        for level in NOMINAL:
            raw, calibrated = task.raw(level), task.calibrated(level)
            yield Coverage(
                variant=ensemble.variant,
                task=ensemble.task,
                species="" if number is None else symbol(number),
                n=ensemble.n,
                structures=len(np.unique(structure[with_value])),
                values=int(chosen.sum()),
                unit=ensemble.unit,
                level=level,
                raw=task.inside(raw, chosen),
                calibrated=task.inside(calibrated, chosen),
                width_raw=float(np.mean(raw[chosen])),
                width_calibrated=float(np.mean(calibrated[chosen])),
            )
