"""Job scripts: one golden file for each machine, sound Bash, packed environments."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.submit import render
from hydragnn_hpc.submit.site import load_site, site_names
from tests import campaigns
from tests.environments import ENVIRONMENT, light
from tests.submit.paper import ROOT, plan_of

GOLDEN = Path(__file__).parent / "golden"
RENEW = "python -m tests.submit.renew"


def script_of(name: str, packed: bool = False) -> str:
    """Return the paper's script for a machine, with paths that stand for themselves."""
    site = load_site(name)
    job = render.Job(
        campaign=Path("/project/fept/paper.yaml"),
        out=CampaignFolder("/project/fept/runs/paper"),
        name="fept",
        root=Path("/project/hydragnn_hpc"),
        python_folder=Path("/project/venv/bin"),
        overrides=("training.epochs=100",),
        account="abc123",
        packed=Path("/project/environment.tar") if packed else None,
    )
    return render.render(job, site, plan_of(site, seconds=600.0))


def test_every_machine_has_its_golden_file() -> None:
    assert site_names() == sorted(p.stem for p in GOLDEN.glob("*.sh"))


@pytest.mark.parametrize("name", site_names())
def test_scripts_are_the_golden_ones(name: str) -> None:
    expected = (GOLDEN / f"{name}.sh").read_text()
    assert script_of(name) == expected, f"the script for {name} has changed; if that is intended, run '{RENEW}'"


@pytest.mark.parametrize("packed", [False, True], ids=["shared environment", "packed environment"])
@pytest.mark.parametrize("name", site_names())
def test_scripts_are_sound_bash(name: str, packed: bool, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(script_of(name, packed))
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    # SC1091: environments are sourced that are not here; SC2016: what ranks expand is quoted on purpose.
    done = subprocess.run(
        ["shellcheck", "--shell=bash", "--exclude=SC1091,SC2016", str(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stdout, done.stdout


def test_summit_is_launched_as_the_paper_was() -> None:
    assert "\n  jsrun -n 12 -r 6 -a 1 -g 1 -c 7 " in script_of("summit")
    assert "#BSUB -nnodes 2\n" in script_of("summit")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("frontier", "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 bash -c"),
        ("aurora", "mpiexec -n 1 -ppn 1 bash -c"),
        ("summit", "jsrun -n 2 -r 1 -a 1 -g 0 -c 1 bash -c"),
        ("flux", "flux run -N 1 -n 1 bash -c"),
        ("lsf", "mpirun -n 1 --map-by ppr:1:node bash -c"),
    ],
)
def test_a_packed_environment_is_unpacked_once_per_node(name: str, line: str) -> None:
    script = script_of(name, packed=True)
    assert script.count(f"\n{line}") == 2, "to unpack, and to clean up"
    assert "python -P -m hydragnn_hpc run" in script


@pytest.mark.parametrize("link", [False, True])
def test_an_environment_that_another_user_has_put_there_is_not_used(link: bool) -> None:
    """The script runs as another user than root, who could remove what others have put into the folder."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    shared = Path(tempfile.mkdtemp())
    try:
        shared.chmod(0o1777)
        (planted := shared / ("elsewhere" if link else "environment") / "bin").mkdir(parents=True)
        if link:
            (shared / "environment").symlink_to(planted.parent)
        subprocess.run(["tar", "-cf", shared / "a.tar", "-C", ROOT / "jobs", "schedulers"], check=True)
        (line,) = re.findall(r"^unpack='.*?'$", script_of("local", packed=True), re.M | re.S)
        command = f'{line}\nbash -c "$unpack" unpack {shared}/$1 {shared}/a.tar'
        done = [
            subprocess.run(["bash", "-c", command, "x", name], user=12345, cwd="/", capture_output=True).returncode
            for name in ("environment", "own")
        ]
        assert done == [1, 0] and (shared / "own" / "schedulers").is_dir()
    finally:
        shutil.rmtree(shared)


def test_an_environment_whose_modules_cannot_be_compiled_is_packed(tmp_path: Path) -> None:
    """It may belong to another user. Its package is packed, not that of the current folder."""
    programs = light(tmp_path / "light")
    package = tmp_path / "theirs" / "hydragnn_hpc"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__pycache__").touch()  # in place of the folder
    (next(programs.parent.glob("lib/python3*/site-packages")) / "theirs.pth").write_text(f"{package.parent}\n")
    command = ["bash", str(ROOT / "envs/pack.sh"), str(programs.parent), str(tmp_path / "environment.tar")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "Error compiling" in done.stdout, done


@pytest.mark.slow
@pytest.mark.mpi
def test_a_campaign_from_a_packed_environment(tmp_path: Path) -> None:
    """Packed, unpacked, trained from the copy alone, cleaned up: by the script, on this host."""
    programs = light(tmp_path / "light")
    (next(programs.parent.glob("lib/python3*/site-packages")) / "checkout.pth").write_text(f"{ROOT}\n")
    archive = tmp_path / "environment.tar"
    subprocess.run(
        ["bash", str(ROOT / "envs/pack.sh"), str(programs.parent), str(archive)], check=True, capture_output=True
    )
    program = str(Path(sys.executable).parent / "hydragnn-hpc")
    campaigns.make(tmp_path, variants=["H"], training={"epochs": 2, "batch_size": 16})
    site = yaml.safe_load((ROOT / "jobs/sites/local.yaml").read_text())
    site["per_rank"] = ["python -c 'import hydragnn_hpc; print(hydragnn_hpc.__file__)' >> where.txt"]
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    done = subprocess.run(
        [program, "submit", "campaign.yaml", "out", "--site", "site.yaml", "--packed", str(archive)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    places = set((tmp_path / "where.txt").read_text().split())
    assert len(places) == 1
    place = Path(places.pop())
    assert place.parts[2].startswith("hydragnn_hpc-environment-")
    assert not list(Path("/tmp").glob(f"{place.parts[2]}*")), "the copy is left behind"
    assert len(list((tmp_path / "out").glob("members/H/*/result.json"))) == 2
