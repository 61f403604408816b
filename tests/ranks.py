"""Ranks under a launcher: their connections and their processes."""

from __future__ import annotations

import contextlib
from pathlib import Path

OVER_NETWORK = {"MPIR_CVAR_CH4_NETMOD": "ofi", "MPIR_CVAR_NOLOCAL": "1"}  # no shared memory, as between nodes


def process_of(out: Path, variable: str, rank: int) -> int:
    """Return the process of a rank of the run into ``out``; its launcher states the rank in ``variable``."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            mine = f"{variable}={rank}" in (entry / "environ").read_bytes().decode().split("\0")
            if mine and str(out) in words and Path(words[0]).name.startswith("python"):
                return int(entry.name)
    raise AssertionError(f"no rank {rank}")
