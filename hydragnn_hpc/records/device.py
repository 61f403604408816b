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
        None where the device has none. Of a slice of a card (MIG): the slice's own.
    pci_address : str or None
        Domain, bus and device, hexadecimal; None where torch does not know it.
    mps : bool or None
        Whether NVIDIA's Multi-Process Service runs, which lets kernels of several processes run at the same
        time; None on other devices.
    """

    type: str
    name: str
    index: int | None
    uuid: str | None
    pci_address: str | None = None
    mps: bool | None = None

    @property
    def identity(self) -> str | None:
        """What identifies it on its node: some drivers give all cards one UUID, and slices share an address."""
        return self.uuid if (self.uuid or "").startswith("MIG-") else self.pci_address or self.uuid

    @property
    def label(self) -> str:
        """Its name for human readers; its type where it has none."""
        return self.name or self.type
