"""The program, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def command(*words: object, folder: Path | None = None) -> None:
    """Run a command of the program, in ``folder`` or here; it must succeed."""
    line = [sys.executable, "-m", "hydragnn_hpc", *map(str, words)]
    subprocess.run(line, check=True, cwd=folder, stdout=subprocess.DEVNULL)
