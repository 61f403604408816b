"""The map of ranks: node, cores, memory and device of every rank, and problems with them.

``python -m hydragnn_hpc.ensemble.rankmap`` prints what MPI reports in this process: ``doctor`` uses it to try a
launcher.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from typing import TypeVar

from pydantic import ValidationError

from hydragnn_hpc import commands
from hydragnn_hpc.ensemble.launcher import LaunchEnvironment, detect, worker_environment
from hydragnn_hpc.ensemble.messenger import Messenger, placements
from hydragnn_hpc.ensemble.startup import end_without_launcher, mapped_files
from hydragnn_hpc.processes import outcome
from hydragnn_hpc.records.base import FileRecord
from hydragnn_hpc.records.doctor import MpiAnswer, RankResources, TorchAnswer

PATIENCE_SECONDS = 120.0  # for the answer of a probe
_Answer = TypeVar("_Answer", bound=FileRecord)


def probe(kind: type[_Answer], module: str, *arguments: str) -> tuple[_Answer | None, str]:
    """Run a probe module in a child process; return (its answer, "") or (None, the reason).

    The child gets a worker's environment, without the launcher's variables.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    try:
        done = commands.run(command, PATIENCE_SECONDS, environment=worker_environment(os.environ))
    except commands.SilentError as error:
        return None, str(error)
    lines = [line.strip() for line in (done.errors if done.code else done.output).splitlines() if line.strip()]
    last = lines[-1] if lines else "no output"
    if done.code == 0:
        try:
            return kind.model_validate_json(last), ""
        except ValidationError:
            return None, f"{last[:200]} (not the answer of {module})"
    return None, f"{last} ({outcome(done.code)})"


def gather_resources(messenger: Messenger, launch: LaunchEnvironment, local_rank: int | None) -> list[RankResources]:
    """Return every rank's resources, on every rank. Collective."""
    placement = placements(messenger, launch, local_rank)[messenger.rank]
    answer, trouble = probe(TorchAnswer, "hydragnn_hpc.member.device", str(placement.local_rank))
    own = RankResources(
        rank=placement.rank,
        host=placement.host,
        local_rank=placement.local_rank,
        cores=sorted(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        torch=answer,
        trouble=trouble,
    )
    return messenger.share(own)


def complaints(ranks: list[RankResources], slots: int) -> list[tuple[str, str]]:
    """Return what is wrong with a map, as (problem, remedy): shared devices, too few cores, torch that does not work.

    ``slots`` is the number of workers of each rank.
    """
    wrong = []
    by_device: dict[tuple[str, str], list[int]] = defaultdict(list)
    by_host: dict[str, list[RankResources]] = defaultdict(list)
    for rank in ranks:
        by_host[rank.host].append(rank)
        if rank.device and rank.device.type != "cpu":
            by_device[rank.host, str(rank.device.identity or rank.device.index)].append(rank.rank)
    for (host, device), sharing in by_device.items():
        if len(sharing) > 1:
            wrong.append(
                (
                    f"ranks {', '.join(map(str, sharing))} share device {device} of {host}",
                    "start one rank per device (srun --gpus-per-task=1, jsrun -g 1, mpiexec -ppn GPUS); to let"
                    " several workers share one, set launch.slots_per_device",
                )
            )
    for host, here in by_host.items():
        cores = {core for rank in here for core in rank.cores}
        if len(cores) < len(here) * slots:
            each = f" of {slots} workers each" if slots > 1 else ""
            wrong.append(
                (
                    f"{len(here)} ranks{each} on {host} share the cores {ranges(sorted(cores))} ({len(cores)} in all)",
                    "give each rank its own cores (srun -c N, mpiexec --depth N --cpu-bind depth), or start fewer",
                )
            )
    for rank in ranks:
        if rank.device is None:
            wrong.append((f"rank {rank.rank} on {rank.host}: torch does not work: {rank.trouble}", "fix torch there"))
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


def library_path() -> str:
    """Return the file of the MPI library that this process has loaded; empty if the system does not show it."""
    files = [str(path) for path in mapped_files() if path.name.startswith("libmpi") and ".so" in path.name]
    return min(files, key=len, default="")


def main() -> None:
    """Initialise MPI; print the MPI library, its file, rank and size, and what the launcher set, as JSON."""
    from mpi4py import MPI

    launch = detect(os.environ)
    answer = MpiAnswer(
        library=" ".join(MPI.Get_library_version().rstrip("\0").splitlines()[0].split()),
        file=library_path(),
        rank=MPI.COMM_WORLD.Get_rank(),
        size=MPI.COMM_WORLD.Get_size(),
        launcher=launch.launcher,
        launcher_size=launch.size,
    )
    # In one write: with PYTHONUNBUFFERED, print writes the newline separately, and the lines of two ranks may mix.
    sys.stdout.write(json.dumps(answer.model_dump()) + "\n")
    sys.stdout.flush()
    if launch.launcher is None:
        end_without_launcher()


def answers(text: str) -> list[MpiAnswer]:
    """Parse the output of several processes that ran :func:`main`, even without newlines between; [] if garbled."""
    parsed, decoder = [], json.JSONDecoder()
    while (start := text.find("{")) >= 0:
        try:
            value, end = decoder.raw_decode(text[start:])
            parsed.append(MpiAnswer.model_validate(value))
        except (ValueError, RecursionError):
            return []
        text = text[start + end :]
    return parsed


if __name__ == "__main__":
    main()
