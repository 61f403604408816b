"""Stand-ins for launchers that are not on this host: each checks its options and starts ranks as the real one does.

``python launchers.py jsrun ...`` takes jsrun's options, checks that nodes have room for what they describe, and starts
the ranks under this host's MPI, each with the variables that jsrun sets. The request is written as JSON to the file
that ``STAND_IN_RECORD`` names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

MPIRUN = Path(sys.executable).parent / "mpirun"


def jsrun(words: list[str]) -> tuple[dict[str, object], list[str]]:
    """``-n`` resource sets, ``-r`` of them per host, each with ``-a`` tasks, ``-g`` GPUs and ``-c`` cores."""
    parser = argparse.ArgumentParser()
    for option in ("-n", "-r", "-a", "-g", "-c"):
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("program", nargs=argparse.REMAINDER)
    given = parser.parse_args(words)
    assert given.n % given.r == 0, "the last host would be only partly filled"
    assert given.r * given.g <= 6, "a Summit node has 6 GPUs"
    assert given.r * given.c <= 42, "a Summit node has 42 usable cores"
    return {"ranks": given.n * given.a, "per_node": given.r * given.a, "cores": given.c}, given.program


def mpiexec(words: list[str]) -> tuple[dict[str, object], list[str]]:
    """PALS: ``-n`` ranks, ``-ppn`` per node, ``--cpu-bind depth`` with ``--depth``, or ``list:``, one part per rank."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-n", type=int, required=True)
    parser.add_argument("-ppn", type=int, required=True)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--cpu-bind", default="none")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    given = parser.parse_args(words)
    assert given.n % given.ppn == 0
    cores = given.depth
    if given.cpu_bind.startswith("list:"):
        parts = [part.split("-") for part in given.cpu_bind[5:].split(":")]
        assert len(parts) >= given.ppn, "a rank would have no cores"
        numbers = [n for a, b in parts for n in range(int(a), int(b) + 1)]
        assert len(numbers) == len(set(numbers)), "two ranks would share a core"
        assert not {0, 52} & set(numbers), "the first core of each socket is the system's"
        cores = len(numbers) // len(parts)
    return {"ranks": given.n, "per_node": given.ppn, "cores": cores}, given.program


def flux(words: list[str]) -> tuple[dict[str, object], list[str]]:
    """``flux run``: ``-N`` nodes, ``-n`` tasks, ``-c`` cores and ``-g`` GPUs per task."""
    assert words[0] == "run"
    parser = argparse.ArgumentParser()
    for option in ("-N", "-n", "-c", "-g"):
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("program", nargs=argparse.REMAINDER)
    given = parser.parse_args(words[1:])
    assert given.n % given.N == 0
    return {"ranks": given.n, "per_node": given.n // given.N, "cores": given.c}, given.program


OPTIONS = {"jsrun": jsrun, "mpiexec": mpiexec, "flux": flux}
VARIABLES = {
    "jsrun": {"rank": "JSM_NAMESPACE_RANK", "size": "JSM_NAMESPACE_SIZE", "local": "JSM_NAMESPACE_LOCAL_RANK"},
    "mpiexec": {"rank": "PALS_RANKID", "size": "PALS_SIZE", "local": "PALS_LOCAL_RANKID"},
    "flux": {"rank": "FLUX_TASK_RANK", "size": "FLUX_JOB_SIZE", "local": "FLUX_TASK_LOCAL_ID"},
}


def start(name: str, words: list[str]) -> None:
    """Check the options; become an mpirun that starts as many ranks, each through :func:`rank`."""
    asked, program = OPTIONS[name](words)
    Path(os.environ["STAND_IN_RECORD"]).write_text(json.dumps({"launcher": name, **asked, "program": program}))
    me = [sys.executable, __file__, "--rank", name, str(asked["per_node"])]
    os.execv(MPIRUN, [str(MPIRUN), "-n", str(asked["ranks"]), *me, *program])


def rank(name: str, per_node: int, program: list[str]) -> None:
    """Set the launcher's variables from those of this host's MPI; become the program."""
    number = int(os.environ["PMI_RANK"])
    values = {"rank": number, "size": int(os.environ["PMI_SIZE"]), "local": number % per_node}
    for what, variable in VARIABLES[name].items():
        os.environ[variable] = str(values[what])
    if name == "mpiexec":
        os.environ["PMI_LOCAL_RANK"] = str(values["local"])
    os.execvp(program[0], program)


if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        rank(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    else:
        start(sys.argv[1], sys.argv[2:])
