"""The program, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAM = (sys.executable, "-m", "hydragnn_hpc")


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
    started = time.perf_counter()
    process = subprocess.Popen([*PROGRAM, *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    cpu = usage.ru_utime + usage.ru_stime
    return Usage(time.perf_counter() - started, cpu, usage.ru_maxrss / 1024)
