"""The identity of a process, and the run that holds a campaign's folder."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hydragnn_hpc.records.base import Count, FileRecord, Timestamp


class ProcessIdentity(FileRecord):
    """A process (`processes.identity`).

    Attributes
    ----------
    host : str
        For human readers: it need not be unique.
    pid : int
        Reused for later processes, so not unique alone.
    boot, namespace, started : str or None
        The boot, the PID namespace, and the clock ticks between the boot and the process's start: together with
        ``pid`` they are unique. None where the system does not provide them.
    """

    host: str
    pid: Count
    boot: str | None = None
    namespace: str | None = None
    started: str | None = None


class LockHolder(ProcessIdentity):
    """``run.lock``: the run that holds the folder.

    Attributes
    ----------
    since : str
        Local time.
    token : str
        Random: no other run has it.
    beats : int
        Advances as long as the run lives.
    """

    since: Timestamp
    token: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    beats: Count
