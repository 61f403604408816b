"""MPI's start, within a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator

SECONDS = 600.0
"""Time for MPI's start; the largest machines take a few minutes."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End this process, with one line, if the body takes longer than ``seconds``.

    MPI's start waits for every rank, and a rank that ends before it with an exit code of its own (a node on which
    Python cannot start) is waited for for ever: most launchers end the others only after a signal. MPI holds the
    interpreter's lock meanwhile, so that no thread and no handler could help: a child process watches.
    """
    parent = os.getpid()
    watcher = os.fork()
    if watcher == 0:
        _watch(parent, seconds)
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
                " before it, or cannot be reached; see its node's messages above, or give --start-limit\n"
            )
            os.write(2, line.encode())
            os.kill(parent, signal.SIGKILL)  # a launcher ends all ranks where one is ended by a signal
            break
        time.sleep(0.2)
    os._exit(0)
