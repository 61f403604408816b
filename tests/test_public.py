"""What users import: the exported names, their documented example, and how little importing the package loads."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import hydragnn_hpc
from hydragnn_hpc.report.results import load
from tests.report import making
from tests.test_imports import loaded_by


def test_every_exported_name_is_there_and_others_are_refused() -> None:
    exported = [name for name in hydragnn_hpc.__all__ if name != "__version__"]
    assert [getattr(hydragnn_hpc, name).__name__ for name in exported] == exported
    assert set(hydragnn_hpc.__all__) <= set(dir(hydragnn_hpc))
    with pytest.raises(AttributeError, match="exports Ensemble, EnsembleCalculator, Results"):
        hydragnn_hpc.train  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import hydragnn_hpc, hydragnn_hpc.errors; hydragnn_hpc.UserError") == set()


def test_ase_lists_the_calculator_among_its_plugins() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "ase", "info", "--plugins"], capture_output=True, text=True, check=True
    )
    own = found.stdout.partition("\nhydragnn_hpc ")[2]
    assert "CalculatorPlugin" in own and own.rstrip().endswith("\nhydragnn_hpc")
    from hydragnn_hpc.prediction.ase_plugin import __ase_plugins__

    assert [plugin() for plugin in __ase_plugins__] == [hydragnn_hpc.EnsembleCalculator]


def test_the_example_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making.make(tmp_path / "runs" / "quickstart", replicas=2, samples=20, epochs=4)
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestFinder().find(load.load, "load", globs={})
    assert examples and examples[0].examples
    assert doctest.DocTestRunner().run(examples[0]).failed == 0
