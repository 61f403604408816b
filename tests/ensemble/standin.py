"""A stand-in for the worker: speaks its protocol, sleeps instead of training, fails on demand.

``python standin.py WHAT SECONDS [worker options]`` where WHAT is ``good``, ``crash VARIANT``, ``silent VARIANT``, ``hopeless``
(dies before it is ready) or ``double`` (claims the same device on every rank).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

what, victim, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
given = dict(zip(sys.argv[4::2], sys.argv[5::2], strict=True))
incoming, outgoing = int(given["--in"]), int(given["--out"])
signal.signal(signal.SIGTERM, signal.SIG_IGN)


def say(kind: str, **more: object) -> None:
    """Send a message."""
    os.write(outgoing, json.dumps({"say": kind, **more}).encode() + b"\n")


def result(variant: str, replica: int) -> None:
    """Leave a result."""
    folder = Path(given["--campaign"]) / "members" / variant / f"{replica:02d}"
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {
        t: {"level": "graph", "unit": "Ry", "n": 1, "rmse": 0.1, "mae": 0.1, "rmse_unit": 1.0, "mae_unit": 1.0}
        for t in variant
    }
    content = {
        "schema": 1, "state": "finished", "variant": variant, "replica": replica, "seed": 0, "tasks": tasks, "epochs": 1,
        "validation_loss": 0.1, "best_epoch": 1, "stopped_by": "epochs", "seconds": seconds, "seconds_training": seconds,
        "seconds_validation": 0.0, "stack": [replica], "engine": "none", "attempt": 1, "sessions": [], "device": {},
        "threads": 1, "versions": {}, "weights_sha256": "", "config_hash": "", "dataset_sha256": "",
    }  # fmt: skip
    temporary = folder / ".tmp-result"
    temporary.write_text(json.dumps(content))
    temporary.replace(folder / "result.json")


if what == "hopeless":
    print("ImportError: no module named torch", file=sys.stderr)
    sys.exit(1)
uuid = "GPU-1" if what == "double" else None
say("ready", device={"type": "cpu", "name": "stand-in", "index": None, "uuid": uuid}, versions={}, pid=os.getpid())
buffer = b""
while received := os.read(incoming, 4096):
    buffer += received
    while b"\n" in buffer:
        line, buffer = buffer.split(b"\n", 1)
        message = json.loads(line)
        if message["do"] == "quit":
            sys.exit(0)
        if message["do"] != "train":
            continue
        variant = message["variant"]
        if variant == victim and what == "crash":
            print("about to crash", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if variant == victim and what == "silent":
            time.sleep(3600)
        for replica in message["replicas"]:
            time.sleep(seconds)
            result(variant, replica)
            say("finished", variant=variant, replica=replica, state="finished")
        say("done", variant=variant, replicas=message["replicas"])
