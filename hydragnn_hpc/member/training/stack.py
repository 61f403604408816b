"""The members of a stack, and the worker that trains them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import numpy as np

from hydragnn_hpc.dataset.store import Manifest
from hydragnn_hpc.ledger import Frozen, now
from hydragnn_hpc.member.training.schedule import Schedule
from hydragnn_hpc.ownership import Ownership
from hydragnn_hpc.paths import CampaignFolder, MemberFolder
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.member import HistoryRow, Session


@dataclass
class StackMember:
    """One member of the stack, without its tensors.

    Attributes
    ----------
    replica, seed : int
    files : MemberFolder
    ownership : Ownership
    schedule : Schedule
    train, validation : numpy.ndarray
        Sample numbers of its training and validation sets.
    history : list of HistoryRow
        A row per epoch.
    sessions : list of Session
        When it was trained, and by which workers; the last is the current session.
    """

    replica: int
    seed: int
    files: MemberFolder
    ownership: Ownership
    schedule: Schedule
    train: np.ndarray
    validation: np.ndarray
    history: list[HistoryRow] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self.history)

    def log(self, line: str) -> None:
        """Add a line to the member's log, if it can be written."""
        with contextlib.suppress(OSError), self.ownership.held(), self.files.log.open("a", encoding="utf-8") as stream:
            stream.write(f"{now()} {line}\n")


@dataclass(frozen=True)
class WorkerContext:
    """What is common to all stacks that a worker trains.

    Attributes
    ----------
    folder : CampaignFolder
    frozen : Frozen
    manifest : Manifest
    host : str
    rank, slot : int
    device : Device
    versions : dict
        Versions of libraries, by package.
    """

    folder: CampaignFolder
    frozen: Frozen
    manifest: Manifest
    host: str
    rank: int
    slot: int
    device: Device
    versions: dict[str, str]
