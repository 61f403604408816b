"""Launch lines without Slurm: a stand-in that understands the launcher's options runs a campaign to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hydragnn_hpc.submit.site import load_site
from tests import campaigns
from tests.submit.programs import stand_in

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set and a campaign of three members."""
    made = tmp_path_factory.mktemp("launched")
    campaigns.make(made, variants=["H"], replicas=3, training={"epochs": 2, "batch_size": 16, "engine": "torch"})
    return made


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.parametrize(
    ("name", "launcher"),
    [
        pytest.param("summit", "jsrun", marks=pytest.mark.long),
        pytest.param("aurora", "mpiexec", marks=pytest.mark.long),
        ("polaris", "mpiexec"),
        ("flux", "flux"),
    ],
)
def test_a_launch_line_starts_ranks_that_find_their_place(
    folder: Path, tmp_path: Path, name: str, launcher: str
) -> None:
    site = load_site(name)
    # The profile as it ships, but with two ranks per node and without its modules.
    content = yaml.safe_load((ROOT / "jobs" / "sites" / f"{name}.yaml").read_text())
    content.update(ranks_per_node=2, environment=[], retired="")
    note = f"echo $PALS_LOCAL_RANKID $CUDA_VISIBLE_DEVICES $ZE_AFFINITY_MASK >> {tmp_path}/ranks.txt"
    content["per_rank"] = [*content.get("per_rank", []), note]
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(content))
    stand_in(tmp_path, launcher, f'exec {sys.executable} {Path(__file__).parent}/launchers.py {launcher} "$@"')
    environment = {
        **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "STAND_IN_RECORD": str(tmp_path / "asked.json"),
    }  # fmt: skip
    script = subprocess.run(
        ["hydragnn-hpc", "submit", str(folder / "campaign.yaml"), str(tmp_path / "out"), "--site",
         str(tmp_path / "site.yaml"), "--account", "abc", "--walltime", "10m", "--nodes", "1", "--dry-run"],
        env=environment, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    # The script puts the environment's programs first; the stand-in must come before its mpiexec.
    script = script.replace(f"export PATH={BIN}:", f"export PATH={tmp_path / 'bin'}:{BIN}:")
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    asked = json.loads((tmp_path / "asked.json").read_text())
    assert (asked["launcher"], asked["ranks"], asked["per_node"]) == (launcher, 2, 2)
    assert asked["cores"] == site.cores_per_rank
    members = [json.loads(p.read_text()) for p in (tmp_path / "out").glob("members/H/*/result.json")]
    assert len(members) == 3
    # One rank may have trained all of these small members; the notes below show both ranks.
    assert {m["sessions"][-1]["rank"] for m in members} <= {0, 1}
    notes = sorted((tmp_path / "ranks.txt").read_text().splitlines())
    expected = {"polaris": ["0 3", "1 2"], "aurora": ["0 0", "1 1"]}
    assert [" ".join(line.split()) for line in notes] == expected.get(name, ["", ""])
