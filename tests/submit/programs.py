"""Stand-ins for the programs of schedulers."""

from __future__ import annotations

from pathlib import Path


def stand_in(folder: Path, name: str, body: str) -> None:
    """Make ``name`` a Bash script in ``folder/bin``, which a test puts on PATH."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/bash\n{body}\n")
    program.chmod(0o755)
