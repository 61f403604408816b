"""Ranks that share one Python's memory, so that rank 0 has hundreds of others to serve on a small machine.

Each rank but the first is forked from one process that has imported everything. It runs the package's own supervisor
over MPI; its worker only answers commands, and trains nothing:

    python light_ranks.py serve SOCKET RANKS CAMPAIGN OUT STAGE    # forks a rank for each connection
    mpirun -n 1 RANK-0 : -n RANKS python -I -S light_ranks.py join SOCKET

The process that the launcher starts (`join`) passes its connection to the launcher on, and waits for the rank.
"""

from __future__ import annotations

import array
import ctypes
import gc
import json
import os
import signal
import socket
import sys
from pathlib import Path

WORD = array.array("i").itemsize
"""Bytes of a descriptor's number."""
PR_SET_PDEATHSIG = 1
"""``prctl``: the signal that a process receives when its parent ends."""


def join(address: str) -> int:
    """In the process that the launcher started: have a rank forked in its place, and return that rank's exit code."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        descriptors = array.array("i", [int(os.environ["PMI_FD"]), 1, 2])
        line.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        line.sendall(json.dumps({k: v for k, v in os.environ.items() if k.startswith("PMI_")}).encode() + b"\n")
        code = line.recv(1)  # empty if the rank was killed
        line.recv(1)  # until it has ended
    return code[0] if code else 1


def work(template: Path, campaign: Path, incoming: int, outgoing: int) -> None:
    """Act as a worker whose members take no time to train."""

    def send(**event: object) -> None:
        os.write(outgoing, json.dumps(event).encode() + b"\n")

    device = {"type": "cpu", "name": "light", "index": None, "uuid": None}
    send(kind="ready", device=device, versions={}, pid=os.getpid())
    with open(incoming, "rb", closefd=False) as commands:
        for command in map(json.loads, commands):
            if command["kind"] == "quit":
                return
            variant, replicas = command.get("variant"), command.get("replicas", ())
            for replica in replicas:
                folder = campaign / "members" / variant / f"{replica:02d}"
                folder.mkdir(parents=True, exist_ok=True)
                result = {**json.loads(template.read_text()), "variant": variant, "replica": replica}
                (folder / ".tmp-result").write_text(json.dumps(result))
                (folder / ".tmp-result").rename(folder / "result.json")
                send(kind="finished", variant=variant, replica=replica, state="finished")
            if replicas:
                send(kind="done", variant=variant, replicas=replicas)


def serve(address: str, ranks: int, campaign: Path, out: Path, stage: Path) -> None:
    """Fork a rank for each connection; once there are ``ranks``, leave the file ``address``.full."""
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    import hydragnn_hpc.dataset.build.prepare  # noqa: F401
    from hydragnn_hpc.ensemble.options import RunOptions
    from hydragnn_hpc.ensemble.run import run
    from hydragnn_hpc.report.tables.registry import write_tables
    from tests.member_records import ERRORS, a_result

    template = Path(f"{address}.json")
    template.write_text(a_result(tasks={"H": ERRORS}).model_dump_json(by_alias=True), encoding="utf-8")
    worker = (sys.executable, "-I", "-S", __file__, "work", str(template))
    options = RunOptions(campaign, [], out, None, 600.0, None, stage, False, write_tables, worker)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.nice(19)  # ranks that wait for one another in MPI poll: let them leave rank 0 its core
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen(ranks)
        for number in range(1, ranks + 1):
            line, _ = door.accept()
            if os.fork() == 0:
                door.close()
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no rank outlives this server
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _take_place(line)
                MPI.Init_thread(MPI.THREAD_MULTIPLE)
                line.sendall(bytes([int(run(options))]))
                # C's exit lets MPI finish with the launcher; Python's would touch, and so copy, all shared memory.
                ctypes.CDLL(None).exit(0)
            line.close()
            if number == ranks:
                Path(f"{address}.full").touch()
    signal.pause()


def _take_place(line: socket.socket) -> None:
    """Take the launcher's connection and the output of the process at the other end of ``line``."""
    _, passed, _, _ = line.recvmsg(1, socket.CMSG_SPACE(3 * WORD))
    launcher, *outputs = array.array("i", passed[0][2])
    with line.makefile("rb") as stream:
        os.environ.update(json.loads(stream.readline()), PMI_FD=str(launcher))
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
        os.close(output)


if __name__ == "__main__":
    what, place, *rest = sys.argv[1:]
    if what == "join":
        sys.exit(join(place))
    elif what == "serve":
        serve(place, int(rest[0]), *map(Path, rest[1:]))
    else:
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        work(Path(place), Path(options["--campaign"]), int(options["--in"]), int(options["--out"]))
