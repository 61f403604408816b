"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def wait_for(condition: Callable[[], object], seconds: float = 100.0) -> None:
    """Wait until ``condition`` holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not in {seconds:.0f} s"
        time.sleep(0.05)


def has_ended(process: int) -> bool:
    """Return whether a process is gone, or is a zombie because its parent does not collect it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
