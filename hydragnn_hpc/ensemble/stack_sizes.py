"""How many members of a variant one worker trains together."""

from __future__ import annotations

import contextlib
import math
from typing import Literal

from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.run import LogLine, StackReturned


class StackSizes:
    """The sizes of stacks, by variant and device.

    Parameters
    ----------
    stack : int or "auto"
        ``launch.stack``.
    replicas, workers : int
    folder : CampaignFolder
        Its events include what did not fit into memory in earlier runs.
    """

    def __init__(self, stack: int | Literal["auto"], replicas: int, workers: int, folder: CampaignFolder) -> None:
        self.auto = stack == "auto"
        self._replicas, self._workers = replicas, workers
        self._fitting = fitting_stacks(folder)
        self._even = 1

    def share(self, members: int) -> None:
        """Choose the size of automatic stacks, so that all workers share the ``members`` evenly."""
        self._even = even_stack(members, self._workers, self._replicas) if members else 1

    def largest(self, variant: str, device: Device | None) -> int | None:
        """Return how many members of a variant are trained together; None: as many as were planned."""
        fitting = self._fitting.get((variant, device.name)) if device else None
        if not self.auto:
            return fitting
        if device is None or device.type == "cpu":
            return 1  # a member's time is then its own
        return min(self._even, fitting or self._even)

    def limit(self, variant: str, device: str, members: int) -> int:
        """Limit later stacks of a variant to ``members``, at least one, on devices of this name; return the limit."""
        self._fitting[variant, device] = size = max(1, members)
        return size


def even_stack(members: int, workers: int, replicas: int) -> int:
    """Return how many of a variant's ``replicas`` to train together, so that ``workers`` share ``members`` evenly."""
    largest = min(math.ceil(members / workers), replicas)
    stacks = math.ceil(replicas / largest)
    return math.ceil(replicas / stacks)


def fitting_stacks(folder: CampaignFolder) -> dict[tuple[str, str], int]:
    """Return how many members fit into a device's memory, by variant and the device's name, as earlier runs learned."""
    fitting: dict[tuple[str, str], int] = {}
    with contextlib.suppress(OSError), folder.events.open(errors="replace") as stream:
        for line in (line for line in stream if '"most"' in line):
            with contextlib.suppress(ValueError):
                entry = LogLine.model_validate_json(line).root
                if isinstance(entry, StackReturned) and entry.most:
                    fitting[entry.variant, entry.device] = entry.most
    return fitting
