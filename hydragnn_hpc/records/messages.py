"""Messages between ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hydragnn_hpc.errors import ExitCode
from hydragnn_hpc.records.base import Message, Text
from hydragnn_hpc.records.events import Command, Report


class Heartbeat(Message):
    """The sender is alive. Rank 0 answers each heartbeat with one of its own."""

    kind: Literal["heartbeat"] = "heartbeat"


class Staged(Message):
    """From a node's first rank to all ranks of the node: the node's copy of the data is in ``folder``."""

    kind: Literal["staged"] = "staged"
    folder: Path


class WorkerCommand(Message):
    """From rank 0: pass ``command`` on to the worker of ``slot``."""

    kind: Literal["worker_command"] = "worker_command"
    slot: int
    command: Annotated[Command, Field(discriminator="kind")]


class WorkerReport(Message):
    """To rank 0: what happened to the worker of ``slot``."""

    kind: Literal["worker_report"] = "worker_report"
    slot: int
    report: Annotated[Report, Field(discriminator="kind")]


class SignalReceived(Message):
    """To rank 0: the sender has received a signal that asks the run to stop."""

    kind: Literal["signal_received"] = "signal_received"
    number: int


class RankFailed(Message):
    """To rank 0: the sender cannot continue, and the run ends with ``code``."""

    kind: Literal["rank_failed"] = "rank_failed"
    error: Text
    code: ExitCode


class End(Message):
    """From rank 0: the run is over; exit with ``code``."""

    kind: Literal["end"] = "end"
    code: ExitCode


class Farewell(Message):
    """To rank 0: the sender sends nothing more."""

    kind: Literal["farewell"] = "farewell"


RankMessage = Heartbeat | Staged | WorkerCommand | WorkerReport | SignalReceived | RankFailed | End | Farewell
