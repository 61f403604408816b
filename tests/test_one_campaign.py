"""One campaign on two ranks, from raw files to the report: the shortest test of everything together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import campaigns
from tests.outcomes import of_networks, table1

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
    rows = of_networks(table1(tmp_path / "out"))
    assert list(rows) == [("HCM", "H"), ("HCM", "C"), ("HCM", "M"), ("H", "H")]
    assert all(row["n"] == row["n_total"] == "2" and 0 < float(row["rmse_mean"]) < 1 for row in rows.values())
    assert not list((tmp_path / "out").rglob("checkpoint.previous.pt"))
