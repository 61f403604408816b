"""The device of a rank; ``python -m hydragnn_hpc.member.device LOCAL_RANK`` prints what torch reports as JSON.

The program is a child of ``doctor``: torch may fail to load, or kill its process, and ``doctor`` has to report it.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch

import hydragnn_hpc
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.doctor import TorchAnswer


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """Return the device of a local rank: its number modulo the visible devices.

    Raises
    ------
    UserError
        If no device of the requested kind is visible.
    """
    kinds = {"cuda": torch.cuda, "xpu": torch.xpu}
    for kind, module in kinds.items():
        if wanted in (kind, "auto") and module.is_available():
            return torch.device(kind, local_rank % module.device_count())
        if wanted == kind:
            raise UserError(f"launch.device={kind}: torch {torch.__version__} sees no such device; see 'doctor'")
    return torch.device("cpu")


_NO_MEMORY = (
    "can't allocate memory",  # torch's allocator on the CPU
    "out of memory",  # drivers of CUDA, ROCm and XPU
    "ALLOC_FAILED",  # cuBLAS, cuSOLVER
    "OUT_OF_DEVICE_MEMORY",  # Level Zero
    "OUT_OF_RESOURCES",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was lacking, on the host or on a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def describe(device: torch.device) -> Device:
    """Return the record of a device."""
    if device.type == "cpu":
        return Device(type="cpu", name=platform.machine(), index=None, uuid=None)
    module = {"cuda": torch.cuda, "xpu": torch.xpu}[device.type]
    properties = module.get_device_properties(device)
    uuid = str(getattr(properties, "uuid", "")) or None
    return Device(type=device.type, name=properties.name, index=device.index, uuid=uuid)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
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
    torch.set_float32_matmul_precision(PRECISION)  # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE has set another


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
    module = {"cuda": torch.cuda, "xpu": torch.xpu}.get(device.type)
    # A device that is listed but broken, or in use by another process, fails only when it is used.
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
