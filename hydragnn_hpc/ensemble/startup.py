"""Time limits on what waits for all ranks, such as MPI's start and end; and cleaning up after killed ranks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hydragnn_hpc.logs import print_line

SECONDS = 600.0
"""Limit for MPI's start and for other collective steps; the largest machines need a few minutes."""
_SEGMENTS = ("mpich_shm_*", "sm_segment.*", "Intel_MPI_*")  # MPICH's, Open MPI's, Intel MPI's
_SETTLED_SECONDS = 60.0  # a segment is mapped right after it is made


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End this process, with one line, if the body takes longer than ``seconds``.

    MPI's start waits for every rank, and one that exits before it with an error code (a node on which Python
    cannot start) blocks the others forever: most launchers end them only after a signal. MPI holds the interpreter's
    lock meanwhile, so that neither a thread nor a signal handler could run: a child process watches.
    """
    parent = os.getpid()
    watcher = os.fork()
    if watcher == 0:
        try:
            _watch(parent, seconds)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(watcher, signal.SIGKILL)
        os.waitpid(watcher, 0)


def _watch(parent: int, seconds: float) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    limit = time.monotonic() + seconds
    while os.getppid() == parent:
        if time.monotonic() > limit:
            line = (
                f"hydragnn-hpc: {socket.gethostname()}: MPI has not started within {seconds:.0f} s: another rank ended"
                " before it, or cannot be reached; see its node's messages above, or give --start-limit"
            )
            print_line(line)
            os.kill(parent, signal.SIGKILL)  # a launcher ends all ranks when one is killed by a signal
            break
        time.sleep(0.2)


@contextlib.contextmanager
def watched(seconds: float, complaint: str, leave: Callable[[], object]) -> Iterator[None]:
    """Print ``complaint`` and call ``leave`` if the body, which waits for other ranks, takes longer than ``seconds``.

    A thread watches: unlike MPI's start, later calls release the interpreter's lock; and once MPI has started, forking
    a child process could corrupt memory that the network uses.
    """

    def give_up() -> None:
        print_line(f"hydragnn-hpc: {socket.gethostname()}: {complaint} within {seconds:.0f} s")
        leave()

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def end_without_launcher() -> None:
    """Finalise MPI in a process that no launcher started, and remove its shared memory.

    Open MPI 5 leaves its removal to the launcher's daemon: without one, 16 MB stay behind.
    """
    from mpi4py import MPI

    segments = [path for path in mapped_files() if path.name.startswith("sm_segment.")]
    MPI.Finalize()
    for path in segments:
        with contextlib.suppress(OSError):
            path.unlink()


def mapped_files() -> set[Path]:
    """Return the files that this process maps; none where the system does not show them."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    return {Path(line[line.index("/") :]) for line in lines if "/" in line}


def remove_abandoned(folder: Path = Path("/dev/shm")) -> int:
    """Remove this user's shared memory of killed ranks: segments that MPI made and that no process maps any more.

    MPICH and Open MPI keep segments to the end; Intel MPI removes its own a moment after its start. Those of ranks that
    are killed before that would stay until the machine is restarted. Returns the number of segments removed.
    """
    settled = time.time() - _SETTLED_SECONDS
    own = []
    for path in (path for pattern in _SEGMENTS for path in folder.glob(pattern)):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid == os.getuid() and status.st_mtime < settled:
                own.append(path)
    abandoned = _unmapped(own)
    for path in abandoned:
        with contextlib.suppress(OSError):
            path.unlink()
    return len(abandoned)


def _unmapped(paths: list[Path]) -> list[Path]:
    """Return those that no process maps; the maps of every process are read once, however many paths there are."""
    for maps in Path("/proc").glob("[0-9]*/maps") if paths else ():
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's, which cannot map this user's segments
            mapped = maps.read_text(errors="replace")
            paths = [path for path in paths if str(path) not in mapped]
    return paths
