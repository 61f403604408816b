"""The device of a rank; ``python -m hydragnn_hpc.member.device LOCAL_RANK`` prints what torch reports as JSON.

``doctor`` runs it as a child process: torch may fail to load, or kill its process, which ``doctor`` reports.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hydragnn_hpc
from hydragnn_hpc.errors import UserError, first_line
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.doctor import TorchAnswer

_KINDS: dict[str, Any] = {"cuda": torch.cuda, "xpu": torch.xpu}
_MASKS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


def choose_device(
    requested: str, local_rank: int, *, require_gpu: bool = False, setting: str = "launch.device"
) -> torch.device:
    """Return the device of a local rank: its number modulo the number of visible devices.

    Parameters
    ----------
    requested : {"auto", "cpu", "cuda", "xpu"}
    local_rank : int
    require_gpu : bool, optional
        Whether ``auto`` fails, instead of falling back to the CPU, if there is no GPU.
    setting : str, optional
        Where the user requested it, for the error.

    Raises
    ------
    UserError
        If no device of the requested kind is visible or, with ``require_gpu``, no GPU.
    """
    for kind, module in _KINDS.items():
        if requested in (kind, "auto") and module.is_available():
            return torch.device(kind, local_rank % module.device_count())
        if requested == kind:
            raise UserError(f"{setting}={kind}: {_why_none(kind)}; to use the CPU, set {setting}=cpu")
    if requested == "auto" and require_gpu:
        raise UserError(f"--require-gpu: {_why_none(*_KINDS)}; to train on CPUs, leave out the option")
    return torch.device("cpu")


def _why_none(*kinds: str) -> str:
    """Return why torch sees no device of these kinds."""
    reasons = [f"{name} is '{os.environ[name]}'" for name in _MASKS if os.environ.get(name, "0") in ("", "-1")]
    built = {"cuda": torch.backends.cuda.is_built(), "xpu": torch.xpu._is_compiled()}  # type: ignore[no-untyped-call]
    if not any(built[kind] for kind in kinds):
        reasons.append(f"it is built without {' and '.join(kinds)}; install another build (README)")
    if not reasons:
        for kind in kinds:
            try:
                _KINDS[kind].init()
            except Exception as error:  # torch raises several types; the message may name a driver that is too old
                reasons.append(first_line(error))
    reason = "; ".join(reasons) or "the node has none, or the job was given none"
    return f"torch {torch.__version__} sees no GPU: {reason}"


_NO_MEMORY = (
    "can't allocate memory",  # torch's allocator on the CPU
    "out of memory",  # drivers of CUDA, ROCm and XPU
    "ALLOC_FAILED",  # cuBLAS, cuSOLVER
    "OUT_OF_DEVICE_MEMORY",  # Level Zero
    "OUT_OF_RESOURCES",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was lacking, on the host or on a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def describe(device: torch.device) -> Device:
    """Return the record of a device."""
    if device.type == "cpu":
        return Device(type="cpu", name=platform.machine(), index=None, uuid=None)
    properties = _KINDS[device.type].get_device_properties(device)
    # For a slice of a card (MIG), torch reports the card's UUID; a process sees no more than one slice.
    masked = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    uuid = masked if masked.startswith("MIG-") else str(getattr(properties, "uuid", "")) or None
    address = None
    if hasattr(properties, "pci_bus_id"):
        domain = getattr(properties, "pci_domain_id", 0)
        address = f"{domain:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}"
    mps = None
    if device.type == "cuda" and not torch.version.hip:
        mps = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"), "control").exists()
    return Device(type=device.type, name=properties.name, index=device.index, uuid=uuid, pci_address=address, mps=mps)


def make_current(device: torch.device) -> None:
    """Make an accelerator the default of this process."""
    if device.type in _KINDS:
        _KINDS[device.type].set_device(device)


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on, and of Python."""
    return {
        "hydragnn_hpc": hydragnn_hpc.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


PRECISION = "highest"
"""Of matrix products, in torch's words: float32 throughout, where a GPU could round factors to ten bits (TF32)."""


def set_arithmetic(threads: int) -> None:
    """Set the number of threads that torch uses, and the precision of matrix products."""
    # Under some launchers torch sees one core, under others all; the number of threads changes the order of sums.
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_float32_matmul_precision(PRECISION)  # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE may have set another


@contextmanager
def arithmetic(threads: int) -> Iterator[None]:
    """Use this number of threads and `PRECISION` inside the block, in a process that belongs to the user."""
    threads_before, precision_before = torch.get_num_threads(), None
    torch.set_num_threads(threads)
    # Where the user has chosen a precision for each backend, torch has no answer: that choice is respected.
    with suppress(RuntimeError):
        precision_before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(PRECISION)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        if precision_before is not None:
            torch.set_float32_matmul_precision(precision_before)


def main() -> None:
    """Print versions, the number of visible devices, and the device of the given local rank."""
    device = choose_device("auto", int(sys.argv[1]))
    module = _KINDS.get(device.type)
    # A device that is broken, or reserved by another process, is listed all the same, and fails only when it is used.
    total = float(torch.ones(8, device=device).sum())
    if total != 8.0:
        raise SystemExit(f"the sum of eight ones on {device} is {total}")
    answer = TorchAnswer(
        versions=versions(),
        device=describe(device),
        visible=module.device_count() if module else 0,
        capability=torch.backends.cpu.get_cpu_capability(),
    )
    print(json.dumps(answer.model_dump()))


if __name__ == "__main__":
    main()
