"""The output of rank 0 during a run: one line per event, and on a terminal a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO, Any, cast

from hydragnn_hpc.errors import spelt_out
from hydragnn_hpc.logs import log
from hydragnn_hpc.streams import optional


def stack_name(variant: str, replicas: Sequence[int]) -> str:
    """Return the name of a stack: ``HCM/00``, ``HCM/00-11`` for consecutive replicas, or else ``HCM/00,02``."""
    if len(replicas) == 1:
        return f"{variant}/{replicas[0]:02d}"
    if list(replicas) == list(range(replicas[0], replicas[-1] + 1)):
        return f"{variant}/{replicas[0]:02d}-{replicas[-1]:02d}"
    return f"{variant}/{','.join(f'{r:02d}' for r in replicas)}"


class Display:
    """Lines of output; on a terminal with a progress bar below them.

    Parameters
    ----------
    total : int
        Number of members of the campaign.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._bars: Any = None
        if optional(sys.stderr).isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("members"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            console = Console(file=cast("IO[str]", optional(sys.stderr)))
            self._bars = Progress(*columns, TextColumn("{task.description}"), console=console)
            self._bar = self._bars.add_task("", total=total)
            self._bars.start()

    def line(self, text: str) -> None:
        """Show an event."""
        if self._bars is None:
            log(text)
        else:
            self._bars.console.print(spelt_out(text), markup=False, highlight=False, emoji=False)

    def update(self, done: int, note: str) -> None:
        """Show how many members have a result, and a note."""
        if self._bars is not None:
            self._bars.update(self._bar, completed=done, description=note)

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bars is not None:
            self._bars.stop()
