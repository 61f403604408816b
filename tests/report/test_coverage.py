"""Coverage before and after calibration, in the tables, on the page and in the figure."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from hydragnn_hpc.report.analysis.content import gather
from hydragnn_hpc.report.results.load import load
from hydragnn_hpc.report.tables.registry import write_tables
from tests.campaigns import without_figures
from tests.report import making
from tests.report.rendering import Rendered, render


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Members that share most of their error, and are overconfident; of variant H only two have finished."""
    out = tmp_path_factory.mktemp("coverage") / "calibrated"
    states = {"H/02": "failed"}
    return render(out, variants=("HC", "H"), replicas=3, samples=400, epochs=4, validation=True, states=states)


def table(rendered: Rendered) -> list[dict[str, str]]:
    return list(csv.DictReader((rendered.folder.table("calibration", "csv")).open()))


def test_an_overconfident_ensemble_is_brought_to_nominal(calibrated: Rendered) -> None:
    rows = table(calibrated)
    groups = [("H", ""), ("C", ""), ("C", "Fe"), ("C", "Pt")]
    assert [(r["task"], r["species"], r["level"]) for r in rows] == [
        (*group, str(level)) for group in groups for level in (0.5, 0.8, 0.9, 0.95)
    ]
    for row in rows:
        level, raw, covered = (float(row[name]) for name in ("level", "raw", "calibrated"))
        assert row["variant"] == "HC" and row["n"] == "3" and raw < level - 0.1
        bound = 3 * math.sqrt(2 * level * (1 - level) / int(row["structures"]))  # binomial, of both parts
        assert abs(covered - level) < bound, row
        assert float(row["width_calibrated"]) > float(row["width_raw"])
    assert int(rows[4]["values"]) == 400 * making.SITES == int(rows[8]["values"]) + int(rows[12]["values"])


def test_a_width_without_a_bound_is_a_missing_value(tmp_path: Path) -> None:
    """Twelve structures of the validation set cannot bound the errors of 95 % of all structures."""
    out = making.make(tmp_path / "few", variants=("H",), replicas=3, samples=12, epochs=4, validation=True)
    write_tables(gather(out).results)
    rows = list(csv.DictReader((out / "report" / "calibration.csv").open()))
    assert [row["width_calibrated"] == "" for row in rows] == [False, False, False, True]


def test_the_table_counts_by_hand(calibrated: Rendered) -> None:
    """The median score of the validation set, and how many of the test set it covers."""
    root = calibrated.folder.root
    parts = []
    for truth, file in (("validation_set.npz", "validation.npz"), ("test_set.npz", "predictions.npz")):
        members = np.array([np.load(p)["H"] for p in sorted(root.glob(f"members/HC/*/{file}"))])
        error = np.abs(members.mean(axis=0) - np.load(root / truth)["mixing_enthalpy"])
        parts.append((error / members.std(axis=0, ddof=1))[:, 0])
    factor = np.sort(parts[0])[math.ceil(401 * 0.5) - 1]
    row = table(calibrated)[0]
    assert float(row["calibrated"]) == np.mean(parts[1] <= factor)
    assert float(row["raw"]) == np.mean(parts[1] <= 0.6744897501960817)


def test_page_summary_and_figures_show_the_coverage(calibrated: Rendered) -> None:
    page, summary = calibrated.folder.page.read_text("utf-8"), json.loads(calibrated.folder.summary.read_text("utf-8"))
    assert "Coverage before and after calibration" in page and "nor outside that distribution" in page
    assert "No calibrated intervals of H: calibration needs 3 members, and there are 2." in page
    assert [row["calibrated"] for row in summary["calibration"]] == [float(r["calibrated"]) for r in table(calibrated)]
    figures = {path.stem for path in calibrated.folder.figures.glob("*.png")}
    assert {"reliability_H", "reliability_C"} <= figures
    assert all(calibrated.folder.table("calibration", suffix).stat().st_size for suffix in ("md", "tex"))


def test_without_validation_predictions_there_is_no_table_and_the_page_says_why(tmp_path: Path) -> None:
    with without_figures():
        found = render(tmp_path / "older", variants=("H",), replicas=3, samples=20, epochs=4)
    assert not found.folder.table("calibration", "csv").exists() and not load(found.folder.root).coverages
    assert "No calibrated intervals of H: no validation_set.npz" in found.folder.page.read_text("utf-8")
