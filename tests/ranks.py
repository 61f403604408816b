"""Ranks under a launcher: their connections and their processes."""

from __future__ import annotations

import contextlib
from pathlib import Path

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
