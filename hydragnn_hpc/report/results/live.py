"""Whether a run is active in a campaign's folder, and which members it trains: from its lock and its progress file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from hydragnn_hpc import processes
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder, read_record
from hydragnn_hpc.records.lock import LockHolder
from hydragnn_hpc.records.run import Progress, RunningMember

STALE_SECONDS = 60.0
"""A run writes the time into its progress file every two seconds; on another host, it is presumed dead if that time
differs from this host's by more than this."""


@dataclass(frozen=True)
class Live:
    """The run in a campaign's folder.

    Attributes
    ----------
    progress : Progress or None
        As it was last written; None where there is none, or none that can be read.
    active : bool or None
        Whether it is at work now; None where its progress cannot be read.
    problem : str
        Why its progress cannot be read, and the consequence; empty where it can.
    """

    progress: Progress | None = None
    active: bool | None = False
    problem: str = ""

    @property
    def running(self) -> dict[str, RunningMember]:
        """The members being trained now, by name."""
        return self.progress.members_running if self.progress and self.active else {}


def read_live(folder: CampaignFolder) -> Live:
    """Read the progress of a campaign's latest run, and whether it is active."""
    try:
        progress = read_record(folder.progress, Progress)
    except UserError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        return Live() if missing else Live(active=None, problem=f"{error}; whether a run is active is not known")
    written = timestamp(progress.time)
    if written is None or not folder.lock.exists():
        return Live(progress)
    try:
        lives = processes.lives(read_record(folder.lock, LockHolder))
    except UserError:
        lives = None
    # On this host the process is looked up; on another, where that gives None, only clocks can be compared.
    return Live(progress, abs(time.time() - written) < STALE_SECONDS if lives is None else lives)


def timestamp(stamp: str) -> float | None:
    """Return a time, ISO 8601, in seconds since 1970; None if it is malformed or out of range."""
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
