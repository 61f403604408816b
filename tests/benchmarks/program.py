"""The program, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAM = (sys.executable, "-m", "hydragnn_hpc")
MEASURE = """
import resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(code)
"""
"""Run in a small process: the peak that the system reports is at least that of the process that starts a command."""


@dataclass(frozen=True)
class Usage:
    """Wall time, CPU time and peak memory of a command."""

    wall_seconds: float
    cpu_seconds: float
    megabytes: float


def command(*words: object, folder: Path | None = None) -> None:
    """Run a command of the program, in ``folder`` or here; it must succeed."""
    subprocess.run([*PROGRAM, *map(str, words)], check=True, cwd=folder, stdout=subprocess.DEVNULL)


def measured(*words: object) -> Usage:
    """Run a command of the program, which must succeed; return what it took."""
    line = [sys.executable, "-I", "-S", "-c", MEASURE, *PROGRAM, *map(str, words)]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    wall, cpu, kilobytes = map(float, done.stdout.split())
    return Usage(wall, cpu, kilobytes / 1024)
