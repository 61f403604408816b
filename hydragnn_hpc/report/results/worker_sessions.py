"""Which worker trained what, and when: from the results and the event log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from hydragnn_hpc.records.run import LogEntry, LogLine, StackAssigned, StackFailed
from hydragnn_hpc.report.results.live import timestamp
from hydragnn_hpc.report.results.load import Results
from hydragnn_hpc.validation import one_line


@dataclass(frozen=True)
class WorkerSession:
    """A period in which a worker, (rank, slot), trained a stack, in seconds since 1970; ``failed`` if it died."""

    worker: tuple[int, int]
    variant: str
    started: float
    ended: float
    failed: bool = False


def read_sessions(results: Results) -> list[WorkerSession]:
    """Return the sessions of all workers: from the results, and failed attempts from the event log."""
    sessions = set()
    for member in results.members:
        for s in member.result.sessions if member.result else ():
            started, ended = (datetime.fromisoformat(t).timestamp() for t in (s.started, s.ended))
            sessions.add(WorkerSession((s.rank, s.slot), member.variant, started, ended))
    return sorted([*_merged(sessions), *_failed(results)], key=lambda s: (s.worker, s.started))


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


def _failed(results: Results) -> Iterator[WorkerSession]:
    """Yield the sessions that ended with a worker's death: no result holds them."""
    assigned: dict[tuple[int, int], float] = {}
    for event in read_log(results).entries:
        moment = timestamp(event.time)
        if moment is None:
            continue
        if isinstance(event, StackAssigned):
            assigned[event.rank, event.slot] = moment
        elif isinstance(event, StackFailed) and (event.rank, event.slot) in assigned:
            worker = (event.rank, event.slot)
            yield WorkerSession(worker, event.variant, assigned[worker], moment, failed=True)


@dataclass(frozen=True)
class EventLog:
    """The readable lines of the event log; ``problem`` counts the others and describes the first, "" if none."""

    entries: list[LogEntry]
    problem: str = ""


def read_log(results: Results) -> EventLog:
    """Read the event log, empty where there is none; a line that cannot be read, as after a kill, is left out."""
    path = results.folder.events
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return EventLog([])
    except OSError as error:
        return EventLog([], f"cannot read {path}: {error.strerror or error}; check its permissions")
    entries, lost = [], []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(LogLine.model_validate_json(line).root)
        except ValidationError as error:
            lost.append(f"line {number}: {one_line(error, LogLine)}")
    problem = f"{path}: {len(lost)} of {len(lines)} lines cannot be read ({lost[0]}), and are left out" if lost else ""
    return EventLog(entries, problem)
