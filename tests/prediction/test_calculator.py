"""The ASE calculator: ASE's names, units and errors, and the numbers of ``Ensemble``."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError, all_properties

from hydragnn_hpc import Ensemble, EnsembleCalculator, UserError
from hydragnn_hpc.prediction import calculator, ensemble
from hydragnn_hpc.prediction.ase_properties import Properties
from hydragnn_hpc.prediction.ensemble import TaskPrediction
from hydragnn_hpc.records.model import ModelTask
from tests.prediction.structures import some

EXAMPLE = Path(__file__).parents[2] / "jobs" / "examples" / "fept_monte_carlo.py"


@pytest.mark.slow
def test_results_are_those_of_the_ensemble(plain: Path) -> None:
    atoms = some(plain.parent)[0]
    predicted = Ensemble(plain).predict(atoms)
    atoms.calc = EnsembleCalculator(plain, energy="H")
    assert atoms.get_potential_energy() == pytest.approx(predicted["H"].mean[0, 0] * units.Ry, rel=1e-6)
    assert np.array_equal(atoms.get_magnetic_moments(), predicted["M"].mean[:, 0])
    assert np.array_equal(atoms.get_charges(), -predicted["C"].mean[:, 0])
    for task, found in predicted.items():
        shape = (len(atoms),) if found.level == "node" else ()
        for name, values in ((task, found.mean), (f"{task}_std", found.std)):
            value = atoms.calc.get_property(name, atoms)
            assert np.shape(value) == shape and np.array_equal(np.ravel(value), values[:, 0])
    for wanted in (atoms.get_forces, atoms.get_stress):
        with pytest.raises(PropertyNotImplementedError):
            wanted()


@pytest.mark.slow
def test_a_mixing_enthalpy_is_an_energy_only_if_it_is_named(plain: Path) -> None:
    atoms = some(plain.parent)[0]
    atoms.calc = EnsembleCalculator(Ensemble(plain))
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_potential_energy()
    with pytest.raises(UserError, match="energy='M': it is a node-level task in 'μB', of width 1; an energy is"):
        EnsembleCalculator(plain, energy="M")
    with pytest.raises(UserError, match="energy='E': the variant has no such task"):
        EnsembleCalculator(plain, energy="E")


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [{"variant": "H"}, {"select": 1}, {"select": "all"}, {"device": "cpu"}, {"level": 0.5}]
)
def test_what_an_ensemble_determines_is_not_ignored_beside_one(plain: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(given))}: an ensemble has its own; give these to Ensemble"):
        EnsembleCalculator(Ensemble(plain), **given)


@pytest.mark.slow
def test_atoms_are_predicted_again_only_where_they_have_changed(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, calls = some(plain.parent)[0], []
    atoms.calc = EnsembleCalculator(plain)
    predict = Ensemble.predict
    monkeypatch.setattr(Ensemble, "predict", lambda self, given: calls.append(1) or predict(self, given))
    first = atoms.get_magnetic_moments()
    atoms.set_initial_magnetic_moments(first)
    atoms.set_initial_charges(np.zeros(len(atoms)))
    assert np.array_equal(atoms.get_magnetic_moments(), first) and len(calls) == 1
    atoms.numbers[0] = 26 if atoms.numbers[0] == 78 else 78
    assert not np.array_equal(atoms.get_magnetic_moments(), first) and len(calls) == 2


@pytest.mark.slow
def test_a_task_with_another_name_is_not_taken_for_forces(ternary: Path) -> None:
    """The task F predicts forces, but does not become ASE's ``forces``."""
    atoms = some(ternary)[0]
    atoms.calc = EnsembleCalculator(ternary / "out")
    assert atoms.calc.get_property("F", atoms).shape == (len(atoms), 3)
    assert not set(atoms.calc.implemented_properties) & set(all_properties)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_forces()


