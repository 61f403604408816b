"""Point-to-point messages between ranks (`records.messages`), and which ranks still answer.

After start-up ranks communicate in no other way, and without collectives, so that a lost rank holds up no other.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from hydragnn_hpc.ensemble import startup
from hydragnn_hpc.ensemble.launcher import LaunchEnvironment, check_size
from hydragnn_hpc.records.messages import RankMessage

_EMPTY_PROBES = 2
_T = TypeVar("_T")


@dataclass(frozen=True)
class RankPlacement:
    """Where a rank runs.

    Attributes
    ----------
    rank : int
    host : str
    local_rank : int
        Its number among the ranks of its host.
    leader : int
        The first rank of its host: it keeps the node's copy of the data.
    """

    rank: int
    host: str
    local_rank: int
    leader: int


class Messenger(Protocol):
    """Sends and receives among ranks.

    Attributes
    ----------
    rank, size : int
    unreachable : set of int
        Ranks to which a message could not be sent: they have ended.
    """

    rank: int
    size: int
    unreachable: set[int]

    def send(self, to: int, message: RankMessage) -> None:
        """Send to another rank, without waiting; what cannot be sent is dropped, and its receiver is `unreachable`."""

    def receive(self) -> list[tuple[int, RankMessage]]:
        """Return what has arrived, as (from, message), without waiting."""

    def share(self, value: _T) -> list[_T]:
        """Return the values of all ranks. Collective: at start-up only."""

    def abort(self, code: int) -> None:
        """End all ranks at once: the last resort, when one of them no longer answers."""

    def close(self, code: int) -> None:
        """Finalise MPI, together with all other ranks; exit with ``code`` if that does not return."""


class SoloMessenger:
    """One rank, without MPI."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.unreachable: set[int] = set()

    def send(self, to: int, message: RankMessage) -> None:
        """See `Messenger`; there is nobody to send to."""

    def receive(self) -> list[tuple[int, RankMessage]]:
        """See `Messenger`."""
        return []

    def share(self, value: _T) -> list[_T]:
        """See `Messenger`."""
        return [value]

    def abort(self, code: int) -> None:
        """See `Messenger`."""
        os._exit(code)

    def close(self, code: int) -> None:
        """See `Messenger`."""


class MpiMessenger:
    """Ranks of an MPI communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Used for these messages only.
    """

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self._comm, self._mpi = comm, MPI
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.unreachable: set[int] = set()
        self._sending: list[tuple[int, Any]] = []

    def send(self, to: int, message: RankMessage) -> None:
        """See `Messenger`."""
        try:
            self._sending.append((to, self._comm.isend(message, dest=to)))
        except self._mpi.Exception:
            self.unreachable.add(to)

    def _is_done(self, to: int, request: Any) -> bool:
        try:
            return bool(request.Test())
        except self._mpi.Exception:
            self.unreachable.add(to)
            return True

    def receive(self) -> list[tuple[int, RankMessage]]:
        """See `Messenger`."""
        self._sending = [(to, request) for to, request in self._sending if not self._is_done(to, request)]
        arrived = []
        status = self._mpi.Status()
        nothing = 0
        # A probe that finds nothing may make the progress that lets the next one find something.
        while nothing < _EMPTY_PROBES:
            # The error does not say whose connection broke; that rank becomes silent, or a message to it fails.
            with contextlib.suppress(self._mpi.Exception):
                message = self._comm.improbe(status=status)
                if message is not None:
                    arrived.append((status.Get_source(), message.recv()))
                    nothing = 0
                    continue
            nothing += 1
        return arrived

    def share(self, value: _T) -> list[_T]:
        """See `Messenger`. Collective."""
        return list(self._comm.allgather(value))

    def abort(self, code: int) -> None:
        """See `Messenger`."""
        self._comm.Abort(code)

    def close(self, code: int) -> None:
        """See `Messenger`."""
        with startup.watched(startup.SECONDS, "all is saved, but MPI has not ended", lambda: os._exit(code)):
            self._mpi.Finalize()


class RankMonitor:
    """Detects which of the monitored ranks no longer answer.

    Parameters
    ----------
    messenger : Messenger
    ranks : iterable of int
        Those to monitor.
    patience : float
        Seconds of silence after which a rank is lost.

    Attributes
    ----------
    lost : set of int
        Silent for too long, or unreachable.
    departed : set of int
        Ranks that have sent their farewell.
    """

    def __init__(self, messenger: Messenger, ranks: Iterable[int], patience: float) -> None:
        self._messenger, self._patience = messenger, patience
        self._last_checked = time.monotonic()
        self._last_heard = dict.fromkeys(ranks, self._last_checked)
        self.lost: set[int] = set()
        self.departed: set[int] = set()

    @property
    def expected(self) -> list[int]:
        """The monitored ranks that have neither departed nor been lost."""
        return sorted(self._last_heard.keys() - self.departed - self.lost)

    def record_message(self, rank: int) -> None:
        """Record that a rank has sent something."""
        if rank in self._last_heard:
            self._last_heard[rank] = time.monotonic()

    def silent(self, seconds: float) -> list[int]:
        """Return those of `expected` that have sent nothing for ``seconds``."""
        return [rank for rank in self.expected if self._last_heard[rank] < time.monotonic() - seconds]

    def newly_lost(self) -> list[int]:
        """Return the ranks that have been lost since the last call.

        Time in which this rank itself was held up does not count as silence: messages may have arrived meanwhile.
        """
        now = time.monotonic()
        pause, self._last_checked = now - self._last_checked, now
        if pause > self._patience / 10:
            self._last_heard = {rank: heard + pause for rank, heard in self._last_heard.items()}
        silent = self.silent(self._patience)
        lost = [rank for rank in self.expected if rank in silent or rank in self._messenger.unreachable]
        self.lost.update(lost)
        return lost


def connect(launch: LaunchEnvironment, seconds: float = startup.SECONDS) -> Messenger:
    """Return the messenger for this launch; MPI is initialised only where a launcher started this process.

    If MPI has not started after ``seconds``, the process is ended.

    Raises
    ------
    UserError
        If the launcher does not match the MPI library.
    """
    if launch.launcher is None:
        return SoloMessenger()
    with startup.limited(seconds):
        from mpi4py import MPI

    check_size(launch, MPI.COMM_WORLD.Get_size(), MPI.Get_library_version())
    return MpiMessenger(MPI.COMM_WORLD.Dup())


def placements(messenger: Messenger, launch: LaunchEnvironment, given_local_rank: int | None) -> list[RankPlacement]:
    """Return where every rank runs. Collective: at start-up only.

    Local ranks are those given; otherwise the launcher's, if they are distinct on a host; otherwise in order of rank.
    """
    shared = messenger.share((socket.gethostname(), given_local_rank, launch.local_rank))
    of_host: dict[str, list[int]] = {}
    for rank, (host, _, _) in enumerate(shared):
        of_host.setdefault(host, []).append(rank)
    placed = []
    for rank, (host, given, _) in enumerate(shared):
        ranks = of_host[host]
        counted = [local_rank for r in ranks if (local_rank := shared[r][2]) is not None]
        if len(set(counted)) < len(ranks):
            counted = list(range(len(ranks)))
        placed.append(RankPlacement(rank, host, counted[ranks.index(rank)] if given is None else given, ranks[0]))
    return placed
