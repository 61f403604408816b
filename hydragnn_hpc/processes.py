"""Processes: their identity, for which the PID alone is not enough, since it is reused; and how they ended."""

from __future__ import annotations

import os
import signal
import socket
from functools import cache
from pathlib import Path

from hydragnn_hpc.records.lock import ProcessIdentity

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME = 19  # the field of /proc/PID/stat, counted from the state, which follows the name in brackets


@cache
def _kernel() -> dict[str, str]:
    """Return what distinguishes this system's processes from others: the boot, and the PID namespace."""
    try:
        # A /proc of another namespace would show other processes under the same numbers.
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return {}
        return {"boot": _BOOT_ID.read_text("ascii").strip(), "namespace": str(Path("/proc/self/ns/pid").readlink())}
    except OSError:
        return {}


def identity() -> ProcessIdentity:
    """Return this process's identity."""
    host, pid, state = socket.gethostname(), os.getpid(), _stat(os.getpid())
    if not _kernel() or not state:
        return ProcessIdentity(host=host, pid=pid)
    return ProcessIdentity(host=host, pid=pid, **_kernel(), started=state[_START_TIME])


def same_system(other: ProcessIdentity) -> bool:
    """Whether a recorded identity is of a process of this system since its last boot."""
    return bool(_kernel()) and other.boot == _kernel()["boot"]


def lives(other: ProcessIdentity) -> bool | None:
    """Whether the process of a recorded identity lives; None where this process cannot know.

    It cannot know for a process on another host, of an earlier boot, or in another container; nor for another user's
    where ``/proc`` hides these (mount option ``hidepid``).
    """
    if not same_system(other) or other.namespace != _kernel()["namespace"]:
        return None
    state = _stat(other.pid)
    if not state:
        return None if _exists(other.pid) else False
    # Z (zombie) and X (dead): it has ended, and its parent has not collected its exit status yet.
    return state[0] not in ("Z", "X") and state[_START_TIME] == other.started


def outcome(code: int) -> str:
    """Return how a process ended, from the return code that `subprocess` gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:  # a real-time signal
        return f"killed by signal {-code}"


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used; 0 where ``/proc`` does not show it."""
    ticks = _stat(pid)[11:13]  # in user mode, and in the kernel
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """Return the fields of a process's ``/proc/PID/stat`` from its state on; an empty list where it has none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _exists(pid: int) -> bool:
    """Whether there is a process of this number, hidden or not: signal 0 is only checked, not delivered."""
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
