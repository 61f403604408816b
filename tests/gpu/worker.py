"""The worker on an emulated device: ``python -m tests.gpu.worker SEEN MEMORY FAULT [worker options]``.

MEMORY is the device's, in bytes. With FAULT ``capture``, no step can be captured. A line of JSON is added to the file
SEEN when the process ends, or before it reports an error.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

from hydragnn_hpc.member import worker
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from tests.gpu.emulated import Device, emulated


def fail_in_capture(device: Device) -> None:
    """Make every step wait for the device during its capture."""
    unchanged = TorchEngine._pass

    def waiting(*arguments):
        losses = unchanged(*arguments)
        if device.capturing is not None:
            losses.sum().item()
        return losses

    TorchEngine._pass = waiting  # type: ignore[method-assign]


def note(device: Device) -> None:
    """Add the record of the device to the file."""
    record = {"waits": device.waits, "captures": device.captures, "replays": device.launches["replay"]}
    record |= {"after_failure": device.after_failure, "peak": device.peak}
    with seen.open("a") as stream:
        stream.write(json.dumps(record) + "\n")


def report_of(*arguments):
    """Note first: the supervisor kills a worker that reports an error."""
    note(device)
    return reported(*arguments)


if find_spec("triton"):
    from tests.triton_interpreter import accelerate

    accelerate()
seen, memory, fault = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
del sys.argv[1:4]
with emulated(memory) as device:
    device.limit = memory
    if fault == "capture":
        fail_in_capture(device)
    reported, worker._report_of = worker._report_of, report_of
    code = worker.main()
    if code == 0:
        note(device)
sys.exit(code)
