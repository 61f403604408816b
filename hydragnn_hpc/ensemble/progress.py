"""The progress of a run: what workers are training, how far they are, and how long the rest will take."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from hydragnn_hpc import ledger
from hydragnn_hpc.durations import SAVE_SECONDS
from hydragnn_hpc.ensemble.messenger import RankPlacement
from hydragnn_hpc.ensemble.stack_queue import Assignment, WorkerId, seconds_left
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.events import MemberEpoch
from hydragnn_hpc.records.run import Progress, RunningMember, WorkerDevice

_MOST_SHOWN = 4  # stacks beside the progress bar


@dataclass
class _Busy:
    """The progress of a worker that is training.

    Attributes
    ----------
    since : float
        Start of its stack, on the monotonic clock.
    epoch : int
        The latest that has ended, counted from 1.
    epoch_seconds : float
        How long that epoch took.
    losses : dict
        Validation losses of that epoch, by replica.
    """

    since: float
    epoch: int = 0
    epoch_seconds: float = 0.0
    losses: dict[int, float] = field(default_factory=dict)


class RunProgress:
    """The progress of all workers that are training, on the monotonic clock.

    Parameters
    ----------
    placements : list of RankPlacement
        Of every rank.
    deadline : float or None
        By which everything must be saved. None: no limit.
    """

    def __init__(self, placements: list[RankPlacement], deadline: float | None) -> None:
        self._placements, self._deadline = placements, deadline
        self._started_at = ledger.now()
        self._busy: dict[WorkerId, _Busy] = {}
        self._member_seconds: list[float] = []
        self._longest_epoch = 0.0

    def start(self, worker: WorkerId) -> None:
        """Record that a worker starts to train a stack."""
        self._busy[worker] = _Busy(time.monotonic())

    def epoch(self, worker: WorkerId, members: tuple[MemberEpoch, ...]) -> None:
        """Record the latest epoch of a worker's stack; that of a worker that trains nothing is ignored."""
        busy = self._busy.get(worker)
        if busy is None or not members:
            return
        busy.epoch = max(m.epoch for m in members)
        busy.epoch_seconds = max(m.seconds for m in members)
        busy.losses = {m.replica: m.validation_loss for m in members}
        self._longest_epoch = max(self._longest_epoch, busy.epoch_seconds)

    def member_finished(self, worker: WorkerId, seconds: float) -> None:
        """Record that a member of a worker's stack has finished, after ``seconds`` of training by its result."""
        # A resumed member has been trained for longer than its stack has run.
        self._member_seconds.append(max(seconds, time.monotonic() - self._busy[worker].since))

    def end(self, worker: WorkerId) -> None:
        """Record that a worker trains nothing."""
        self._busy.pop(worker, None)

    @property
    def any_epoch(self) -> bool:
        """Whether any member has finished an epoch."""
        return bool(self._longest_epoch or self._member_seconds)

    @property
    def time_is_up(self) -> bool:
        """Whether saving must begin now, so that everything is saved by the deadline."""
        # The epoch in progress must end first; a quarter is added because epochs vary in length.
        margin = 1.25 * self._longest_epoch + SAVE_SECONDS
        return self._deadline is not None and time.monotonic() > self._deadline - margin

    def seconds_left(self, waiting: int, idle: int) -> float | None:
        """Estimate the remaining time in seconds, with ``waiting`` stacks and ``idle`` workers; None if unknown."""
        now = time.monotonic()
        running = [now - busy.since for busy in self._busy.values()]
        return seconds_left(self._member_seconds, running, waiting, idle + len(self._busy))

    def epochs(self, running: Mapping[WorkerId, Assignment]) -> str:
        """Return the epochs of the first stacks being trained, in short: ``HCM 12, HC 31``."""
        first = list(running.items())[:_MOST_SHOWN]
        return ", ".join(f"{stack.variant} {self._busy[worker].epoch}" for worker, stack in first)

    def record(
        self, running: Mapping[WorkerId, Assignment], devices: Mapping[WorkerId, Device], left: float | None
    ) -> Progress:
        """Return the content of ``progress.json``; ``left`` is the remaining time in seconds, if known."""
        members = {}
        for worker, assignment in running.items():
            busy = self._busy[worker]
            for replica in assignment.replicas:
                loss = busy.losses.get(replica)
                members[f"{assignment.variant}/{replica:02d}"] = RunningMember(
                    epoch=busy.epoch,
                    epoch_seconds=busy.epoch_seconds,
                    rank=worker[0],
                    slot=worker[1],
                    host=self._placements[worker[0]].host,
                    validation_loss=loss if loss is not None and math.isfinite(loss) else None,
                )
        workers = [
            WorkerDevice(rank=worker[0], slot=worker[1], host=self._placements[worker[0]].host, device=device)
            for worker, device in sorted(devices.items())
        ]
        return Progress(
            time=ledger.now(),
            started=self._started_at,
            members_running=members,
            workers=tuple(workers),
            seconds_left=left,
        )
