"""Standard error that nobody reads or that cannot be written: campaigns are trained all the same, and leave no lock."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.dataset.store.manifest import read_manifest
from hydragnn_hpc.ledger import Frozen, freeze
from hydragnn_hpc.paths import CampaignFolder
from tests.ensemble.test_runs import BIN

pytestmark = pytest.mark.mpi
FEW = "--set variants=[H,M] --set replicas=1 --set training.epochs=1"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param('"$1/hydragnn-hpc" run "$2" out $3 2>/dev/full', marks=pytest.mark.long),
        '"$1/hydragnn-hpc" run "$2" out $3 2>&- >&-',
        'set -o pipefail; "$1/hydragnn-hpc" run "$2" out $3 2>&1 | head -1',
        '"$1/mpirun" -n 2 bash -c \'exec "$@" 2>/dev/full\' bash "$1/hydragnn-hpc" run "$2" out $3',
    ],
    ids=["full", "closed", "reader gone", "full on two ranks"],
)
def test_a_campaign_without_a_reader(small: Path, tmp_path: Path, line: str) -> None:
    words = ["bash", "-c", line, "bash", str(BIN), str(small / "campaign.yaml"), FEW]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert len(list(out.glob("members/*/*/result.json"))) == 2
    assert not (out / "run.lock").exists() and not (out / "progress.json").exists()


def test_a_log_that_cannot_be_written_costs_its_lines_only(small: Path, tmp_path: Path) -> None:
    for name in ("logs/worker-0000-0.txt", "logs/events.jsonl", "members/H/00/log.txt", "members/M/00/log.txt",
                 "report/table1.csv"):  # fmt: skip
        (tmp_path / "out" / name).mkdir(parents=True)
    words = [str(BIN / "hydragnn-hpc"), "run", str(small / "campaign.yaml"), "out", *FEW.split()]
    campaign = load_campaign(small / "campaign.yaml", FEW.split()[1::2])
    content = read_manifest(small / "small.bp").sha256
    freeze(CampaignFolder(tmp_path / "out"), Frozen(campaign, config_hash(campaign, content), content))
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("members/*/*/result.json"))) == 2
    assert "worker-0000-0.txt" in done.stderr and "cannot record progress" in done.stderr
