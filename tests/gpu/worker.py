"""The worker on a pretended device: ``python -m tests.gpu.worker SEEN MEMORY FAULT [worker options]``.

MEMORY is the device's in bytes. FAULT may be ``capture``: no step can be captured. A line of JSON is added to the file
SEEN as the process ends, or before it reports an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hydragnn_hpc.member import worker
from hydragnn_hpc.member.torch_engine.engine import TorchEngine
from tests.gpu.pretended import Device, pretended


def fail_in_capture(device: Device) -> None:
    """Let every step wait for the device while it is captured."""
    unchanged = TorchEngine._pass

    def waiting(*arguments):
        losses = unchanged(*arguments)
        if device.capturing is not None:
            losses.sum().item()
        return losses

    TorchEngine._pass = waiting  # type: ignore[method-assign]


def note(device: Device) -> None:
    """Add what has been seen to the file."""
    found = {"waits": device.waits, "captures": device.captures, "replays": device.launches["replay"]}
    found |= {"after_failure": device.after_failure, "most": device.most}
    with seen.open("a") as stream:
        stream.write(json.dumps(found) + "\n")


def end_of(*arguments):
    """Note first: whoever reports an error is killed."""
    note(device)
    return reported(*arguments)


seen, memory, fault = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
del sys.argv[1:4]
with pretended(memory) as device:
    device.limit = memory
    if fault == "capture":
        fail_in_capture(device)
    reported, worker._end_of = worker._end_of, end_of
    code = worker.main()
    if code == 0:
        note(device)
sys.exit(code)
