"""Standard output and error of a process, whatever they are connected to, in whatever encoding.

What goes to standard error is a courtesy: a full disk, a closed descriptor or a reader that is gone or does not read
must neither end a run nor hold it up. Standard output is what a command was asked for: failing to write it is an error.
"""

from __future__ import annotations

import codecs
import contextlib
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
"""How long a reader of standard error may take no text before it counts as stalled; then text is dropped."""
_SPELT = {"µ": "u", "μ": "u", "≤": "<=", "≥": ">=", "–": "-", "—": "-", "−": "-", "⁻": "-", "±": "+-", "×": "x",
          "“": '"', "”": '"'}  # fmt: skip
_SPELLING = "hydragnn_hpc.spelling"


class OptionalStream(io.TextIOBase):
    """A text stream that never raises and never waits for long: what cannot be written is dropped.

    Parameters
    ----------
    stream : TextIO or None
        What it writes to; None where the descriptor was closed.
    patience : float, optional
        Seconds to wait for a reader that does not read. After that, text is dropped until the reader goes on.
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
        """Whether text is taken: always."""
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
        # A pipe that has room takes a piece of this size without waiting.
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
    """Standard output: an error in writing is one line, and a reader that has gone ends the command in silence."""

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
        """Whether text is taken: always."""
        return True

    def write(self, text: str) -> int:
        """Write ``text``.

        Raises
        ------
        UserError
            If it cannot be written; with `ExitCode.READER_GONE` where nobody reads any more.
        """
        if text == "":  # typer tries streams out by it, and swallows errors
            return 0
        with self._errors():
            return self._stream.write(text)

    def flush(self) -> None:
        """Write what is buffered; errors as of `write`."""
        with self._errors():
            self._stream.flush()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is left in the buffer must not fail again when the interpreter ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                raise UserError("standard output: its reader is gone", ExitCode.READER_GONE) from error
            reason = error.strerror or error
            raise UserError(f"cannot write to standard output: {reason}; free space or write elsewhere") from error


@functools.lru_cache(maxsize=4)
def optional(stream: TextIO | None) -> OptionalStream:
    """Return ``stream`` as an `OptionalStream`, the same one at every call."""
    return stream if isinstance(stream, OptionalStream) else OptionalStream(stream)


def prepare() -> None:
    """Make this process's standard streams safe; call it first in a program."""
    # A file that was opened under the number of a closed standard stream would receive what libraries print.
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_SPELLING)
        sys.stdout = OutputStream(sys.stdout)
    sys.stderr = optional(sys.stderr)


def prepare_worker() -> None:
    """Make all that this process prints optional; call it first in a program whose output is a log."""
    sys.stdout, sys.stderr = optional(sys.stdout), optional(sys.stderr)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks by what it means, or by a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    plain = (_SPELT.get(s) or unicodedata.normalize("NFKD", s).encode("ascii", "ignore").decode() or "?" for s in signs)
    return "".join(plain), error.end


codecs.register_error(_SPELLING, _spell)
