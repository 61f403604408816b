"""``predict --evaluate``: errors, R² and coverage are those of all values at once, whatever the batch, key and unit."""

from __future__ import annotations

import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from scipy import stats

from hydragnn_hpc import Ensemble, TaskPrediction
from hydragnn_hpc.prediction.evaluation import TaskScores
from tests.campaigns import called
from tests.prediction.structures import some


def lines(stderr: str) -> dict[str, str]:
    """The evaluation by task."""
    return {found[1]: found[2] for found in re.finditer(r"HCM (\w): (.*)", stderr)}


@pytest.fixture
def labelled(plain: Path) -> Path:
    """Structures with the values of their data set, as ``data convert`` writes them."""
    some(plain.parent)
    frames = ase.io.read(plain.parent / "raw.extxyz", "::7")
    ase.io.write(plain.parent / "labelled.extxyz", frames)
    return plain.parent / "labelled.extxyz"


@pytest.mark.slow
def test_errors_and_coverage_are_those_of_all_values_at_once(plain: Path, labelled: Path) -> None:
    """A value under another key and in another unit is converted."""
    frames = ase.io.read(labelled, ":")
    for frame in frames:
        frame.info["mine"] = float(frame.info["total_energy"]) * units.Ry  # in eV
    ase.io.write(plain.parent / "mine.extxyz", frames)
    where = ("--target", "magnetic_moment=node:magnetic_moment:muB", "--target", "mixing_enthalpy=graph:mine:eV")
    found = called(plain.parent, "predict", "out-plain", "mine.extxyz", "--evaluate", "--out", "few.csv", *where)
    assert found.returncode == 0, found.stderr
    shown = lines(found.stderr)
    predicted = Ensemble(plain).predict(frames)
    truth = {
        "M": np.concatenate([a.arrays["magnetic_moment"] for a in frames])[:, None],
        "H": np.array([[a.info["total_energy"]] for a in frames], float),
    }
    for task, unit in (("M", "μB"), ("H", "Ry")):
        own, known = predicted[task], truth[task]
        error = own.mean - known
        r2 = 1 - (error**2).sum() / ((known - known.mean()) ** 2).sum()
        raw = np.mean(np.abs(error) <= stats.norm.ppf(0.95) * own.std)
        calibrated = np.mean((own.low <= known) & (known <= own.high))
        assert shown[task] == (
            f"{known.size:,} values, RMSE {np.sqrt((error**2).mean()):.4g} {unit}; MAE {np.abs(error).mean():.4g}"
            f" {unit}; R² {r2:.4f}; inside the 90% interval: {raw:.1%} raw, {calibrated:.1%} calibrated"
        )
    assert shown["C"] == "no known value"


def test_batches_are_added_up_exactly() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(50, 2, (90, 3))
    truth[rng.random((90, 3)) < 0.2] = np.nan
    whole, parts = TaskScores(), TaskScores()

    def prediction(rows: np.ndarray) -> TaskPrediction:
        values = np.full((len(rows), 3), 50.0)
        spread = np.ones_like(values)
        ends = (spread, values - 3, values + 3)
        return TaskPrediction("t", "graph", "eV", values, spread, *ends, values[None], np.arange(len(rows) + 1))

    whole.add(prediction(truth), truth, 0.9)
    for rows in np.split(truth, [1, 7, 40]):
        parts.add(prediction(rows), rows, 0.9)
    assert parts.line("eV", 0.9, True, 3) == whole.line("eV", 0.9, True, 3)
    assert "inside the 99.5% interval" in whole.line("eV", 0.995, True, 3)
    variance = np.nansum((truth - np.nanmean(truth, axis=0)) ** 2)
    assert f"R² {1 - np.nansum((truth - 50) ** 2) / variance:.4f}" in whole.line("eV", 0.9, True, 3)


@pytest.mark.slow
def test_lsms_text_names_its_own_columns(plain: Path) -> None:
    found = called(plain.parent, "predict", "out-plain", "raw", "--evaluate", "--out", "few.csv")
    shown = lines(found.stderr)
    assert " values, RMSE " in shown["M"] and " values, RMSE " in shown["C"]
    assert shown["H"] == "no known value (derived from end members: use data prepare)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no structure holds a value of any task under its target's name; say where with --target"),
        (("--target", "moment=node:m:muB"), "--target moment: the models predict no such target; did you mean"),
        (("--target", "magnetic_moment=graph:m:muB"), "the models predict it at node level, not graph"),
        (("--target", "magnetic_moment=node:m:e"), "values in e cannot be compared with predictions in μB"),
    ],
)
def test_what_cannot_be_compared_is_reported_in_one_line(plain: Path, options: tuple[str, ...], message: str) -> None:
    some(plain.parent)
    found = called(plain.parent, "predict", "out-plain", "few.extxyz", "--evaluate", "--out", "few.csv", *options)
    errors = [line for line in found.stderr.splitlines() if "error" in line]
    assert found.returncode == 2 and len(errors) == 1 and message in errors[0], found.stderr


@pytest.mark.slow
def test_mixing_enthalpies_are_not_derived_here(ternary: Path) -> None:
    target = ("--target", "mixing_enthalpy=mixing:energy:eV")
    found = called(ternary, "predict", "out", "raw.extxyz", "--evaluate", "--out", "few.csv", *target)
    assert found.returncode == 2 and "where with --target" not in found.stderr, found.stderr
    assert "--evaluate: mixing_enthalpy: the source holds total energies, and only data prepare" in found.stderr


def test_a_target_without_evaluate_is_refused(plain: Path) -> None:
    some(plain.parent)
    found = called(plain.parent, "predict", "out-plain", "few.extxyz", "--target", "magnetic_moment=node:m:muB")
    assert found.returncode == 2 and "--target is for --evaluate; give both" in found.stderr
