"""Calibrated intervals: quantiles by hand, an overconfident ensemble brought to nominal, dependent atoms, few data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hydragnn_hpc import UserError
from hydragnn_hpc.calibration import (
    FEWEST_STRUCTURES,
    Calibration,
    RunningMoments,
    Scores,
    TaskCalibration,
    check_level,
    task_calibration,
)

LEVELS = (0.5, 0.8, 0.9, 0.95)


def test_one_value_per_structure_gives_the_usual_quantile() -> None:
    scores = np.random.default_rng(0).permutation(99) + 1.0
    found = Scores.of(scores, np.arange(99))
    assert [found.quantile(level) for level in (0.5, 0.9, 0.95, 0.99)] == [50.0, 90.0, 95.0, 99.0]
    assert math.isinf(found.quantile(0.991)) and found.largest_level == 0.99
    for n in (7, 9, 19, 30):
        known = Scores.of(np.arange(1.0, n + 1), np.arange(n))
        for level in LEVELS:
            rank = math.ceil(round((n + 1) * level, 9))
            assert known.quantile(level) == (rank if rank <= n else math.inf), (n, level)


def test_the_correction_counts_structures_however_many_atoms_they_have() -> None:
    scores = np.arange(1.0, 101.0)
    alone, together = Scores.of(scores, np.arange(100)), Scores.of(scores, np.repeat(np.arange(10), 10))
    assert (alone.quantile(0.5), together.quantile(0.5)) == (51.0, 55.0)
    assert together.quantile(0.9) == 99.0 and math.isinf(together.quantile(0.95)) and alone.quantile(0.95) == 96.0


def test_scores_in_another_order_change_nothing() -> None:
    rng = np.random.default_rng(1)
    scores, structure = rng.exponential(size=400).round(2), rng.integers(0, 60, 400)
    order = rng.permutation(400)
    one, other = Scores.of(scores, structure), Scores.of(scores[order], structure[order])
    assert [one.quantile(level) for level in np.linspace(0.01, 0.98, 98)] == [
        other.quantile(level) for level in np.linspace(0.01, 0.98, 98)
    ]


@pytest.mark.parametrize("weights", [None, [0.2, 0.5, 0.3]])
def test_moments_are_those_over_members_at_once(weights: list[float] | None) -> None:
    values = np.random.default_rng(0).normal(1e5, 0.3, (3, 40, 2))
    found = RunningMoments()
    for k, value in enumerate(values):
        found.add(value, 1.0 if weights is None else weights[k])
    w = np.full(3, 1 / 3) if weights is None else np.array(weights)
    mean = np.tensordot(w, values, 1)
    variance = np.tensordot(w, (values - mean) ** 2, 1) / (1 - (w**2).sum())
    assert found.mean == pytest.approx(mean, rel=1e-14) and found.std == pytest.approx(np.sqrt(variance), rel=1e-8)


def planted(
    rng: np.random.Generator, structures: int, sites: int, members: int = 6
) -> tuple[RunningMoments, np.ndarray]:
    """An ensemble whose members share most of their error, which differs in size from site to site: overconfident."""
    rows = structures * sites
    truth, size = rng.normal(size=(rows, 1)), np.exp(0.5 * rng.normal(size=(rows, 1)))
    own = np.repeat(rng.normal(size=(structures, 1)), sites, axis=0)  # what all sites of a structure have in common
    common = size * (0.7 * own + 0.7 * rng.normal(size=(rows, 1)))
    found = RunningMoments()
    for _ in range(members):
        found.add(truth + common + 0.3 * size * rng.normal(size=(rows, 1)))
    return found, truth


@pytest.mark.parametrize("sites", [1, 8])
def test_an_overconfident_ensemble_is_brought_to_nominal(sites: int) -> None:
    """Within three standard deviations: binomial in both parts, with the structure as the unit that is independent."""
    rng, structures = np.random.default_rng(3), 2000
    seen, known = planted(rng, structures, sites)
    offsets = np.arange(structures + 1) * sites
    numbers = None if sites == 1 else np.full(len(known), 26)
    calibration = task_calibration(seen, known, offsets, numbers)
    new, truth = planted(rng, structures, sites)
    error = np.abs(new.mean - truth)
    assert calibration is not None
    for level in LEVELS:
        raw = np.mean(error <= stats.norm.ppf((1 + level) / 2) * new.std)
        covered = np.mean(error <= calibration.widths(level, new.std, numbers))
        assert raw < level - 0.15
        assert abs(covered - level) < 3 * math.sqrt(2 * level * (1 - level) / structures), (level, covered)


def test_a_species_with_enough_structures_has_its_own_quantiles() -> None:
    rng, structures = np.random.default_rng(4), FEWEST_STRUCTURES
    numbers = np.tile([26, 26, 78], structures)
    moments = RunningMoments()
    for shift in (-1.0, 0.0, 1.0):
        moments.add(np.full((3 * structures, 1), shift))  # spread 1
    truth = np.where(numbers == 26, 5.0, 1.0)[:, None] * rng.uniform(0.5, 1.0, (3 * structures, 1))
    offsets = np.arange(structures + 1) * 3
    found = task_calibration(moments, truth, offsets, numbers)
    assert found is not None and set(found.species) == {26, 78}
    widths = found.widths(0.9, np.ones((2, 1)), np.array([26, 78]))[:, 0]
    assert 4.5 < widths[0] <= 5.0 and 0.9 < widths[1] <= 1.0
    truth[:3] = np.nan  # now there is one structure too few
    few = task_calibration(moments, truth, offsets, numbers)
    assert few is not None and not few.species and few.all_values.structures == FEWEST_STRUCTURES - 1
    assert len(set(few.widths(0.9, np.ones((2, 1)), np.array([26, 78])).ravel())) == 1


def test_missing_values_and_members_that_agree_exactly() -> None:
    moments = RunningMoments()
    for _ in range(3):
        moments.add(np.zeros((3, 1)))
    offsets = np.arange(4)
    assert task_calibration(moments, np.full((3, 1), np.nan), offsets, None) is None
    found = task_calibration(moments, np.array([[0.0], [0.0], [1.0]]), offsets, None)
    assert found is not None and found.all_values.quantile(0.5) == 0.0 and math.isinf(found.all_values.quantile(0.75))


def test_tasks_that_are_not_calibrated_are_named() -> None:
    known = TaskCalibration(Scores.of(np.arange(9.0), np.arange(9)))
    found = Calibration({"H": known}, unknown=("C", "M"))
    assert found.remark(0.9) == "no calibrated intervals of C, M: the validation set has no known value"
    assert found.remark(0.99).endswith("; too few structures in the validation set for intervals of level 0.99: H (9)")
    assert not Calibration({"H": known}).remark(0.9)
    many = TaskCalibration(
        Scores.of(np.arange(400.0), np.arange(400)), {26: Scores.of(np.arange(150.0), np.arange(150))}
    )
    assert Calibration({"C": many}).remark(0.995).endswith(": C (150)"), "a species has too few"


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, 90.0, math.nan])
def test_a_level_is_between_0_and_1(level: float) -> None:
    with pytest.raises(UserError, match="give a number between 0 and 1"):
        check_level(level)
