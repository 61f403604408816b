"""The scripts of named machines, with stand-ins for modules, compilers and packages: what a centre provides stays."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SETUP = (ROOT / "setup.py").read_text("utf-8")
BOUNDS = dict(re.findall(r'^    "(\w+)>=([\w.]+)"', SETUP[SETUP.index("REQUIRED") : SETUP.index("EXTRAS")], re.M))
XPU = "2.10.0a0+git449b176"
"""torch as Aurora's frameworks module brings it."""
MODULES = """\
module() { echo "module $*" >> "$STANDIN_LOG"; case $1 in load) export PATH=$STANDIN_BASE/bin:$PATH ;; esac; }
conda() { case $1 in create) ln -s "$STANDIN_BASE" "$5" ;; *) module load conda-base ;; esac; }
export -f module conda
"""
MPI4PY = """\
import os, setuptools, subprocess
subprocess.run([*os.environ["MPICC"].split(), "probe.c"], check=True)
setuptools.setup(name="mpi4py", version="4.9.0")
"""


def wheel(folder: Path, name: str, version: str, *needs: str) -> Path:
    """Make a wheel that holds nothing but its name, version and requirements."""
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def setuptools_wheel(folder: Path) -> None:
    """Pack the installed setuptools into a wheel again: pip builds packages with it."""
    installed = distribution("setuptools")
    with zipfile.ZipFile(folder / f"setuptools-{installed.version}-py3-none-any.whl", "w") as archive:
        for file in installed.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                archive.write(Path(str(file.locate())), str(file))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels: of every package the oldest that is admitted, and a newest that replaces torch and numpy."""
    folder = tmp_path_factory.mktemp("wheels")
    setuptools_wheel(folder)
    wheel(folder, "wheel", "1.0")  # asked for by pip; setuptools has its own
    for name, bound in BOUNDS.items():
        if name not in ("torch", "mpi4py"):
            wheel(folder, name, bound)
            wheel(folder, name, "99.0", *([] if name == "numpy" else ["torch>=99", "numpy>=99"]))
    for version in ("2.10.0+rocm7.1", "99.0"):
        wheel(folder, "torch", version)
    with tarfile.open(folder / "mpi4py-4.9.0.tar.gz", "w:gz") as archive:
        for name, text in (("setup.py", MPI4PY), ("PKG-INFO", "Metadata-Version: 2.1\nName: mpi4py\nVersion: 4.9.0\n")):
            entry = tarfile.TarInfo(f"mpi4py-4.9.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of its own, as a module brings it, with compiler wrappers that write down how they are called."""
    made = tmp_path_factory.mktemp("python")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sys.base_prefix) / "lib" / version
    (made / "lib" / version / "site-packages").mkdir(parents=True)
    for entry in library.iterdir():
        if entry.name not in ("site-packages", "dist-packages", "EXTERNALLY-MANAGED"):
            (made / "lib" / version / entry.name).symlink_to(entry)
    for shared in library.parent.glob("libpython*"):
        (made / "lib" / shared.name).symlink_to(shared)
    (made / "bin").mkdir()
    shutil.copy(Path(sys.base_prefix) / "bin" / version, made / "bin" / "python3")
    (made / "bin" / "python").symlink_to("python3")
    for compiler in ("cc", "mpicc"):
        program = made / "bin" / compiler
        program.write_text(f'#!/bin/sh\necho "{compiler} $*" >> "$STANDIN_LOG"\n')
        program.chmod(0o755)
    # Not by ensurepip, which Debian allows in virtual environments only, and whose wheels it keeps elsewhere.
    folders = (library / "ensurepip" / "_bundled", Path("/usr/share/python-wheels"))
    wheels = next(found for folder in folders if (found := [str(path) for path in folder.glob("[ps]*.whl")]))
    command = [sys.executable, "-m", "pip", "--python", str(made / "bin" / "python3"), "install", "-q", "--no-index"]
    subprocess.run([*command, *wheels], check=True, capture_output=True)
    return made


@pytest.fixture
def index(wheels: Path, tmp_path: Path) -> Path:
    """The wheels, to which a test adds its own."""
    return Path(shutil.copytree(wheels, tmp_path / "index"))


