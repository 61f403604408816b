"""Errors that a user can act on, and the exit codes of all commands."""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable


class ExitCode(enum.IntEnum):
    """Exit codes of ``hydragnn-hpc``."""

    DONE = 0
    MEMBERS_FAILED = 1
    USAGE = 2
    AGAIN = 75  # EX_TEMPFAIL of sysexits.h: out of time; run the same command again
    INTERRUPTED = 130
    READER_GONE = 141  # as of a process killed by SIGPIPE: nobody reads standard output any more


class UserError(Exception):
    """An error that a user can act on, in one line: what, where, the value, the remedy.

    Parameters
    ----------
    message : str
        The line. A line break with the white space around it becomes a space; other control characters are spelt out.
    exit_code : ExitCode, optional
        The exit code of the command that fails with this error.
    """

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(spelt_out(re.sub(r"\s*[\n\r\f\v\x1c-\x1e\x85\u2028\u2029]\s*", " ", message).strip()))
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the error's type if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def spelt_out(text: str) -> str:
    """Write control characters as in Python's source: a name in a file of unknown origin must not control terminals."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` or the list of known words, if any, to append to an error."""
    known = sorted(known)
    other_case = [name for name in known if name.casefold() == word.casefold()]
    close = other_case or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


def refuse_control_characters(name: str, what: str) -> None:
    """Refuse a name that does not fit into one line of a file or script.

    Raises
    ------
    UserError
        If it holds a line break, another control character, or a byte that is not UTF-8.
    """
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name):
        raise UserError(
            f"{what} {name!r} holds a line break, a control character or a byte that is not UTF-8; rename it"
        )
