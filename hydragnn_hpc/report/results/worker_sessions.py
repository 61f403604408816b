"""Which worker trained what, and when: from the results and the event log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hydragnn_hpc.records.run import StackAssigned, StackFailed
from hydragnn_hpc.report.results.event_log import read_log
from hydragnn_hpc.report.results.live import timestamp
from hydragnn_hpc.report.results.rows import Snapshot


@dataclass(frozen=True)
class WorkerSession:
    """A period in which a worker trained a stack.

    Attributes
    ----------
    worker : tuple of int
        Rank and slot.
    started, ended : float
        Seconds since 1970.
    failed : bool
        Whether the worker died.
    """

    worker: tuple[int, int]
    variant: str
    started: float
    ended: float
    failed: bool = False


def read_sessions(snapshot: Snapshot) -> list[WorkerSession]:
    """Return the sessions of all workers: from the results, and failed attempts from the event log."""
    sessions = set()
    for member in snapshot.members:
        for s in member.result.sessions if member.result else ():
            started, ended = timestamp(s.started), timestamp(s.ended)
            if started is not None and ended is not None:
                sessions.add(WorkerSession((s.rank, s.slot), member.variant, started, ended))
    return sorted([*_merged(sessions), *_failed(snapshot)], key=lambda s: (s.worker, s.started))


def _merged(sessions: set[WorkerSession]) -> list[WorkerSession]:
    """Merge overlapping sessions of one worker and variant: the members of a stack."""
    merged: list[WorkerSession] = []
    for s in sorted(sessions, key=lambda s: (s.worker, s.variant, s.started)):
        last = merged[-1] if merged else None
        if last and (last.worker, last.variant) == (s.worker, s.variant) and s.started < last.ended:
            merged[-1] = WorkerSession(last.worker, last.variant, last.started, max(last.ended, s.ended))
        else:
            merged.append(s)
    return merged


def _failed(snapshot: Snapshot) -> Iterator[WorkerSession]:
    """Yield the sessions in which the worker died, which no result holds."""
    assigned: dict[tuple[int, int], float] = {}
    for event in read_log(snapshot.folder).entries:
        moment = timestamp(event.time)
        if moment is None:
            continue
        if isinstance(event, StackAssigned):
            assigned[event.rank, event.slot] = moment
        elif isinstance(event, StackFailed) and (event.rank, event.slot) in assigned:
            worker = (event.rank, event.slot)
            yield WorkerSession(worker, event.variant, assigned[worker], moment, failed=True)
