"""What a real Slurm with two nodes of 4 cores and 2 GPUs would never start is refused; what it can start is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.submit import limits
from hydragnn_hpc.submit.site import load_site
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import BIN, SITE

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def copied(tmp_path: Path) -> str:
    """The generic profile, copied as it is: 16 cores per node."""
    (tmp_path / "mine.yaml").write_text(SITE.read_text())
    return str(tmp_path / "mine.yaml")


def submit(cluster: Cluster, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``submit`` for the paper's campaign."""
    return subprocess.run(
        [str(BIN / "hydragnn-hpc"), "submit", str(ROOT / "jobs/campaigns/paper.yaml"), str(out), *arguments],
        env=cluster.environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--queue", "short", "--walltime", "24h"], "--walltime 24h: slurm allows 1h on 1 node"),
        (["--nodes", "3"], "--nodes 3: slurm accepts jobs with these numbers of nodes: default 1 to 2"),
        (["--queue", "long"], "slurm has no queue 'long'"),
    ],
)
def test_what_slurm_would_never_start(cluster: Cluster, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = submit(cluster, tmp_path / "out", "--site", "slurm", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert words in done.stderr
    assert not cluster.jobs()


def test_nodes_of_fewer_cores_than_a_profile_asks_for(cluster: Cluster, tmp_path: Path, copied: str) -> None:
    done = submit(cluster, tmp_path / "out", "--site", copied)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "2 ranks of 8 cores per node: queue 'batch' has nodes of at most 4 cores" in done.stderr


@pytest.mark.parametrize("queue", [[], ["--queue", "short"]])
def test_the_generic_profile_fits_itself_to_the_nodes(cluster: Cluster, tmp_path: Path, queue: list[str]) -> None:
    """Slurm itself tests the script."""
    done = submit(cluster, tmp_path / "out", "--site", "slurm", "--nodes", "2", "--dry-run", *queue)
    assert done.returncode == 0 and "could not be checked" not in done.stderr, done.stderr
    assert "#SBATCH --ntasks-per-node=2\n#SBATCH --cpus-per-task=2\n" in done.stdout
    assert ("#SBATCH --time=1:00:00\n" in done.stdout) == bool(queue)


def test_slurm_accepts_a_detected_profile(cluster: Cluster, tmp_path: Path) -> None:
    found = tmp_path / "found.yaml"
    command = [str(BIN / "hydragnn-hpc"), "site", "detect", "--out", str(found)]
    subprocess.run(command, env=cluster.environment(), timeout=60, check=True)
    assert [(limit.queue, limit.walltime) for limit in load_site(str(found)).limits] == [
        ("batch", "24h"),
        ("short", "1h"),
    ]
    done = submit(cluster, tmp_path / "out", "--site", str(found), "--queue", "short", "--nodes", "2", "--dry-run")
    assert done.returncode == 0 and "could not be checked" not in done.stderr, done.stderr
    assert "#SBATCH --partition=short\n" in done.stdout


def test_slurms_own_test_of_a_script_refuses(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.environment()["SLURM_CONF"])
    with pytest.raises(UserError, match="Requested node configuration is not available"):
        limits.rehearse(load_site("slurm").scheduler, "#!/bin/bash\n#SBATCH --cpus-per-task=16\n")
    assert limits.rehearse(load_site("slurm").scheduler, "#!/bin/bash\n#SBATCH --cpus-per-task=4\n") == ""


def test_without_its_controller_limits_are_not_known(cluster: Cluster) -> None:
    """SLURM_CONF of the test run is an empty file."""
    with pytest.raises(limits.UnknownLimitsError, match="'scontrol"):
        limits.ask(load_site("slurm").scheduler)
