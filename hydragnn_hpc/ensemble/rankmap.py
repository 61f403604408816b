"""The map of ranks: node, cores, memory and device of every rank, and problems with them.

``python -m hydragnn_hpc.ensemble.rankmap`` prints what MPI reports in this process: ``doctor`` uses it to try a
launcher.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydragnn_hpc.ensemble.launcher import Launch, detect, worker_environment
from hydragnn_hpc.ensemble.messenger import Messenger, places
from hydragnn_hpc.ensemble.startup import end_without_launcher

PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Seat:
    """One rank's place.

    Attributes
    ----------
    cores : list of int
        Logical cores that it may run on (the affinity mask).
    memory_gib : float
        Of its node.
    torch : dict or None
        What ``member.device`` prints there: ``versions``, ``visible`` (a number), and ``device`` (``type, name, index,
        uuid``), the one that its worker uses. None where torch does not work.
    trouble : str
        Why torch does not work; empty where it does.
    """

    rank: int
    host: str
    local_rank: int
    cores: list[int]
    memory_gib: float
    torch: dict[str, Any] | None
    trouble: str

    @property
    def device(self) -> dict[str, Any] | None:
        """The device that its worker uses."""
        return self.torch["device"] if self.torch else None

    def plain(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return asdict(self)


def probe(module: str, *arguments: str) -> tuple[dict[str, Any] | None, str]:
    """Run a probe module in a child process; return (its answer, "") or (None, why there is none).

    The child gets a worker's environment: none of the launcher's variables.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command,
            env=worker_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {PATIENCE_SECONDS:.0f} s"
    if done.returncode == 0 and done.stdout.strip():
        return dict(json.loads(done.stdout.strip().splitlines()[-1])), ""
    said = [line for line in done.stderr.splitlines() if line.strip()]
    ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return None, f"{said[-1].strip() if said else 'no output'} ({ended})"


def seats(messenger: Messenger, launch: Launch, local_rank: int | None) -> list[Seat]:
    """Return every rank's seat, on every rank. Collective."""
    place = places(messenger, launch, local_rank)[messenger.rank]
    answer, trouble = probe("hydragnn_hpc.member.device", str(place.local_rank))
    seat = Seat(
        place.rank,
        place.host,
        place.local_rank,
        sorted(os.sched_getaffinity(0)),
        round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        answer,
        trouble,
    )
    return list(messenger.share(seat))


def complaints(found: list[Seat], slots: int) -> list[tuple[str, str]]:
    """Return the problems of a map as (problem, remedy): devices shared by more ranks than slots, shared cores."""
    wrong = []
    by_device: dict[tuple[str, str], list[int]] = defaultdict(list)
    by_host: dict[str, list[Seat]] = defaultdict(list)
    for seat in found:
        by_host[seat.host].append(seat)
        if seat.device and seat.device["type"] != "cpu":
            by_device[seat.host, str(seat.device.get("uuid") or seat.device["index"])].append(seat.rank)
    for (host, device), ranks in by_device.items():
        if len(ranks) > slots:
            wrong.append(
                (
                    f"ranks {_listed(ranks)} share device {device} of {host}",
                    "start one rank per device (srun --gpus-per-task=1, jsrun -g 1, mpiexec -ppn GPUS); to let"
                    " several workers share one, set launch.slots_per_device",
                )
            )
    for host, here in by_host.items():
        cores = {core for seat in here for core in seat.cores}
        if len(cores) < len(here):
            wrong.append(
                (
                    f"{len(here)} ranks on {host} share {len(cores)} cores ({ranges(sorted(cores))})",
                    "give each rank its own cores (srun -c N, mpiexec --depth N --cpu-bind depth), or start fewer",
                )
            )
    for seat in found:
        if seat.device is None:
            wrong.append((f"rank {seat.rank} on {seat.host}: torch does not work: {seat.trouble}", "fix torch there"))
    return wrong


def ranges(numbers: list[int]) -> str:
    """Return sorted numbers as ``0-3,8``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts)


def _listed(ranks: list[int]) -> str:
    return ", ".join(str(rank) for rank in ranks)


def library_path() -> str:
    """Return the file of the MPI library that this process has loaded; empty if the system does not show it."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    files = {line.split()[-1] for line in lines if "/libmpi" in line and ".so" in line}
    return min(files, key=len, default="")


def main() -> None:
    """Initialise MPI; print library, its file, rank and size, and what the launcher set, as JSON."""
    from mpi4py import MPI

    launch = detect(os.environ)
    description = {
        "library": " ".join(MPI.Get_library_version().rstrip("\0").splitlines()[0].split()),
        "file": library_path(),
        "rank": MPI.COMM_WORLD.Get_rank(),
        "size": MPI.COMM_WORLD.Get_size(),
        "launcher": launch.launcher,
        "launcher_size": launch.size,
    }
    # In one write: with PYTHONUNBUFFERED, print writes the newline separately, and the lines of two ranks may mix.
    sys.stdout.write(json.dumps(description) + "\n")
    sys.stdout.flush()
    if launch.launcher is None:
        end_without_launcher()


def answers(text: str) -> list[dict[str, Any]]:
    """Parse the output of several processes that ran :func:`main`, even without newlines between; [] if garbled."""
    found, decoder = [], json.JSONDecoder()
    while (start := text.find("{")) >= 0:
        try:
            value, end = decoder.raw_decode(text[start:])
        except ValueError:
            return []
        found.append(value)
        text = text[start + end :]
    return found


if __name__ == "__main__":
    main()
