"""Standard output and error of a process, whatever they are connected to, in whatever encoding.

Standard error is optional: a full disk, a closed descriptor, or a reader that has gone or does not read must neither
end a run nor hold it up. Standard output is what a command was run for: a failure to write it is an error.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import io
import os
import select
import sys
import unicodedata
from collections.abc import Iterator
from typing import TextIO

from hydragnn_hpc.errors import ExitCode, UserError

PATIENCE_SECONDS = 5.0
"""For how long a reader of standard error may read nothing before it counts as stalled; then text is dropped."""
_EQUIVALENTS = {"µ": "u", "μ": "u", "≤": "<=", "≥": ">=", "–": "-", "—": "-", "−": "-", "⁻": "-", "±": "+-", "×": "x",
          "“": '"', "”": '"'}  # fmt: skip
_SPELLING = "hydragnn_hpc.spelling"


class OptionalStream(io.TextIOBase):
    """A text stream that never raises and never blocks for long: text that cannot be written is dropped.

    Parameters
    ----------
    stream : TextIO or None
        The stream to write to; None where the descriptor was closed.
    patience : float, optional
        Seconds to wait for a reader that does not read. After that, text is dropped until the reader continues.
    """

    def __init__(self, stream: TextIO | None, patience: float = PATIENCE_SECONDS) -> None:
        self._stream, self._patience = stream, patience
        self._stalled = False
        self._handle = -1
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._handle = stream.fileno()  # type: ignore[union-attr]
            stream.flush()  # type: ignore[union-attr]

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._handle >= 0 and os.isatty(self._handle)

    def fileno(self) -> int:
        """Return the descriptor."""
        if self._handle < 0:
            raise io.UnsupportedOperation("no descriptor")
        return self._handle

    def writable(self) -> bool:
        """Whether text is accepted: always."""
        return True

    def write(self, text: str) -> int:
        """Write ``text``, or drop it."""
        content = text.encode(self.encoding, _SPELLING)
        with contextlib.suppress(OSError, ValueError):
            if self._handle >= 0:
                self._put(content)
            elif self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
        return len(text)

    def _put(self, content: bytes) -> None:
        # A pipe that has room takes a piece of this size without blocking.
        for start in range(0, len(content), select.PIPE_BUF):
            if not self._has_room():
                return
            piece = content[start : start + select.PIPE_BUF]
            while piece:
                piece = piece[os.write(self._handle, piece) :]

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._handle, select.POLLOUT)
        self._stalled = not poll.poll(0 if self._stalled else int(self._patience * 1000))
        return not self._stalled


class OutputStream(io.TextIOBase):
    """Standard output: a write error becomes one line, and a reader that has gone ends the command silently."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Whether text is accepted: always."""
        return True

    def write(self, text: str) -> int:
        """Write ``text``.

        Raises
        ------
        UserError
            If it cannot be written; with `ExitCode.READER_GONE` where its reader has gone.
        """
        if text == "":  # typer writes it to test a stream, and swallows the error
            return 0
        with self._errors():
            return self._stream.write(text)

    def flush(self) -> None:
        """Write what is buffered; errors as for `write`."""
        with self._errors():
            self._stream.flush()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is left in the buffer must not fail again when the interpreter exits.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                raise UserError("standard output: its reader is gone", ExitCode.READER_GONE) from error
            reason = "it is closed" if error.errno == errno.EBADF else error.strerror or error
            raise UserError(f"cannot write to standard output: {reason}; free space or write elsewhere") from error


@functools.lru_cache(maxsize=4)
def optional(stream: TextIO | None) -> OptionalStream:
    """Return ``stream`` as an `OptionalStream`, the same one at every call."""
    return stream if isinstance(stream, OptionalStream) else OptionalStream(stream)


def prepare() -> None:
    """Wrap this process's standard streams; call it first in a program."""
    # A file that was opened under the number of a closed standard stream would receive what libraries print.
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    if sys.stdout is None:  # closed: a descriptor above 2 that can only be read fails with the same error
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_SPELLING)
        sys.stdout = OutputStream(sys.stdout)
    sys.stderr = optional(sys.stderr)


def prepare_worker() -> None:
    """Make both standard streams optional; call it first in a program whose output is a log."""
    sys.stdout, sys.stderr = optional(sys.stdout), optional(sys.stderr)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Replace a character that an encoding lacks by an equivalent, or by a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    plain = (
        _EQUIVALENTS.get(s) or unicodedata.normalize("NFKD", s).encode("ascii", "ignore").decode() or "?" for s in signs
    )
    return "".join(plain), error.end


codecs.register_error(_SPELLING, _spell)
