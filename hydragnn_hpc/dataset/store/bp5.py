"""The interface to ADIOS2: BP5 folders are written by a child process, and opened for reading after verification.

Writing runs in a process of its own (`hydragnn_hpc.dataset.store.bp5_writer`) because ADIOS2 2.12 aborts its process
when it closes a file on a full disk.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from hydragnn_hpc import processes
from hydragnn_hpc.dataset.imports import import_adios2
from hydragnn_hpc.dataset.store.spool import chunks
from hydragnn_hpc.errors import UserError

END = b"end\n"
"""What the writing process reads after the last array."""


def write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays (C-contiguous, by name) in one step into the BP5 folder ``folder``; empty ones are left out.

    Raises
    ------
    OSError
        If ADIOS2 fails, with the reason if it gives one.
    """
    command = [sys.executable, "-P", "-m", "hydragnn_hpc.dataset.store.bp5_writer", str(folder)]
    with tempfile.TemporaryFile("w+b") as output:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
        with contextlib.suppress(BrokenPipeError), child:  # a child that has died has printed why
            assert child.stdin is not None
            _send(child.stdin, {n: a for n, a in arrays.items() if a.size})  # ADIOS2 has no arrays of size zero
        if child.returncode == 0:
            return
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    reason = re.search(r"errno = \d+: ([^\x1b\n]+)", text)
    raise OSError(
        0, reason[1] if reason else f"ADIOS2 failed: {reason_in(text) or processes.outcome(child.returncode)}"
    )


def reason_in(text: str) -> str:
    """Return why ADIOS2 failed, from what it reports: the first line of its last exception, or else the last line."""
    _, exception, last = re.sub(r"\x1b\[[0-9;]*m", "", text).rpartition("[ADIOS2 EXCEPTION]")
    lines = last.strip().splitlines() or [""]
    return lines[0 if exception else -1].strip()


def _send(stream: IO[bytes], arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        stream.write(f"{name} {array.dtype.str} {' '.join(map(str, array.shape))}\n".encode())
        for chunk in chunks(array):
            stream.write(chunk.data.cast("B"))
    stream.write(END)


def check_path(path: Path) -> None:
    """Refuse a path that is not UTF-8, for which ADIOS2's errors are misleading.

    Raises
    ------
    UserError
        If it is not.
    """
    if str(path).encode("utf-8", "replace") != os.fsencode(path):
        raise UserError(f"{path}: ADIOS2 takes only paths that are UTF-8; give another name")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a BP5 folder for reading; the caller must have verified it, since ADIOS2 does not.

    Raises
    ------
    UserError
        If ADIOS2 refuses to open or read it, or its path is not UTF-8.
    """
    check_path(path)
    adios2 = import_adios2()
    try:
        with adios2.FileReader(str(path)) as reader:
            yield reader
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot read {path}: ADIOS2 reports: {reason_in(str(error))}; copy it again from its source, or prepare it"
            " again"
        ) from error
    finally:
        # Whatever its settings, ADIOS2 2.12's reader leaves a profile under this name when it closes.
        with contextlib.suppress(OSError):
            Path(f"/tmp/{path.name}_{os.getpid():x}_profiling.json").unlink()
