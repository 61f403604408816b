"""Storage for a node-local copy: the candidates, their free space, and the job's memory limit."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydragnn_hpc.errors import UserError

_IN_MEMORY = ("tmpfs", "ramfs")
_PROC = Path("/proc/self")
# Per version of control groups: the files of a limit and of what is used, and the lines of memory.stat that say how
# much of that is the cache of files on disk, which the kernel gives back.
_V2 = ("memory.max", "memory.current", "active_file", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file")


@dataclass(frozen=True)
class _Mount:
    """A line of ``mountinfo``: what is mounted, from which folder in it, where, and its options."""

    device: str
    root: str
    point: Path
    kind: str
    options: tuple[str, ...]


def candidates(given: Path | None) -> list[Path]:
    """Return the folders in which a copy may be made, in order of preference."""
    if given is not None:
        return [given]
    # Schedulers set TMPDIR to a job's node-local storage.
    return list(dict.fromkeys(Path(p) for p in (os.environ.get("TMPDIR"), "/dev/shm", "/tmp") if p))


def node_local_parent(given: Path | None, needed: int = 0) -> Path:
    """Return the folder for node-local copies.

    That is ``given``, or else the first of ``$TMPDIR``, ``/dev/shm`` and ``/tmp`` that is writable and has ``needed``
    bytes free (`copies.space_needed`).

    Raises
    ------
    UserError
        If the given folder, or each of these, is unsuitable.
    """
    reasons = []
    for folder in candidates(given):
        reason = _why_unsuitable(folder, needed)
        if reason is None:
            return folder
        reasons.append(f"{folder} {reason}")
    raise UserError(f"no node-local storage for the data set: {'; '.join(reasons)}; give another --stage-dir")


def _why_unsuitable(folder: Path, needed: int) -> str | None:
    """Return why no copy can be made in ``folder``; None if one can."""
    try:
        if not folder.is_dir():
            return "is not a folder"
        if not os.access(folder, os.W_OK | os.X_OK):
            return "cannot be written"
        free = shutil.disk_usage(folder).free
        device = folder.stat().st_dev
    except OSError as error:
        return f"cannot be used ({error.strerror or error})"
    if free < needed:
        return f"has {free / 1e6:.1f} MB free of {needed / 1e6:.1f} MB needed"
    kind = next((m.kind for m in _mounts(_PROC) if m.device == f"{os.major(device)}:{os.minor(device)}"), "")
    allowed = memory_allowed() if kind in _IN_MEMORY else math.inf
    if needed > allowed / 2:  # workers need the rest
        return (
            f"is in memory, and the {needed / 1e6:.1f} MB needed are more than half of the {allowed / 1e6:.1f} MB left"
            " of the job's memory limit"
        )
    return None


def memory_allowed(proc: Path = _PROC) -> float:
    """Return how many bytes of memory the control groups of this process leave to it; infinite without a limit.

    What lies in a file system in memory counts as well, and whoever exceeds the limit is killed.
    """
    left = math.inf
    for folder, (limit, used, *cached) in _groups(proc):
        with contextlib.suppress(OSError, ValueError):  # "max" is not a number: no limit
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
            taken = int((folder / used).read_text("ascii")) - sum(int(statistics.get(key, 0)) for key in cached)
            left = min(left, max(int((folder / limit).read_text("ascii")) - taken, 0))
    return left


def _groups(proc: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the folders of this process's groups and of the groups that contain them, with the names of their files."""
    with contextlib.suppress(OSError, ValueError):
        mounts = _mounts(proc)
        for line in (proc / "cgroup").read_text("utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            for mount in mounts:
                if mount.kind == ("cgroup" if controllers else "cgroup2") and (
                    not controllers or "memory" in mount.options
                ):
                    # In a container, the mount may begin at the group itself.
                    path = Path(group)
                    inner = path.relative_to(mount.root if path.is_relative_to(mount.root) else "/")
                    for folder in (inner, *inner.parents):
                        yield mount.point / folder, _V1 if controllers else _V2


def _mounts(proc: Path) -> list[_Mount]:
    """Return what is mounted, the latest first: it hides others in its place."""
    mounts = []
    with contextlib.suppress(OSError):
        for line in (proc / "mountinfo").read_text("utf-8", "surrogateescape").splitlines():
            place, _, source = line.partition(" - ")
            _, _, device, root, point, *_ = place.split()
            kind, _, options = source.split(" ", 2)
            mounts.append(_Mount(device, root, Path(point), kind, tuple(options.split(","))))
    return mounts[::-1]
