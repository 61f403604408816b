"""What torch finds on this node: ``python -m hydragnn_hpc.member.probe LOCAL_RANK`` prints it as JSON.

A child process of ``doctor``: torch may fail to load, or kill its process, and ``doctor`` has to live to tell.
"""

from __future__ import annotations

import json
import sys

import torch

from hydragnn_hpc.member.worker import choose_device, describe, versions


def main() -> None:
    """Print versions, the number of visible devices, and the device of the local rank given."""
    device = choose_device("auto", int(sys.argv[1]))
    module = {"cuda": torch.cuda, "xpu": torch.xpu}.get(device.type)
    # A device that is listed but broken, or taken by somebody else, fails only when it is used.
    total = float(torch.ones(8, device=device).sum())
    if total != 8.0:
        raise SystemExit(f"the sum of eight ones on {device} is {total}")
    print(
        json.dumps(
            {
                "versions": versions(),
                "device": describe(device).model_dump(),
                "visible": module.device_count() if module else 0,
                "capability": torch.backends.cpu.get_cpu_capability(),
            }
        )
    )


if __name__ == "__main__":
    main()
