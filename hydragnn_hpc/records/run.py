"""Records of a run in the campaign's folder: its progress while it is active, and a log of events."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, RootModel

from hydragnn_hpc.records.base import Count, FileRecord, NonNegative, Text, Timestamp
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.events import EndState


class RunningMember(FileRecord):
    """A member that is being trained.

    Attributes
    ----------
    epoch : int
        The latest, counted from 1; 0 before the first has ended.
    epoch_seconds : float
        How long that took.
    validation_loss : float or None
        None where it is not known, or not finite.
    """

    epoch: Count
    epoch_seconds: NonNegative
    rank: Count
    slot: Count
    host: str
    validation_loss: float | None


class WorkerDevice(FileRecord):
    """Where a worker is, and what it trains on."""

    rank: Count
    slot: Count
    host: str
    device: Device


class Progress(FileRecord):
    """``progress.json``: the progress of an active run.

    Attributes
    ----------
    time, started : str
        When this was written, and when the run began.
    members_running : dict
        By name, ``variant/replica``.
    seconds_left : float or None
        Estimated; None before the first member has finished.
    """

    time: Timestamp
    started: Timestamp
    members_running: dict[str, RunningMember]
    workers: tuple[WorkerDevice, ...]
    seconds_left: NonNegative | None


class _Entry(FileRecord):
    """A line of ``events.jsonl``."""

    time: Timestamp
    event: str


class _WorkerEntry(_Entry):
    """A line about one worker."""

    rank: Count
    slot: Count


class RunStarted(_Entry):
    """A run has begun."""

    event: Literal["start"] = "start"
    members_left: Count
    hosts: tuple[str, ...]
    ranks: Count


class StackAssigned(_WorkerEntry):
    """The worker was assigned these replicas."""

    event: Literal["assign"] = "assign"
    variant: str
    replicas: tuple[Count, ...]
    attempt: Count


class MemberFinished(_WorkerEntry):
    """The worker has written the result of a member: its variant and replica."""

    event: Literal["finished"] = "finished"
    member: tuple[str, Count]
    state: EndState


class StackEnded(_WorkerEntry):
    """The worker is idle: its stack is done, or has been saved before its end."""

    event: Literal["done", "stopped"]
    variant: str


class StackReturned(_WorkerEntry):
    """The worker has ended, and returned its stack through no fault of the members: ``reason`` as in `Returned`.

    Where memory was lacking, ``most`` members of the variant are trained together on a ``device`` of that name.
    """

    event: Literal["returned"] = "returned"
    variant: str
    replicas: tuple[Count, ...]
    reason: Literal["memory", "graphs"]
    detail: Text
    device: Text = ""
    most: Count | None = None


class StackFailed(_WorkerEntry):
    """The worker has died; ``final`` where its members are given up."""

    event: Literal["failed"] = "failed"
    variant: str
    replicas: tuple[Count, ...]
    cause: Text
    final: bool


class RunStopping(_Entry):
    """The run saves its members, and assigns no more."""

    event: Literal["stop"] = "stop"
    reason: str


class RunEnded(_Entry):
    """The run is over."""

    event: Literal["end"] = "end"
    finished: Count
    given_up: Count


LogEntry = (
    RunStarted | StackAssigned | MemberFinished | StackEnded | StackReturned | StackFailed | RunStopping | RunEnded
)


class LogLine(RootModel[Annotated[LogEntry, Field(discriminator="event")]]):
    """A line of ``events.jsonl``, of any kind."""
