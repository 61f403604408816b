"""Ranks under a launcher: their program, their connections and their processes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

DRIVE = Path(__file__).with_name("ensemble") / "drive.py"
"""The program that runs a campaign with a worker of the tests."""
OVER_NETWORK = {"MPIR_CVAR_CH4_NETMOD": "ofi", "MPIR_CVAR_NOLOCAL": "1"}  # no shared memory, as between nodes
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")  # Open MPI's, MPICH's and Intel MPI's, srun's


def process_of(out: Path, rank: int) -> int:
    """Return the process of a rank of the run into ``out``."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            environment = dict(
                v.split("=", 1) for v in (entry / "environ").read_bytes().decode().split("\0") if "=" in v
            )
            stated = next((environment[name] for name in RANK_VARIABLES if name in environment), None)
            if stated == str(rank) and str(out) in words and Path(words[0]).name.startswith("python"):
                return int(entry.name)
    raise AssertionError(f"no rank {rank}")


def segments_of(processes: Iterable[int]) -> set[Path]:
    """Return the shared memory in /dev/shm that these processes map, and that still has its name."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/maps").read_text().splitlines()
            found.update(Path(line.split(maxsplit=5)[-1]) for line in lines if "/dev/shm/" in line)
    return {path for path in found if path.exists() and not path.is_dir()}


def age(paths: Iterable[Path]) -> None:
    """Make files an hour old: shared memory that is new is not removed, since a rank may be about to map it."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (0, time.time() - 3600))