def task(level: str, unit: str, field: str, width: int = 1) -> ModelTask:
    """A task of a model."""
    ends = {"minimum": [0.0] * width, "maximum": [1.0] * width}
    return ModelTask(level=level, unit=unit, label=field, width=width, missing=0, field=field, **ends)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("unit", "field", "factor"),
    [
        ("eV", "energy", 1.0),
        ("Ry", "total_energy", units.Ry),
        ("meV/atom", "energy", 3e-3),
        ("Ha", "formation_energy", None),
        ("eV/Å", "energy", None),
    ],
)
def test_energies_are_totals_in_electronvolts(unit: str, field: str, factor: float | None) -> None:
    properties = Properties({"E": task("graph", unit, field)})
    nothing = [np.full((1, 1), np.nan)] * 3
    values = (np.array([[2.0]]), np.array([[0.5]]), *nothing, np.zeros((2, 1, 1)))
    found = TaskPrediction("E", "graph", unit, *values, np.arange(2))
    energy = properties.energy({"E": found}, 3)
    assert energy == (None if factor is None else pytest.approx((2.0 * factor, 0.5 * factor), rel=1e-6))


def test_no_name_stands_for_two_results() -> None:
    known = Ensemble.__new__(Ensemble)
    tasks = {"E": task("graph", "eV", "energy"), "energy": task("graph", "", "a"), "energy_std": task("graph", "", "b")}
    known.tasks, known.with_noise, known.facts = tuple(tasks), (), SimpleNamespace(tasks=tasks)  # type: ignore[assignment]
    known.calibration = SimpleNamespace(tasks=())  # type: ignore[assignment]
    assert sorted(EnsembleCalculator(known).implemented_properties) == ["E", "E_std", "energy", "energy_std"]


def test_which_tasks_are_charges_and_moments() -> None:
    assert Properties({"C": task("node", "e", "charges"), "M": task("node", "μB", "moment")}).names == (
        "magmoms", "charges",
    )  # fmt: skip
    for tasks in (
        {"C": task("node", "e", "valence")},  # whose sign is not known
        {"M": task("node", "μB", "spin"), "L": task("node", "μB", "orbital")},  # which of them?
        {"M": task("node", "μB", "moments", width=3), "G": task("graph", "μB", "moment")},
    ):
        assert Properties(tasks).names == ()


@pytest.mark.slow
@pytest.mark.parametrize("documented", [ensemble.Ensemble, calculator.EnsembleCalculator])
def test_the_examples_work(documented: type, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(plain)
    ase.io.write(tmp_path / "some.extxyz", some(plain.parent)[:3])
    monkeypatch.chdir(tmp_path)
    examples = [
        e for e in doctest.DocTestFinder(recurse=False).find(documented, documented.__name__, globs={}) if e.examples
    ]
    assert len(examples) == 1 and doctest.DocTestRunner().run(examples[0]).failed == 0


@pytest.mark.slow
def test_monte_carlo_lowers_the_enthalpy_at_the_lowest_temperature(plain: Path, tmp_path: Path) -> None:
    arguments = [str(plain), "--steps", "400", "--walkers", "4", "--out", str(tmp_path / "mc")]
    command = [sys.executable, str(EXAMPLE), *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout
    assert "400 swaps proposed in" in output and (tmp_path / "mc.png").stat().st_size > 10_000
    table = np.genfromtxt(tmp_path / "mc.csv", delimiter=",", names=True)
    assert len(table) == 4 * 101 and table["swaps"].max() == 100
    assert (table["order"] >= 0).all() and (table["order"] <= 1).all() and (table["spread_eV"] > 0).all()
    cold, hot = (table["enthalpy_eV"].reshape(-1, 4)[:, walker] for walker in (0, -1))
    assert cold[-1] < cold[0] and len(np.unique(hot)) > 20


def test_the_order_parameters_of_the_three_stackings_are_independent() -> None:
    """Each of the three stackings of L1_0 has one of its order parameters 1, and the others 0."""
    sys.path.insert(0, str(EXAMPLE.parent))
    from fept_monte_carlo import lattice  # type: ignore[import-not-found]

    sites, signs = lattice()
    assert len(sites) == 32 and np.array_equal(signs @ signs.T, 32 * np.eye(3))
    assert (signs.sum(axis=1) == 0).all()
