"""One Slurm for all tests of this folder, and a small campaign with the outcome that mpirun gives it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import campaigns
from tests.outcomes import outcome
from tests.slurm.cluster import Cluster, missing

BIN = Path(sys.executable).parent
SITE = Path(__file__).parents[2] / "jobs" / "sites" / "slurm.yaml"
CAMPAIGN = campaigns.text(
    name="under-slurm",
    variants=["HC", "H", "C"],
    replicas=4,
    training={"epochs": 12, "batch_size": 16, "early_stopping": None, "engine": "torch"},
)


@dataclass
class SlurmSetup:
    """A cluster, a campaign with its machine profile, and the outcome of the campaign without faults.

    ``seconds`` is the time that it took under mpirun.
    """

    cluster: Cluster
    folder: Path
    campaign: Path
    site: Path
    expected: dict[str, Any]
    seconds: float

    def submit(self, out: Path, *options: str) -> str:
        """Submit the campaign; return the job's number."""
        nodes = () if "--nodes" in options else ("--nodes", "2")
        command = ["submit", str(self.campaign), str(out), "--site", str(self.site), "--json", *nodes, *options]
        done = subprocess.run(
            [str(BIN / "hydragnn-hpc"), *command],
            env=self.cluster.environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["id"])

    def wait(self, condition: Callable[[], bool], what: str, out: Path, patience: float = 280.0) -> None:
        """Wait for ``condition``; after ``patience`` seconds, fail with the job's output."""
        limit = time.monotonic() + patience
        while not condition():
            if time.monotonic() > limit:
                texts = [p.read_text(errors="replace")[-3000:] for p in sorted((out / "jobs").glob("*.txt"))]
                pytest.fail(f"not in {patience:.0f} s: {what}\n" + "\n".join(texts) + self.cluster.log())
            time.sleep(0.2)

    def end(self, job: str, out: Path) -> tuple[str, str]:
        """Wait until the job has ended, its later runs included; return its state and its output."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "")
        self.wait(lambda: self.cluster.state(job) in over, "the end", out)
        text = "\n".join(p.read_text(errors="replace") for p in (out / "jobs").glob("*.txt"))
        return self.cluster.state(job), text

    def wait_for_end(self, job: str, out: Path) -> str:
        """Wait until the job has ended, and check its outcome; return its output."""
        state, text = self.end(job, out)
        assert state == "COMPLETED", f"{state}\n{text[-4000:]}"
        assert outcome(out) == self.expected
        return text


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm of two nodes, with two simulated GPUs each."""
    if reason := missing():
        pytest.skip(f"no Slurm can run here: {reason}")
    made = Cluster(tmp_path_factory.mktemp("slurm"), ("n1", "n2"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def slurm(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> SlurmSetup:
    """The data set, the campaign, the shipped profile of a Slurm machine, and the outcome under mpirun."""
    folder = tmp_path_factory.mktemp("campaign")
    program = str(BIN / "hydragnn-hpc")
    campaigns.data_set(folder, cap=12, seed=3)
    campaign = folder / "campaign.yaml"
    campaign.write_text(CAMPAIGN)
    # The profile as it ships, with the cores of these nodes; each rank leaves a note of its device mask.
    note = f"echo $SLURMD_NODENAME $SLURM_LOCALID $CUDA_VISIBLE_DEVICES >> {folder}/masks.txt"
    text = SITE.read_text().replace("cores_per_node: 16", "cores_per_node: 4")
    text = text.replace("cores_per_rank: 8", "cores_per_rank: 2") + f"per_rank:\n  - {note}\n"
    site = folder / "site.yaml"
    site.write_text(text)
    started = time.monotonic()
    subprocess.run(
        [str(BIN / "mpirun"), "-n", "2", program, "run", str(campaign), str(folder / "by-mpirun")],
        check=True, timeout=180, capture_output=True,
    )  # fmt: skip
    seconds = time.monotonic() - started
    return SlurmSetup(cluster, folder, campaign, site, outcome(folder / "by-mpirun"), seconds)
