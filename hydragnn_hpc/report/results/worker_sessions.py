"""Which worker trained what, and when: from the results and the event log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.report.results.live import timestamp
from hydragnn_hpc.report.results.load import Results


@dataclass(frozen=True)
class WorkerSession:
    """A stretch of time in which a worker trained a stack, in seconds since 1970; ``failed`` if that failed."""

    worker: tuple[int, int]
    variant: str
    started: float
    ended: float
    failed: bool = False


def read_sessions(results: Results) -> list[WorkerSession]:
    """Return the sessions of all workers: from the results, and failed attempts from the event log."""
    found = set()
    for member in results.members:
        for s in member.result.sessions if member.result else ():
            began, ended = (datetime.fromisoformat(t).timestamp() for t in (s.started, s.ended))
            found.add(WorkerSession((s.rank, s.slot), member.variant, began, ended))
    return sorted([*_merged(found), *_failed(results)], key=lambda s: (s.worker, s.started))


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
    assigned: dict[tuple[int, int], float] = {}
    for event in events(results):
        worker, moment = (event.get("rank"), event.get("slot")), timestamp(event.get("time"))
        if not isinstance(worker[0], int) or not isinstance(worker[1], int) or moment is None:
            continue
        place = (worker[0], worker[1])
        if event.get("event") == "assign":
            assigned[place] = moment
        elif event.get("event") == "failed" and place in assigned:
            yield WorkerSession(place, str(event.get("variant", "")), assigned[place], moment, failed=True)


def events(results: Results) -> list[dict[str, Any]]:
    """Return the event log; a line cut short by a kill is skipped.

    Raises
    ------
    UserError
        If the file exists and cannot be read.
    """
    path = results.folder.events
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found
