"""Launchers' variables in the environment, mismatches, what a worker must not inherit, and what killed ranks leave."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hydragnn_hpc.ensemble.launcher import LaunchEnvironment, check_size, detect, worker_environment
from hydragnn_hpc.ensemble.messenger import placements
from hydragnn_hpc.ensemble.startup import mapped_files, remove_abandoned
from hydragnn_hpc.errors import UserError

SLURM_JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, LaunchEnvironment(None, 0, 1, None)),
        (SLURM_JOB, LaunchEnvironment(None, 0, 1, None)),  # a batch shell
        (
            {**SLURM_JOB, "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"},
            LaunchEnvironment("srun", 3, 8, 1),
        ),
        (
            {**SLURM_JOB, "SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "12",
             "OMPI_COMM_WORLD_LOCAL_RANK": "2"},
            LaunchEnvironment("Open MPI", 5, 12, 2),
        ),
        (
            {"JSM_NAMESPACE_RANK": "7", "JSM_NAMESPACE_SIZE": "12", "JSM_NAMESPACE_LOCAL_RANK": "1"},
            LaunchEnvironment("jsrun", 7, 12, 1),
        ),
        (
            {"PALS_RANKID": "13", "PMI_SIZE": "24", "PALS_LOCAL_RANKID": "1", "PMI_RANK": "13"},
            LaunchEnvironment("PALS", 13, 24, 1),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, LaunchEnvironment("PMI", 1, 2, 1)),
        # Flux in a step of srun, with Flux's own PMI; srun's PMI; mpirun in a step of PALS
        (
            {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "2", "PMI_SIZE": "4",
             "FLUX_TASK_RANK": "2", "FLUX_JOB_SIZE": "4", "FLUX_TASK_LOCAL_ID": "1"},
            LaunchEnvironment("PMI", 2, 4, 1),
        ),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "2", "PMI_SIZE": "4"},
         LaunchEnvironment("PMI", 2, 4, None)),
        ({"SLURM_PROCID": "2", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "PMI_RANK": "2", "PMI_SIZE": "4"},
         LaunchEnvironment("PMI", 2, 4, 1)),
        ({"PALS_RANKID": "0", "PALS_LOCAL_RANKID": "0", "PMI_LOCAL_RANK": "0", "PMI_RANK": "3", "PMI_SIZE": "4",
          "MPI_LOCALRANKID": "3"}, LaunchEnvironment("PMI", 3, 4, 3)),
        ({"FLUX_TASK_RANK": "3", "FLUX_JOB_SIZE": "4", "FLUX_TASK_LOCAL_ID": "3"}, LaunchEnvironment("Flux", 3, 4, 3)),
    ],
)  # fmt: skip
def test_launchers(environment: dict[str, str], expected: LaunchEnvironment) -> None:
    assert detect(environment) == expected


def test_a_variable_that_is_not_a_number() -> None:
    with pytest.raises(UserError, match="PMI_RANK='one'"):
        detect({"PMI_RANK": "one", "PMI_SIZE": "2"})


def test_a_launcher_of_another_mpi_is_reported() -> None:
    with pytest.raises(UserError, match=r"Open MPI started 4 processes.*sees 1.*does not match the MPI library"):
        check_size(LaunchEnvironment("Open MPI", 0, 4, 0), 1, "MPICH Version: 5.0\nmore")
    check_size(LaunchEnvironment("PMI", 0, 4, 0), 4, "MPICH")


@dataclass
class Shared:
    """A messenger of ranks that share ``values``."""

    values: list[tuple[str, int | None, int | None]]

    def share(self, value: object) -> list[tuple[str, int | None, int | None]]:
        """See `Messenger`."""
        return self.values


@pytest.mark.parametrize(
    ("of_launcher", "expected"),
    [
        ([(None, 3), (None, 2), (None, 0)], [3, 2, 0]),
        ([(None, 0), (None, 0), (None, 0)], [0, 1, 2]),  # of an outer step
        ([(None, 1), (None, None), (None, None)], [0, 1, 2]),
        ([(7, 0), (7, 0), (None, 0)], [7, 7, 2]),
    ],
)
def test_local_ranks(of_launcher: list[tuple[int | None, int | None]], expected: list[int]) -> None:
    here, there = [("a", *pair) for pair in of_launcher], ("b", None, None)
    found = placements(Shared([*here[:1], there, *here[1:]]), LaunchEnvironment("PMI", 0, 4, None), None)
    assert [p.local_rank for p in found if p.host == "a"] == expected
    assert [(p.rank, p.leader) for p in found] == [(0, 0), (1, 1), (2, 0), (3, 0)]


def test_a_worker_inherits_device_masks_and_no_variables_of_launchers() -> None:
    kept = {
        "HYDRAGNN_AGGR_BACKEND": "mpi",
        "HYDRA": "a user's own",
        "CUDA_VISIBLE_DEVICES": "1",
        "ROCR_VISIBLE_DEVICES": "0",
        "ZE_AFFINITY_MASK": "0",
        "PATH": "/bin",
        "TMPDIR": "/t",
    }
    gone = {
        "PMI_RANK": "0", "PMIX_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "SLURM_PROCID": "0", "HYDI_CONTROL_FD": "7",
        "HYDRA_LAUNCHER": "ssh", "MPI_LOCALRANKID": "0", "PALS_RANKID": "0", "FLUX_JOB_SIZE": "1",
        "JSM_NAMESPACE_SIZE": "1",
    }  # fmt: skip
    assert worker_environment({**kept, **gone}) == kept


def test_variables_that_another_rank_left_are_no_launcher() -> None:
    left = {"PMI_FD": "983", "PMI_RANK": "0", "PMI_SIZE": "1"}
    assert detect(left) == LaunchEnvironment(None, 0, 1, None)
    with pytest.raises(UserError, match="PMI_SIZE=2, but PMI_FD=983 is not a connection to a launcher: unset PMI_FD"):
        detect({**left, "PMI_SIZE": "2"})
    one, other = socket.socketpair()
    with one, other:
        assert detect({**left, "PMI_FD": str(one.fileno())}).launcher == "PMI"
        # mpirun in a step of another launcher, whose variables it passes on
        for outer in ("OMPI_COMM_WORLD_{}", "JSM_NAMESPACE_{}"):
            of_outer = {outer.format(name): n for name, n in (("RANK", "0"), ("SIZE", "1"), ("LOCAL_RANK", "0"))}
            inner = {"PMI_FD": str(one.fileno()), "PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "3"}
            assert detect({**of_outer, **inner}) == LaunchEnvironment("PMI", 3, 4, 3)
    with Path(os.devnull).open() as plain:
        assert detect({**left, "PMI_FD": str(plain.fileno())}).launcher is None
    left |= {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"}  # in a shell of one task
    command = [str(Path(sys.executable).with_name("hydragnn-hpc")), "doctor"]
    done = subprocess.run(command, env={**os.environ, **left}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "Abort" not in done.stderr, done


def test_abandoned_memory_of_every_mpi_is_removed(tmp_path: Path) -> None:
    """What a process maps, what was made a moment ago and what is not MPI's stays."""
    left = [tmp_path / name for name in ("mpich_shm_dac1c558_0", "sm_segment.vm.0.63c50001.1", "Intel_MPI_kR73A2")]
    new, mapped, other = (tmp_path / name for name in ("Intel_MPI_new123", "sm_segment.a host.0.used", "Intel_other"))
    for path in (*left, new, mapped, other):
        path.write_bytes(bytes(4096))
        if path != new:
            os.utime(path, (0, 0))
    with mapped.open("r+b") as stream, mmap.mmap(stream.fileno(), 0):
        assert mapped in mapped_files()
        assert remove_abandoned(tmp_path) == 3
    assert set(tmp_path.iterdir()) == {new, mapped, other}


def test_the_maps_of_each_process_are_read_once(tmp_path: Path) -> None:
    """A node of hundreds of ranks has hundreds of segments, and more processes."""
    for k in range(50):
        (tmp_path / f"mpich_shm_old_{k}").write_bytes(b"")
        os.utime(tmp_path / f"mpich_shm_old_{k}", (0, 0))
    code = """
import sys
from collections import Counter
from pathlib import Path
from hydragnn_hpc.ensemble.startup import remove_abandoned
opened = Counter()
sys.addaudithook(lambda event, given: opened.update([str(given[0])]) if event == "open" else None)
removed = remove_abandoned(Path(sys.argv[1]))
print(removed, max(n for name, n in opened.items() if name.endswith("/maps")))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["50", "1"], done.stderr
    assert not list(tmp_path.iterdir())
