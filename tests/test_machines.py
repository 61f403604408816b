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
conda() {
  echo "conda $*" >> "$STANDIN_LOG"
  case $1 in create) ln -s "$STANDIN_BASE" "$5" ;; *) module load conda-base ;; esac
}
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
        program.write_text(f'#!/bin/sh\necho "{compiler} $* with $LD_LIBRARY_PATH" >> "$STANDIN_LOG"\n')
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


def make(
    machine: str, folder: Path, base: Path, index: Path, *words: str, **more: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Call a machine's script with the stand-ins; return what came of it, and the modules and compilers in order."""
    log = folder / "log"
    log.touch()
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "STANDIN_LOG": str(log), "STANDIN_BASE": str(base),
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull,
        "CRAY_LD_LIBRARY_PATH": "/cray/lib", "LD_LIBRARY_PATH": "/usr/own",
    }  # fmt: skip
    script = checkout(folder / "checkout") / "envs" / f"{machine}.sh"
    code = f'{MODULES}exec bash "$@"\n'
    done = subprocess.run(
        ["bash", "-c", code, "-", str(script), *words], env={**environment, **more}, capture_output=True, text=True
    )
    return done, log.read_text().splitlines()


PACKAGES = """
import importlib.metadata as metadata, json
found = [(package.name, package.version) for package in metadata.distributions()]
print(json.dumps(dict(reversed(found))))  # the first is what is imported
"""


def packages(python: Path) -> dict[str, str]:
    """Return what an environment finds, as names and versions."""
    listed = json.loads(subprocess.check_output([python, "-c", PACKAGES], text=True))
    return {name.replace("-", "_").lower(): version for name, version in listed.items()}


def provide(base: Path, *wheels: tuple[str, ...]) -> None:
    """Install packages (name, version, requirements) into a Python; pip would take seconds."""
    where = [base / "bin" / "python3", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    folder = Path(subprocess.check_output(where, text=True).strip())
    folder.mkdir(parents=True, exist_ok=True)
    for words in wheels:
        unpack(wheel(folder, *words), folder)


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


MACHINES = {
    "aurora": (XPU, ["module load frameworks/2025.3.1"]),
    "polaris": ("2.10.0", ["module use /soft/modulefiles", "module load conda", "conda activate base"]),
    "perlmutter": ("2.11.0+cu129", ["module load PrgEnv-gnu pytorch/2.11.0"]),
}
"""The torch that a machine's module brings, and the modules in the order in which they are loaded."""


@pytest.mark.parametrize("machine", MACHINES)
def test_a_modules_packages_stay(machine: str, tmp_path: Path, base: Path, index: Path) -> None:
    torch, modules = MACHINES[machine]
    numpy = f"{BOUNDS['numpy']}.post1"
    others = [(name, bound) for name, bound in BOUNDS.items() if name not in ("torch", "numpy", "mpi4py", "scipy")]
    provide(base, ("torch", torch), ("numpy", numpy), *others)
    # What a user has installed below a home is not part of the environment.
    home = tmp_path / ".local/lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    home.mkdir(parents=True)
    unpack(wheel(tmp_path, "numpy", "1.1"), home)
    done, log = make(machine, tmp_path, base, index)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    venv = tmp_path / "checkout" / f".venv-{machine}"
    constraints = (venv / "provided.txt").read_text().splitlines()
    assert {f"torch=={torch}", f"numpy=={numpy}"} <= set(constraints) and "numpy==1.1" not in constraints
    found = packages(venv / "bin" / "python")
    assert found["torch"] == torch and found["numpy"] == numpy and found["scipy"] == BOUNDS["scipy"]
    assert not list(venv.glob("lib/python3*/site-packages/torch-*"))
    assert "hydragnn_hpc" in found and any(line.startswith(("cc ", "mpicc ")) for line in log)
    assert [line for line in log if line in modules] == modules


def test_a_package_of_the_module_that_is_too_old_gets_a_newer_one_beside_it(
    tmp_path: Path, base: Path, index: Path
) -> None:
    provide(
        base, ("torch", XPU, "numpy"), ("numpy", "1.0"), ("pydantic", "2.0", "pydantic_core==2.0"),
        ("pydantic_core", "2.0"),
    )  # fmt: skip
    wheel(index, "pydantic", "2.98", "pydantic_core==2.9")
    wheel(index, "pydantic_core", "2.9")
    done, _ = make("aurora", tmp_path, base, index)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = f"numpy 1.0 of the module is older than setup.py admits (numpy>={BOUNDS['numpy']}); a newer one is installed"
    assert said in done.stderr
    found = packages(tmp_path / "checkout/.venv-aurora/bin/python")
    assert (found["numpy"], found["torch"], found["pydantic"], found["pydantic_core"]) == ("99.0", XPU, "2.98", "2.9")
    assert not list(tmp_path.glob("checkout/.venv-aurora/lib/python3*/site-packages/torch-*"))
    assert list(base.rglob("numpy-1.0.dist-info"))  # in the folder of its distribution


def test_a_torch_of_the_module_that_is_too_old_is_named(tmp_path: Path, base: Path, index: Path) -> None:
    provide(base, ("torch", "2.8.0"))
    done, _ = make("polaris", tmp_path, base, index)
    script = tmp_path / "checkout/envs/polaris.sh"
    said = (
        f"{script}: error: torch 2.8.0 of the module is older than setup.py admits (torch>=2.10.0a0), and it is never"
    )
    assert done.returncode != 0 and done.stderr.splitlines()[-1].startswith(said), done.stderr
    assert not list(tmp_path.glob("checkout/.venv-polaris/lib/python3*/site-packages/torch-*"))


def test_frontier_has_the_build_for_rocm(tmp_path: Path, base: Path, index: Path) -> None:
    done, log = make("frontier", tmp_path, base, index, "https://index")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = packages(tmp_path / "checkout" / ".venv-frontier" / "bin" / "python")
    assert found["torch"] == "2.10.0+rocm7.1"
    assert "module load PrgEnv-gnu/8.7.0 cpe/26.03 miniforge3/23.11.0-0 rocm/7.1.1 craype-accel-amd-gfx90a" in log
    assert [line.split()[-1] for line in log if line.startswith("conda create")] == ["python=3.12"]
    # mpi4py is built with the Cray wrapper, which finds the libraries of the cpe, while no ROCm module is loaded.
    built = log.index("cc -shared probe.c with /cray/lib:/usr/own")
    assert built > log.index("module unload rocm/7.1.1 craype-accel-amd-gfx90a")


def test_frontier_asks_for_its_index_before_it_makes_anything(tmp_path: Path, base: Path, index: Path) -> None:
    done, log = make("frontier", tmp_path, base, index)
    assert done.returncode != 0 and "name the index of torch for ROCm 7.1" in done.stderr
    assert not [line for line in log if line.startswith("conda create")]


def test_frontier_keeps_the_torch_of_an_earlier_call(tmp_path: Path, base: Path, index: Path) -> None:
    venv = tmp_path / "checkout" / ".venv-frontier"
    subprocess.run([base / "bin" / "python3", "-m", "venv", venv], check=True)
    provide(venv, ("torch", "2.10.0+mine"))
    done, _ = make("frontier", tmp_path, base, index, "https://index")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert packages(venv / "bin" / "python")["torch"] == "2.10.0+mine"
