"""Records of ``doctor``: the answers of the processes that it starts, the resources of every rank, its findings."""

from __future__ import annotations

from hydragnn_hpc.records.base import Count, FileRecord, NonNegative
from hydragnn_hpc.records.device import Device


class MpiAnswer(FileRecord):
    """What MPI and the launcher report about a process (`ensemble.rankmap`).

    Attributes
    ----------
    file : str
        Path of the MPI library; empty where the system does not show it.
    launcher : str or None
        The launcher's name; None where there is none.
    """

    library: str
    file: str
    rank: Count
    size: Count
    launcher: str | None
    launcher_size: Count


class TorchAnswer(FileRecord):
    """What torch finds on a node (`member.device`).

    Attributes
    ----------
    device : Device
        The one that the rank's worker uses.
    visible : int
        Number of accelerators that torch sees.
    capability : str
        The vector instructions that torch uses on the CPU.
    """

    versions: dict[str, str]
    device: Device
    visible: Count
    capability: str


class Adios2Answer(FileRecord):
    """ADIOS2 has written a file and read it back (`dataset.store.probe`)."""

    version: str


class RankResources(FileRecord):
    """What one rank has to work with.

    Attributes
    ----------
    cores : list of int
        Logical cores that it may run on (the affinity mask).
    memory_gib : float
        Memory of its node, GiB.
    torch : TorchAnswer or None
        None where torch does not work.
    trouble : str
        Why torch does not work; empty where it does.
    """

    rank: Count
    host: str
    local_rank: Count
    cores: list[Count]
    memory_gib: NonNegative
    torch: TorchAnswer | None
    trouble: str

    @property
    def device(self) -> Device | None:
        """The device that its worker uses."""
        return self.torch.device if self.torch else None


class Finding(FileRecord):
    """The outcome of one check: whether all is well, what was found, and what to do if not."""

    check: str
    well: bool
    found: str
    remedy: str = ""


class Diagnosis(FileRecord):
    """The output of ``doctor --json``; ``ranks`` is empty where no launcher started it."""

    well: bool
    findings: list[Finding]
    ranks: list[RankResources]
