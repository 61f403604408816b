"""A stand-in for the worker: speaks its protocol, sleeps instead of training, fails on demand.

``python -m tests.ensemble.standin WHAT VICTIM SECONDS [worker options]``: SECONDS is the time that a member takes, and
WHAT says what is out of the ordinary. Once the variant VICTIM is to be trained:

- ``crash``: it is killed by a signal, ``silent``: it sends nothing more
- ``speechless``: it dies after writing its results, before it reports them; ``returns``: it reports a lack of memory
- ``forgets``: it reports the end of training, but writes no result

Whatever VICTIM is:

- ``bad``: it sends what BAD has for a variant of that name
- ``hopeless``: it dies before it is ready
- ``good``: nothing
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from hydragnn_hpc.paths import MemberFolder, write_record
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.events import (
    Done,
    Event,
    Finished,
    Quit,
    Ready,
    Returned,
    Train,
    read_command,
    to_line,
)
from tests.member_records import ERRORS, a_result

BAD = {
    "garbage": b"\xff\x00\x80garbage\n",
    "number": b"17\n",
    "unknown": b'{"kind": "gossip"}\n',
    "incomplete": b'{"kind": "finished"}\n',
    "long": b"x" * (100 << 20),
    "no-newline": b"x",
    "flood": b'{"kind": "alive"}\n' * (1 << 20),
}
what, victim, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
given = dict(zip(sys.argv[4::2], sys.argv[5::2], strict=True))
incoming, outgoing = int(given["--in"]), int(given["--out"])
DEVICE = Device(type="cpu", name="stand-in", index=None, uuid=None)
signal.signal(signal.SIGTERM, signal.SIG_IGN)


def send(event: Event) -> None:
    """Send an event."""
    os.write(outgoing, to_line(event))


def write_result(variant: str, replica: int) -> None:
    """Write the result of a member."""
    files = MemberFolder(Path(given["--campaign"]), variant, replica)
    files.make()
    tasks = dict.fromkeys(variant, ERRORS)
    times = {"seconds": seconds, "seconds_training": seconds}
    write_record(files.result, a_result(variant=variant, replica=replica, tasks=tasks, device=DEVICE, **times))


if what == "hopeless":
    print("ImportError: no module named torch", file=sys.stderr)
    sys.exit(1)
send(Ready(device=DEVICE, versions={}, pid=os.getpid()))
buffer = b""
while received := os.read(incoming, 4096):
    buffer += received
    while b"\n" in buffer:
        line, buffer = buffer.split(b"\n", 1)
        command = read_command(line)
        if isinstance(command, Quit):
            sys.exit(0)
        if not isinstance(command, Train):
            continue
        variant = command.variant
        if variant == victim and what == "crash":
            print("about to crash", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if variant == victim and what == "silent":
            time.sleep(3600)
        if what == "bad" and variant in BAD:
            bad = BAD[variant]
            while bad:
                bad = bad[os.write(outgoing, bad) :]
            time.sleep(3600)
        if variant == victim and what in ("speechless", "returns"):
            for replica in command.replicas:
                write_result(variant, replica)
            if what == "returns":
                send(Returned(reason="memory", detail="out of memory"))
            os.kill(os.getpid(), signal.SIGKILL)
        for replica in () if variant == victim and what == "forgets" else command.replicas:
            time.sleep(seconds)
            write_result(variant, replica)
            send(Finished(variant=variant, replica=replica, state="finished"))
        send(Done(variant=variant, replicas=command.replicas))
