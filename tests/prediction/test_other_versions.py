"""Between versions of the packages: an archive made here predicts the same in another environment."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest

from tests.campaigns import done


@pytest.mark.versions
def test_an_archive_predicts_the_same_with_other_versions(plain: Path, pytestconfig: pytest.Config) -> None:
    folder = plain.parent
    done(folder, "archive", "out-plain", "for-others", "--license", "CC-BY-4.0")
    done(folder, "predict", "out-plain", "raw", "--out", "own.csv")
    other = pytestconfig.getoption("--other-python")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    line = [other, "-m", "hydragnn_hpc", "predict", "for-others", "raw", "--out", "other.csv"]
    found = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stderr
    own, others = (list(csv.DictReader((folder / name).open(newline=""))) for name in ("own.csv", "other.csv"))
    assert len(own) == len(others) > 1000 and own[0].keys() == others[0].keys()
    for here, there in zip(own, others, strict=True):
        for column, text in here.items():
            if column in ("mean", "std", "std_calibrated", "low", "high"):
                assert float(there[column]) == pytest.approx(float(text), rel=1e-6, abs=1e-9), here
            elif column in ("distance", "distance_quantile"):
                assert float(there[column]) == pytest.approx(float(text), rel=1e-4, abs=1e-6), here
            else:
                assert there[column] == text, here
