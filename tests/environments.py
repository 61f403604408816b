"""Environments for tests: light ones that share the installed libraries, but not this package."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ENVIRONMENT = {
    # mpi4py looks for the MPI library in its own environment; a light one has none.
    "MPI4PY_LIBMPI": str(Path(sys.prefix) / "lib" / "libmpi.so.12"),
    "OMP_NUM_THREADS": "1",
}


def light(folder: Path) -> Path:
    """Make a virtual environment that finds this one's libraries; return its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    # Python processes .pth files in this folder only, not in those that it adds: so not the one of this package.
    (packages / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def environment_of(programs: Path) -> dict[str, str]:
    """Return the variables under which a light environment's programs come first, and mpirun is found."""
    here = Path(sys.executable).parent
    return {**os.environ, **ENVIRONMENT, "PATH": f"{programs}:{here}:/usr/bin:/bin"}
