"""Whether a run is active in a campaign's folder, and on which members: from its lock and its progress file."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

from hydragnn_hpc import processes
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder, read_json

STALE_SECONDS = 60.0
"""A run writes its progress every two seconds; on another host, it is presumed dead if the file is older than this."""


def progress_of(folder: CampaignFolder) -> tuple[dict[str, Any], bool]:
    """Return ``progress.json``, empty if there is none, and whether a run is active now."""
    progress = _read(folder.progress)
    written = timestamp(progress.get("time"))
    if written is None or not folder.lock.exists():
        return progress, False
    # On this host the process is looked up; on another, clocks have to be compared.
    lives = processes.lives(_read(folder.lock))
    return progress, abs(time.time() - written) < STALE_SECONDS if lives is None else lives


def _read(path: Path) -> dict[str, Any]:
    try:
        return mapping(read_json(path)) if path.exists() else {}
    except UserError:
        return {}  # it describes the present only; the members' own files hold the rest


def running_now(folder: CampaignFolder) -> dict[str, Any]:
    """Return the members being trained now, by name, with their progress."""
    progress, active = progress_of(folder)
    return mapping(progress.get("members_running")) if active else {}


def timestamp(stamp: Any) -> float | None:
    """Return a time, ISO 8601, in seconds since 1970; None if it is not one."""
    try:
        return datetime.fromisoformat(str(stamp)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}
