"""``status`` of jobs under a real Slurm: pending with its reason, running, ended."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hydragnn_hpc.ledger import now
from hydragnn_hpc.paths import CampaignFolder, append_record
from hydragnn_hpc.records.jobs import SubmittedJob
from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(120)]


def test_pending_running_ended(cluster: Cluster, tmp_path: Path) -> None:
    folder = CampaignFolder(tmp_path / "out")
    folder.jobs.mkdir(parents=True)

    def submit(*options: str) -> str:
        job = cluster.call("sbatch", "--parsable", "--output=/dev/null", *options)
        append_record(
            folder.job_record,
            SubmittedJob(time=now(), id=job, site="slurm", scheduler="slurm", nodes=1, queue="", account="",
                         walltime_seconds=60, members_left=2, script="job.sh"),
        )  # fmt: skip
        return job

    def status() -> list[tuple[str, str, str]]:
        done = subprocess.run(
            [sys.executable, "-m", "hydragnn_hpc", "status", str(folder.root), "--json"],
            env=cluster.environment(), capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return [(job["state"], job["reason"], job["explanation"]) for job in json.loads(done.stdout)["jobs"]]

    def wait(job: str, state: str) -> None:
        limit = time.monotonic() + 60
        while cluster.state(job) != state:
            assert time.monotonic() < limit, f"{cluster.state(job)}\n{cluster.log()}"
            time.sleep(0.2)

    long = submit("--partition=short", "--time=120", "--wrap=true")
    held = submit("--hold", "--wrap=true")
    busy = submit("--wrap=sleep 60")
    over = submit("--wrap=true")
    wait(busy, "RUNNING")
    wait(over, "COMPLETED")
    found = status()
    assert [state for state, _, _ in found] == ["pending", "pending", "running", "ended"]
    assert found[0][1] == "PartitionTimeLimit" and "never starts" in found[0][2]
    assert found[1][1] == "JobHeldUser" and f"scontrol release {held}" in found[1][2]
    cluster.call("scancel", long, held, busy)
    wait(busy, "CANCELLED")
    assert {state for state, _, _ in status()} == {"ended"}
