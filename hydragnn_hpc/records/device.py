"""The device that a worker trains on."""

from __future__ import annotations

from hydragnn_hpc.records.base import FileRecord


class Device(FileRecord):
    """A CPU or an accelerator.

    Attributes
    ----------
    type : str
        As torch names it: ``cpu``, ``cuda``, ``xpu``.
    name : str
    index : int or None
        Among the devices that the process sees; None for the CPU.
    uuid : str or None
        None where the device has none.
    """

    type: str
    name: str
    index: int | None
    uuid: str | None

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.name or self.type