@pytest.fixture
def base(python: Path, tmp_path: Path) -> Path:
    """The module's Python, into which a test installs packages."""
    return Path(shutil.copytree(python, tmp_path / "base", symlinks=True))


def checkout(folder: Path) -> Path:
    """Copy what is installed into a folder: the environment is made beside it."""
    for name in ("hydragnn_hpc", "envs", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(machine: str, folder: Path, base: Path, index: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Call a machine's script with the stand-ins; return what came of it, and the modules and compilers in order."""
    log = folder / "log"
    log.touch()
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "STANDIN_LOG": str(log), "STANDIN_BASE": str(base),
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull,
        "CRAY_LD_LIBRARY_PATH": "/cray/lib",
    }  # fmt: skip
    script = checkout(folder / "checkout") / "envs" / f"{machine}.sh"
    words = [str(script), "https://index"] if machine == "frontier" else [str(script)]
    code = f'{MODULES}exec bash "$@"\n'
    done = subprocess.run(["bash", "-c", code, "-", *words], env=environment, capture_output=True, text=True)
    return done, log.read_text().splitlines()


def packages(python: Path) -> dict[str, str]:
    """Return what an environment finds, as names and versions."""
    listed = subprocess.check_output([python, "-m", "pip", "list", "--format=json"], text=True)
    return {entry["name"].replace("-", "_").lower(): entry["version"] for entry in json.loads(listed)}


def provide(base: Path, index: Path, *wheels: tuple[str, str]) -> None:
    """Install packages into the module's Python, which nobody can write to."""
    made = [wheel(index, name, version) for name, version in wheels]
    subprocess.run(
        [base / "bin" / "python3", "-m", "pip", "install", "-q", "--no-deps", "--no-index", *made], check=True,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull},
    )  # fmt: skip
    for path in made:  # what the centre has built is on no index
        path.unlink()


@pytest.mark.parametrize(
    ("machine", "torch"), [("aurora", XPU), pytest.param("polaris", "2.10.0", marks=pytest.mark.long)]
)
def test_a_modules_packages_stay(machine: str, torch: str, tmp_path: Path, base: Path, index: Path) -> None:
    numpy = f"{BOUNDS['numpy']}.post1"
    provide(base, index, ("torch", torch), ("numpy", numpy))
    done, log = make(machine, tmp_path, base, index)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    venv = tmp_path / "checkout" / f".venv-{machine}"
    found = packages(venv / "bin" / "python")
    assert found["torch"] == torch and found["numpy"] == numpy and found["scipy"] == BOUNDS["scipy"]
    assert not list(venv.glob("lib/python3*/site-packages/torch-*"))
    assert "hydragnn_hpc" in found and any(line.startswith(("cc ", "mpicc ")) for line in log)


def test_a_package_of_the_module_that_is_too_old_is_named(tmp_path: Path, base: Path, index: Path) -> None:
    provide(base, index, ("torch", XPU), ("numpy", "1.0"))
    done, _ = make("aurora", tmp_path, base, index)
    assert done.returncode != 0 and "constraint) numpy==1.0" in done.stdout, done.stdout + done.stderr
    assert not list(tmp_path.glob("checkout/.venv-aurora/lib/python3*/site-packages/torch-*"))


def test_frontier_has_the_build_for_rocm(tmp_path: Path, base: Path, index: Path) -> None:
    done, log = make("frontier", tmp_path, base, index)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = packages(tmp_path / "checkout" / ".venv-frontier" / "bin" / "python")
    assert found["torch"] == "2.10.0+rocm7.1"
    # mpi4py is built with the Cray wrapper while no ROCm module is loaded.
    assert log.index("cc -shared probe.c") > max(i for i, line in enumerate(log) if line.startswith("module unload"))
    assert any(line.startswith("module unload rocm") for line in log)


def test_perlmutter_keeps_the_torch_of_an_earlier_call(tmp_path: Path, base: Path, index: Path) -> None:
    venv = tmp_path / "checkout" / ".venv-perlmutter"
    subprocess.run([base / "bin" / "python3", "-m", "venv", venv], check=True)
    provide(venv, index, ("torch", "2.10.0"))
    done, _ = make("perlmutter", tmp_path, base, index)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert packages(venv / "bin" / "python")["torch"] == "2.10.0"
