"""Progress for the user: a bar on a terminal, plain lines in a batch log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from hydragnn_hpc.errors import spelt_out
from hydragnn_hpc.streams import optional

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 160  # columns, where no terminal sets the width, as in a batch log or a pipe
ProgressCallback = Callable[[int, int], None]
"""Called as ``progress(done, total)``; ``total`` is 0 if it is not known."""


def log(line: str) -> None:
    """Print one line to standard error with the local time, at once."""
    print_line(f"{time.strftime('%H:%M:%S')} {line}")


def print_line(line: str) -> None:
    """Print one line to standard error, at once and in one piece, so that lines of two ranks do not mix."""
    # With PYTHONUNBUFFERED, print writes the newline separately.
    optional(sys.stderr).write(spelt_out(line) + "\n")


def console(**options: Any) -> Console:
    """Return the console for tables: the terminal, or one of `PLAIN_WIDTH` columns for a batch log or a pipe."""
    from rich.console import Console

    default = Console(emoji=False, **options)  # a path may contain :x:
    return default if default.is_terminal else Console(width=PLAIN_WIDTH, no_color=True, emoji=False, **options)


@contextmanager
def progress(label: str, unit: str, every: float = 10.0) -> Iterator[ProgressCallback]:
    """Show the progress of ``label``, counted in ``unit``: a bar on a terminal, or a line every ``every`` seconds."""
    if optional(sys.stderr).isatty():
        with _bar(label, unit) as bar:
            yield bar
        return
    started = last = time.monotonic()
    latest = (0, 0)

    def update(done: int, total: int) -> None:
        nonlocal last, latest
        latest = (done, total)
        if time.monotonic() - last >= every:
            last = time.monotonic()
            log(f"{label}: {_count(done, total)} {unit}")

    yield update
    if latest[0]:
        log(f"{label}: {_count(*latest)} {unit} in {time.monotonic() - started:.1f} s")


def _count(done: int, total: int) -> str:
    return f"{done:,} of {total:,}" if total else f"{done:,}"


@contextmanager
def _bar(label: str, unit: str) -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=cast("IO[str]", optional(sys.stderr)))) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total or None)
