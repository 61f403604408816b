"""The event log of a campaign's runs: which workers were given which stacks, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from hydragnn_hpc.errors import spelt_out
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.run import LogEntry, LogLine
from hydragnn_hpc.validation import one_line


@dataclass(frozen=True)
class EventLog:
    """The entries of ``events.jsonl``, in the order in which they were written.

    Attributes
    ----------
    entries : list of LogEntry
        From the lines that can be read; a kill may have cut one short.
    problem : str
        How many lines cannot be read, and why the first cannot; empty if all can.
    """

    entries: list[LogEntry]
    problem: str = ""


def read_log(folder: CampaignFolder) -> EventLog:
    """Read the event log; it is empty where there is no file."""
    path = folder.events
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return EventLog([])
    except OSError as error:
        return EventLog([], f"cannot read {path}: {error.strerror or error}; the runs that it records are not shown")
    entries, unreadable = [], []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(LogLine.model_validate_json(line).root)
        except ValidationError as error:
            unreadable.append(f"line {number}: {spelt_out(one_line(error, LogLine))}")
    if not unreadable:
        return EventLog(entries)
    count = f"{len(unreadable)} of {len(lines)} lines"
    return EventLog(entries, f"{path}: {count} cannot be read ({unreadable[0]}), and are left out")
