"""The package without its checkout: a wheel made from the source distribution, installed elsewhere, and used there."""

from __future__ import annotations

import py_compile
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hydragnn_hpc.submit.site import load_site, site_names
from tests.environments import environment_of, light

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SOURCES = (
    "hydragnn_hpc",
    "jobs",
    "envs",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
)
BUILD = "import sys; from setuptools import build_meta as b; getattr(b, 'build_' + sys.argv[1])(sys.argv[2])"


def build(what: str, sources: Path, folder: Path) -> Path:
    """Build a ``wheel`` or an ``sdist`` from ``sources``, with the setuptools that is installed."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, what, str(folder)], cwd=sources, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from the source distribution."""
    made = tmp_path_factory.mktemp("build")
    (made / "sources").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, made / "sources" / name)
    compile_example(made / "sources")
    with tarfile.open(build("sdist", made / "sources", made / "sdist")) as archive:
        assert not [name for name in archive.getnames() if name.endswith(".pyc")]
        archive.extractall(made)
    sources = next(made.glob("hydragnn*hpc-*"))
    compile_example(sources)
    return build("wheel", sources, made / "wheel")


def compile_example(sources: Path) -> None:
    """Compile an example, as an import of it does."""
    py_compile.compile(str(sources / "jobs" / "examples" / "fept_monte_carlo.py"), doraise=True)


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that the wheel is installed in."""
    made = light(tmp_path_factory.mktemp("elsewhere") / "venv")
    arguments = ["--python", str(made / "python"), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True, timeout=120)
    return made


def run(programs: Path, folder: Path, *words: str) -> str:
    """Run a command in ``folder``; return what it printed."""
    done = subprocess.run(
        words, cwd=folder, env=environment_of(programs), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_the_wheel_holds_all_files_that_are_tracked(wheel: Path) -> None:
    tracked = subprocess.check_output(["git", "ls-files", "hydragnn_hpc", "jobs", "envs"], cwd=ROOT, text=True).split()
    expected = {name if name.startswith("hydragnn_hpc/") else f"hydragnn_hpc/{name}" for name in tracked}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert not {name for name in expected - held if not name.endswith(".md")}
    assert not [name for name in held if name.endswith(".pyc")]


def test_the_quick_start_runs_from_the_wheel(programs: Path, tmp_path: Path) -> None:
    """The commands of the quick start, with a few samples, one variant and two epochs."""
    package = Path(
        run(programs, tmp_path, "python", "-c", "import hydragnn_hpc; print(hydragnn_hpc.__path__[0])").strip()
    )
    assert package.is_relative_to(programs.parent)
    campaign = str(package / "jobs" / "campaigns" / "quickstart.yaml")
    small = [f"dataset={tmp_path}/small.bp", "variants=[H]", "replicas=2", "training.epochs=2", "model.layers=1"]
    run(programs, tmp_path, "hydragnn-hpc", "data", "generate", "raw", "--cap", "8", "--seed", "0")
    run(programs, tmp_path, "hydragnn-hpc", "data", "prepare", "raw", "small.bp")
    settings = [word for setting in small for word in ("--set", setting)]
    run(programs, tmp_path, "mpirun", "-n", "2", "hydragnn-hpc", "run", campaign, "out", *settings)
    assert "2 of 2" in run(programs, tmp_path, "hydragnn-hpc", "report", "out")
    assert (tmp_path / "out/report/index.html").exists()


@pytest.mark.parametrize("site", site_names())
def test_job_scripts_from_the_wheel_find_their_environment(programs: Path, tmp_path: Path, site: str) -> None:
    """The script's head runs, with stand-ins for modules that put another Python first."""
    (tmp_path / "modules").mkdir()
    for name in ("python", "hydragnn-hpc"):
        (tmp_path / "modules" / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "modules" / name).chmod(0o755)
    package = next(programs.parent.glob("lib/python3*/site-packages/hydragnn_hpc"))
    campaign = str(package / "jobs" / "campaigns" / "paper.yaml")
    script = run(
        programs, tmp_path, "hydragnn-hpc", "submit", campaign, "out", "--site", site, "--account", "a", "--dry-run"
    )
    head = script.split("\npython -P -m hydragnn_hpc.submit.chain begin")[0]
    sourced = re.findall(r'^\. "\$HYDRAGNN_HPC_ROOT/(.*)"$', head, re.M)
    assert len(sourced) == sum(line.startswith(". ") for line in load_site(site).environment)
    stand_ins = f'module() {{ export PATH="{tmp_path}/modules:$PATH"; }}\nconda() {{ module; }}\n'
    found = run(programs, tmp_path, "bash", "-c", f"{stand_ins}{head}\ncommand -v hydragnn-hpc python")
    assert found.split() == [str(programs / "hydragnn-hpc"), str(programs / "python")]
