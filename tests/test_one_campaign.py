"""One campaign on two ranks, from raw files to the report: the shortest test of everything together."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests import campaigns

BIN = Path(sys.executable).parent


@pytest.mark.mpi
def test_a_campaign_of_two_ranks(tmp_path: Path) -> None:
    campaigns.make(tmp_path, variants=["HCM", "H"], launch={"device": "cpu", "stack": 2})
    for words in (
        ["mpirun", "-n", "2", str(BIN / "hydragnn-hpc"), "run", "campaign.yaml", "out"],
        ["hydragnn-hpc", "report", "out"],
    ):
        done = subprocess.run(
            [str(BIN / words[0]), *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "out/report/table1.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if not row["variant"].startswith("no network")]
    assert [(row["variant"], row["task"], row["n"], row["n_total"]) for row in rows] == [
        ("HCM", "H", "2", "2"), ("HCM", "C", "2", "2"), ("HCM", "M", "2", "2"), ("H", "H", "2", "2"),
    ]  # fmt: skip
    assert all(0 < float(row["rmse_mean"]) < 1 for row in rows)
    assert not list((tmp_path / "out").rglob("checkpoint.previous.pt"))
