"""Calibrated intervals of an ensemble: the same from Python, ASE and the command; none without three members."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from scipy import stats

from hydragnn_hpc import Ensemble, EnsembleCalculator
from hydragnn_hpc.prediction.ensemble import CALIBRATED
from tests.campaigns import called, done
from tests.prediction.structures import rows, same, some


@pytest.mark.slow
def test_python_ase_and_the_command_agree_to_the_last_bit(plain: Path) -> None:
    folder = plain.parent
    table = rows(folder, "out-plain", "HCM", "--level", "0.8")
    ensemble = Ensemble(plain, level=0.8)
    predicted = ensemble.predict(some(folder))
    assert set(ensemble.calibration.tasks) == set(predicted)
    for task, prediction in predicted.items():
        for name in CALIBRATED:
            found = [float(row[name]) for row in table if row["task"] == task]
            assert np.array_equal(found, getattr(prediction, name)[:, 0])
    atoms = some(folder)[3]
    atoms.calc = EnsembleCalculator(plain, level=0.8)
    for task, prediction in predicted.items():
        for name in CALIBRATED:
            value = atoms.calc.get_property(f"{task}_{name}", atoms)
            assert np.array_equal(np.ravel(value), getattr(prediction.of(3), name)[:, 0])
    done(folder, "predict", "out-plain", "few.extxyz", "--out", "guess.extxyz")
    guess = ase.io.read(folder / "guess.extxyz", "3")
    expected = Ensemble(plain).predict(atoms)
    assert guess.info["H_low"] == expected["H"].low[0, 0]
    assert np.array_equal(guess.arrays["M_std_calibrated"], expected["M"].std_calibrated[:, 0])


@pytest.mark.slow
def test_intervals_cover_the_validation_set_that_they_are_from(plain: Path) -> None:
    """The command predicts what the worker kept for the validation set, and the intervals hold their level."""
    truth = np.load(plain / "validation_set.npz")
    folder = plain.parent
    done(folder, "predict", "out-plain", "raw", "--out", "raw.csv", "--level", "0.5")
    table = np.genfromtxt(folder / "raw.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    own = table[(table["task"] == "H") & np.isin(table["sample"], truth["names"])]
    place = {name: k for k, name in enumerate(truth["names"].tolist())}
    order = [place[name] for name in own["sample"].tolist()]
    members = np.array([np.load(p)["H"][order, 0] for p in sorted(plain.glob("members/HCM/*/validation.npz"))])
    assert own["mean"] == pytest.approx(members.mean(axis=0), rel=1e-4, abs=1e-5)
    values = truth["mixing_enthalpy"][order, 0]
    rounding = 1e-6  # of the structure whose error is the interval's half-width, predicted here in another batch
    inside = np.mean((own["low"] - rounding <= values) & (values <= own["high"] + rounding))
    assert 0.5 <= inside <= 0.5 + 2 / len(order)
    raw = np.mean(np.abs(own["mean"] - values) <= stats.norm.ppf(0.75) * own["std"])
    assert raw < 0.5  # so there was something to calibrate


@pytest.mark.slow
def test_the_order_and_the_number_of_structures_change_nothing(plain: Path) -> None:
    structures, ensemble = some(plain.parent), Ensemble(plain)
    forwards, backwards = ensemble.predict(structures), ensemble.predict(structures[::-1])
    for task in ensemble.tasks:
        for number, atoms in enumerate(structures):
            one, other = forwards[task].of(number), backwards[task].of(-1 - number)
            assert same(one, other) and same(one, ensemble.predict(atoms)[task])
            assert (one.low < one.mean).all() and (one.mean < one.high).all()


@pytest.mark.slow
def test_the_calibration_is_that_of_the_members_in_use(plain: Path) -> None:
    atoms = some(plain.parent)[0]
    every, weighted = Ensemble(plain), Ensemble(plain, select="validation")
    assert every.predict(atoms)["H"].high != weighted.predict(atoms)["H"].high
    two = Ensemble(plain, select=2)
    assert two.calibration.why_not == "calibration needs 3 members, and there are 2"
    assert np.isnan(two.predict(atoms)["M"].low).all()
    assert not [name for name in EnsembleCalculator(two).implemented_properties if "calibrated" in name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("", ("--select", "2"), "HCM: no calibrated intervals: calibration needs 3 members, and there are 2"),
        ("", ("--level", "0.99999"), "too few structures in the validation set for intervals of level 0.99999: H ("),
        ("validation_set.npz", (), "no validation_set.npz (imported, or removed)"),
        (
            "members/HCM/01/validation.npz",
            (),
            "HCM/01 has no validation.npz (imported, ",
        ),
    ],
)
def test_where_there_is_no_calibration_a_line_says_why(
    plain: Path, change: str, options: tuple[str, ...], message: str
) -> None:
    folder = plain.parent
    some(folder)
    out = folder / "out-without"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(plain, out)
    if change:
        (out / change).unlink()
    found = called(folder, "predict", "out-without", "few.extxyz", "--out", "few.csv", *options)
    assert found.returncode == 0 and message in found.stderr
    row = next(csv.DictReader((folder / "few.csv").open()))
    ends = [row[name] for name in CALIBRATED]
    assert ends[1:] == ["-inf", "inf"] if "--level" in options else ends == ["", "", ""]


def test_a_damaged_file_and_an_invalid_level_are_reported_in_one_line(plain: Path) -> None:
    found = called(plain.parent, "predict", "out-plain", "raw", "--level", "90")
    assert found.returncode == 2 and "level 90: give a number between 0 and 1" in found.stderr
    path = plain / "members" / "HCM" / "00" / "validation.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    try:
        assert "cannot read" in Ensemble(plain).calibration.why_not
    finally:
        path.write_bytes(whole)
