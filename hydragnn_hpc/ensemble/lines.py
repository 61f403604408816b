"""Lines over pipes, robust to whatever the other end sends: reads are bounded, and nothing blocks."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass

_READ_BYTES = 1 << 16  # a pipe's usual capacity
_QUOTED_BYTES = 40


class BadLinesError(Exception):
    """What came through a pipe exceeds a limit, or is no message; the text says what."""


@dataclass(frozen=True)
class LineLimits:
    """Limits on what a reader accepts.

    Attributes
    ----------
    line_bytes : int
        The longest line. The longest event lists the members of a stack, some 150 bytes each.
    lines_per_second : int
        The most lines in a second. The smallest models finish some hundred epochs per second.
    """

    line_bytes: int = 4 << 20
    lines_per_second: int = 10_000


class LineReader:
    """Reads lines from a pipe.

    Parameters
    ----------
    descriptor : int
        Becomes non-blocking.
    limits : LineLimits

    Attributes
    ----------
    ended : bool
        The other end is closed, and all of its output has been read.
    """

    def __init__(self, descriptor: int, limits: LineLimits) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor, self._limits = descriptor, limits
        self._partial = bytearray()
        self._second, self._lines = 0, 0
        self.ended = False

    def read(self) -> list[bytes]:
        """Return the lines that one bounded read completes, without waiting; there may be more to read.

        Raises
        ------
        BadLinesError
            If a line is too long, or there are too many.
        """
        try:
            received = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return []
        self.ended = not received
        # Only new bytes are searched, so that a long line in small pieces does not take quadratic time.
        *complete, rest = received.split(b"\n")
        if complete:
            complete[0] = bytes(self._partial) + complete[0]
            self._partial.clear()
        self._partial += rest
        for line in (*complete, self._partial):
            if len(line) > self._limits.line_bytes:
                raise BadLinesError(f"a line of more than {self._limits.line_bytes:,} bytes, {quoted(bytes(line))}")
        self._count(len(complete))
        return complete

    def _count(self, lines: int) -> None:
        second = int(time.monotonic())
        self._lines = lines if second != self._second else self._lines + lines
        self._second = second
        if self._lines > self._limits.lines_per_second:
            raise BadLinesError(f"more than {self._limits.lines_per_second:,} lines per second")


class LineWriter:
    """Writes lines to a pipe; what does not fit is kept until there is room.

    Parameters
    ----------
    descriptor : int
        Becomes non-blocking.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._unsent = b""
        self._blocked_at = 0.0

    def write(self, line: bytes) -> None:
        """Append ``line`` to what is unsent, and write as much as fits."""
        if not self._unsent:
            self._blocked_at = time.monotonic()
        self._unsent += line
        with contextlib.suppress(BlockingIOError):
            try:
                while self._unsent:
                    self._unsent = self._unsent[os.write(self._descriptor, self._unsent) :]
                    self._blocked_at = time.monotonic()
            except BrokenPipeError:
                self._unsent = b""  # the reader has ended

    @property
    def blocked_seconds(self) -> float:
        """How long unsent bytes have been waiting for the reader; 0 if there are none."""
        return time.monotonic() - self._blocked_at if self._unsent else 0.0


def quoted(line: bytes) -> str:
    """Return the beginning of ``line`` for a message."""
    return f"{line[:_QUOTED_BYTES]!r}{'...' if len(line) > _QUOTED_BYTES else ''}"


def wait_readable(descriptors: Iterable[int], seconds: float) -> None:
    """Wait until one of ``descriptors`` can be read, for at most ``seconds``."""
    # Not select.select, which cannot take descriptors above 1023: a rank of a large run may have that many.
    waiting = select.poll()
    for descriptor in descriptors:
        waiting.register(descriptor, select.POLLIN)
    waiting.poll(seconds * 1000)
