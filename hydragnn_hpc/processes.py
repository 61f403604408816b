"""The identity of a process: its number alone is not enough, since numbers are reused."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME = 19  # the field of /proc/PID/stat, counted from the state, which follows the name in brackets


@cache
def _kernel() -> dict[str, str]:
    """Return what distinguishes this system's processes from others: the boot, and the namespace of process numbers."""
    try:
        # A /proc of another namespace would show other processes under the same numbers.
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return {}
        return {"boot": _BOOT_ID.read_text("ascii").strip(), "namespace": str(Path("/proc/self/ns/pid").readlink())}
    except OSError:
        return {}


def identity() -> dict[str, Any]:
    """Return this process's identity, as plain data for a file.

    ``host`` and ``pid`` are for people. ``boot``, ``namespace`` and ``started`` (clock ticks since the system's start)
    make it unique; they are missing where the system does not provide them.
    """
    about: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
    state = _stat(os.getpid())
    return {**about, **_kernel(), "started": state[_START_TIME]} if _kernel() and state else about


def same_system(other: Mapping[str, Any]) -> bool:
    """Whether a recorded identity is of a process of this system since its last boot."""
    return bool(_kernel()) and other.get("boot") == _kernel()["boot"]


def lives(other: Mapping[str, Any]) -> bool | None:
    """Whether the process of a recorded identity lives; None where this process cannot know.

    It cannot know for a process on another host, of an earlier boot, or in another container.
    """
    pid = other.get("pid")
    if not same_system(other) or other.get("namespace") != _kernel()["namespace"] or not isinstance(pid, int):
        return None
    state = _stat(pid)
    # Z and X: it has been killed, and its parent has not noticed yet.
    return bool(state) and state[0] not in ("Z", "X") and state[_START_TIME] == other.get("started")


def _stat(pid: int) -> list[str]:
    """Return the fields of a process's ``/proc/PID/stat`` from its state on; none where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
