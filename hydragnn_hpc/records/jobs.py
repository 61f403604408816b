"""Records of submitted jobs, in the folder ``jobs`` of the campaign's folder."""

from __future__ import annotations

from hydragnn_hpc.records.base import Count, FileRecord, Text, Timestamp

LOCAL = "local"
"""In place of an identifier where there is no scheduler."""
MOST_RUNS = 50
"""The longest chain of jobs, unless the user chooses another."""


class SubmittedJob(FileRecord):
    """A line of ``submitted.jsonl``.

    Attributes
    ----------
    id : str
        The scheduler's identifier; `LOCAL` where there is no scheduler.
    scheduler : str
        Its name; the path of its files, without their suffix, where they are not the package's.
    queue, account : str
        Empty: the scheduler's default.
    members_left : int
        Members that were not finished when the job was submitted.
    """

    time: Timestamp
    id: str
    site: str
    scheduler: str
    nodes: Count
    queue: str
    account: str
    walltime_seconds: Count
    members_left: Count
    script: Text


class Chain(FileRecord):
    """``chain.json``: consecutive jobs, each of which continues where the one before it ended.

    Attributes
    ----------
    runs : int
        Jobs so far.
    late : int
        How many of the latest began too late to train anything.
    mark : str or None
        The campaign's progress when the latest began (`submit.chain.progress_mark`); None where it is not known.
    """

    runs: Count
    late: Count = 0
    mark: str | None = None
