"""The options of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hydragnn_hpc.ensemble.workers import WORKER_COMMAND


@dataclass(frozen=True)
class Timings:
    """Time limits of the communication between ranks, in seconds.

    Attributes
    ----------
    heartbeat : float
        Between two heartbeats of a rank; more where there are many ranks, so that rank 0 can read them all.
    lost : float
        Silence after which rank 0 considers a rank dead: generous, since a rank on a loaded node may be late.
    headless : float
        Silence after which a rank considers rank 0 dead; a slow file system may hold up rank 0 while it writes tables.
    notice : float
        Time for all ranks to notice a death and to remove their copies of the data.
    """

    heartbeat: float = 5.0
    lost: float = 120.0
    headless: float = 600.0
    notice: float = 20.0


@dataclass(frozen=True)
class RunOptions:
    """The options of ``run``.

    Attributes
    ----------
    campaign : Path
        The campaign file.
    overrides : list of str
        Settings that replace those of the file, as ``training.epochs=3``.
    out : Path
        The campaign's folder.
    seconds : float or None
        Time limit, from the call of `run` on. None: no limit.
    start_seconds : float
        Time limit for MPI's start.
    local_rank : int or None
        This rank's number on its node. None: as the launcher states it.
    stage_dir : Path or None
        Parent of the node-local copy. None: a folder is chosen.
    require_gpu : bool
        Whether a worker of a campaign with ``launch.device=auto`` may not fall back to the CPU.
    on_change : callable
        Called on rank 0 with the folder when results have changed.
    worker_command : tuple of str
        The worker's program and its first arguments.
    timings : Timings
    """

    campaign: Path
    overrides: list[str]
    out: Path
    seconds: float | None
    start_seconds: float
    local_rank: int | None
    stage_dir: Path | None
    require_gpu: bool
    on_change: Callable[[Path], object]
    worker_command: tuple[str, ...] = WORKER_COMMAND
    timings: Timings = field(default_factory=Timings)
