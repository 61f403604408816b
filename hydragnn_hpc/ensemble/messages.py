"""Point-to-point messages between ranks: small dictionaries. After start-up there is nothing else, no collective."""

from __future__ import annotations

import os
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from hydragnn_hpc.ensemble import startup
from hydragnn_hpc.ensemble.launcher import Launch, check_size

Message = dict[str, Any]
_TAG = 77


@dataclass(frozen=True)
class Place:
    """Where a rank runs.

    Attributes
    ----------
    rank : int
    host : str
    local_rank : int
        Its number among the ranks of its host, as the launcher counts, else in order of rank.
    leader : int
        The first rank of its host: it keeps the node's copy of the data.
    """

    rank: int
    host: str
    local_rank: int
    leader: int


class Messenger(Protocol):
    """Sends and receives among ranks."""

    rank: int
    size: int

    def send(self, to: int, message: Message) -> None:
        """Send without waiting."""

    def receive(self) -> list[tuple[int, Message]]:
        """Return what has arrived, as (from, message), without waiting."""

    def share(self, value: Any) -> list[Any]:
        """Give every rank every rank's value. Collective: at start-up only."""

    def abort(self, code: int) -> None:
        """End all ranks at once: the last resort, when one of them no longer answers."""


class Alone:
    """One rank, without MPI."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()

    def send(self, to: int, message: Message) -> None:
        """See `Messenger`."""
        self._waiting.append(message)

    def receive(self) -> list[tuple[int, Message]]:
        """See `Messenger`."""
        arrived = [(0, message) for message in self._waiting]
        self._waiting.clear()
        return arrived

    def share(self, value: Any) -> list[Any]:
        """See `Messenger`."""
        return [value]

    def abort(self, code: int) -> None:
        """See `Messenger`."""
        os._exit(code)


class OverMpi:
    """Ranks of an MPI communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Used for these messages only.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self._sending: list[Any] = []

    def send(self, to: int, message: Message) -> None:
        """See `Messenger`."""
        self._sending = [request for request in self._sending if not request.Test()]
        self._sending.append(self._comm.isend(message, dest=to, tag=_TAG))

    def receive(self) -> list[tuple[int, Message]]:
        """See `Messenger`."""
        from mpi4py import MPI

        arrived = []
        status = MPI.Status()
        while (message := self._comm.improbe(tag=_TAG, status=status)) is not None:
            arrived.append((status.Get_source(), message.recv()))
        return arrived

    def share(self, value: Any) -> list[Any]:
        """See `Messenger`. Collective."""
        return list(self._comm.allgather(value))

    def abort(self, code: int) -> None:
        """See `Messenger`."""
        self._comm.Abort(code)


def connect(launch: Launch, seconds: float = startup.SECONDS) -> Messenger:
    """Return the messenger for this launch; MPI is initialised only where a launcher started this process.

    Where MPI has not started after ``seconds``, the process is ended.

    Raises
    ------
    UserError
        If launcher and MPI library do not belong together.
    """
    if launch.launcher is None:
        return Alone()
    with startup.limited(seconds):
        from mpi4py import MPI

    check_size(launch, MPI.COMM_WORLD.Get_size(), MPI.Get_library_version())
    return OverMpi(MPI.COMM_WORLD.Dup())


def places(messenger: Messenger, launch: Launch, given_local_rank: int | None) -> list[Place]:
    """Return every rank's place. Collective: at start-up only."""
    local = given_local_rank if given_local_rank is not None else launch.local_rank
    told = messenger.share((socket.gethostname(), local))
    found = []
    for rank, (host, local_rank) in enumerate(told):
        same = [k for k, (other, _) in enumerate(told) if other == host]
        found.append(Place(rank, host, same.index(rank) if local_rank is None else local_rank, same[0]))
    return found
