"""Messages between a worker and its rank: events from the worker, commands to it, each a line of JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from hydragnn_hpc.records.base import Count, Message, NonNegative, Text
from hydragnn_hpc.records.claim import Claim
from hydragnn_hpc.records.device import Device

EndState = Literal["finished", "diverged"]


class Ready(Message):
    """The worker has its device and its data, and waits for work."""

    kind: Literal["ready"] = "ready"
    device: Device
    versions: dict[str, str]
    pid: int


class Alive(Message):
    """The worker makes progress; sent at most once a second."""

    kind: Literal["alive"] = "alive"


class MemberEpoch(Message):
    """One member's latest epoch.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    validation_loss : float
        Not finite where the member diverges.
    seconds : float
        Training and validation of the epoch.
    """

    replica: Count
    epoch: Count
    validation_loss: float
    learning_rate: float
    seconds: NonNegative


class Epoch(Message):
    """The stack has finished an epoch; ``members`` are those that continue."""

    kind: Literal["epoch"] = "epoch"
    variant: str
    members: tuple[MemberEpoch, ...]


class Finished(Message):
    """One member has its result; the rest of its stack continues."""

    kind: Literal["finished"] = "finished"
    variant: str
    replica: int
    state: EndState


class EngineChanged(Message):
    """A member continues with another engine, vector lanes, GPU or size of its stack than before its interruption."""

    kind: Literal["engine_changed"] = "engine_changed"
    variant: str
    replica: int
    before: str
    after: str


class Done(Message):
    """Every member of the stack has its result; the worker is idle."""

    kind: Literal["done"] = "done"
    variant: str
    replicas: tuple[int, ...]


class Stopped(Message):
    """The stack has been saved before its end, as requested; the worker is idle. ``replicas`` have no result yet."""

    kind: Literal["stopped"] = "stopped"
    variant: str
    replicas: tuple[int, ...]


class Failed(Message):
    """The worker cannot continue, and ends; ``detail`` is the exception's type."""

    kind: Literal["failed"] = "failed"
    cause: Text
    detail: str


class Returned(Message):
    """The worker ends, and returns its stack through no fault of the members; a new worker continues with them.

    ``reason`` is ``memory`` where the stack is too large for the device, ``graphs`` where its steps cannot be captured.
    ``fits`` is the estimated number of members that the device's memory suffices for, None if it is not known.
    """

    kind: Literal["returned"] = "returned"
    reason: Literal["memory", "graphs"]
    detail: Text
    fits: int | None = None


Event = Ready | Alive | Epoch | EngineChanged | Finished | Done | Stopped | Failed | Returned


class Died(Message):
    """Reported by the rank: the worker has ended or was killed; ``last_output`` are the last lines of its log."""

    kind: Literal["died"] = "died"
    cause: Text
    detail: str = ""
    last_output: tuple[str, ...] = ()


class Broken(Message):
    """Reported by the rank: the worker cannot be started, and is not tried again."""

    kind: Literal["broken"] = "broken"
    cause: Text


Report = Event | Died | Broken
"""All that rank 0 receives about a worker."""


class Train(Message):
    """Train these replicas of a variant together, claiming their folders with ``claim``.

    ``attempt`` is counted from 1 within the run; ``capture`` is whether steps may be captured as CUDA or XPU
    graphs; ``epochs`` is the maximum number of epochs, None for the campaign's.
    """

    kind: Literal["train"] = "train"
    variant: str
    replicas: tuple[int, ...]
    attempt: int
    claim: Claim
    capture: bool = True
    epochs: int | None = None


class Stop(Message):
    """Save the stack at the end of its epoch, and wait for work."""

    kind: Literal["stop"] = "stop"


class Quit(Message):
    """Save the stack at the end of its epoch, and end."""

    kind: Literal["quit"] = "quit"


Command = Train | Stop | Quit

_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])
_COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])


def to_line(message: Event | Command) -> bytes:
    """Return ``message`` as one line of JSON."""
    return message.model_dump_json().encode() + b"\n"


def read_event(line: bytes) -> Event:
    """Parse a worker's line.

    Raises
    ------
    ValueError
        If it is not the JSON of an event.
    """
    return _EVENT.validate_json(line)


def read_command(line: bytes) -> Command:
    """Parse a line sent to a worker.

    Raises
    ------
    ValueError
        If it is not the JSON of a command.
    """
    return _COMMAND.validate_json(line)
