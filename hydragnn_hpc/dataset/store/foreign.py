"""ADIOS2 folders of other programs: unpacked into plain arrays, and packed from them, by a child process.

Such a folder has no checksums, and on a damaged one ADIOS2 may end its process: here that is an error in one line. The
child is ``python -m hydragnn_hpc.dataset.store.foreign unpack|pack BP FOLDER``; ``FOLDER`` holds ``index.json`` and a
``.npy`` file for each variable.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc import processes
from hydragnn_hpc.atomic import StorageError, storage_errors
from hydragnn_hpc.dataset.imports import import_adios2
from hydragnn_hpc.dataset.store import bp5
from hydragnn_hpc.dataset.store.spool import ranges
from hydragnn_hpc.errors import UserError

INDEX = "md.idx"
"""The file by which an ADIOS2 folder is recognised."""
MAGIC = b"ADIOS-BP v"
"""How that file begins."""

PATIENCE = 60.0
"""Seconds that ADIOS2 may take, beyond those for a folder's size."""
_SLOWEST = 5e6  # bytes per second, slower than any disk in use
_PLAN = "index.json"
_REPORTED = {3: StorageError, 4: UserError}  # exit codes of a child whose last line is the error for the user


@dataclass
class Contents:
    """The content of an ADIOS2 folder: ``attributes`` (numbers, text, or lists of these) and ``arrays`` by name."""

    attributes: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def unpack(bp: Path, folder: Path, without: Sequence[str] = ()) -> Contents:
    """Read ``bp``; ``folder`` keeps the arrays' files. Variables with a part of their path in ``without`` are left out.

    Raises
    ------
    UserError
        If it cannot be read.
    StorageError
        If ``folder`` cannot be written.
    """
    _run("unpack", bp, folder, *without)
    plan = json.loads((folder / _PLAN).read_text("utf-8"))
    arrays = {name: np.load(folder / file, mmap_mode="r") for name, file in plan["arrays"].items()}
    return Contents(plan["attributes"], arrays)


def pack(bp: Path, folder: Path, attributes: dict[str, Any], files: dict[str, str]) -> None:
    """Write ``bp`` in one step from the ``.npy`` ``files`` in ``folder``, by variable.

    Raises
    ------
    UserError
        If ADIOS2 fails.
    """
    (folder / _PLAN).write_text(json.dumps({"attributes": attributes, "arrays": files}), encoding="utf-8")
    _run("pack", bp, folder)
    for profile in bp.glob("*profiling.json"):
        profile.unlink()


def _run(action: str, bp: Path, folder: Path, *more: str) -> None:
    words = [sys.executable, "-P", "-m", "hydragnn_hpc.dataset.store.foreign", action, str(bp), str(folder), *more]
    size = sum(path.stat().st_size for where in (bp, folder) if where.is_dir() for path in where.iterdir())
    patience = PATIENCE + size / _SLOWEST
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=patience)
    except subprocess.TimeoutExpired as error:  # it waits for data that a damaged index promises
        raise _failed(action, bp, f"ADIOS2 took more than {patience:.0f} s") from error
    if done.returncode in _REPORTED:
        raise _REPORTED[done.returncode](done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise _failed(action, bp, bp5.reason_in(done.stderr) or f"ADIOS2 ended: {processes.outcome(done.returncode)}")


def _failed(action: str, bp: Path, reason: str) -> UserError:
    remedy = "it is damaged, or not an ADIOS2 folder" if action == "unpack" else "is the disk full?"
    return UserError(f"cannot {'read' if action == 'unpack' else 'write'} {bp}: {reason}; {remedy}")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _unpack(bp: Path, folder: Path, without: Sequence[str]) -> None:
    with bp5.opened(bp) as reader:
        attributes = {name: _plain(reader.read_attribute(name)) for name in reader.available_attributes()}
        files = {}
        for number, name in enumerate(sorted(reader.available_variables())):
            if not set(name.split("/")) & set(without):
                files[name] = f"{number}.npy"
                array = np.asarray(reader.read(name))
                with storage_errors(folder):
                    np.save(folder / files[name], array, allow_pickle=False)
    with storage_errors(folder):
        (folder / _PLAN).write_text(json.dumps({"attributes": attributes, "arrays": files}), encoding="utf-8")


def _pack(bp: Path, folder: Path) -> None:
    plan = json.loads((folder / _PLAN).read_text("utf-8"))
    io = import_adios2().Adios().declare_io("write")
    io.set_engine("BP5")
    with import_adios2().Stream(io, str(bp), "w") as stream:
        stream.begin_step()
        for name, file in plan["arrays"].items():
            array = np.load(folder / file, mmap_mode="r")
            for rows in ranges(array.shape, array.itemsize):
                chunk = np.array(array[rows])  # ADIOS2 takes no read-only memory
                stream.write(name, chunk, list(array.shape), [rows.start] + [0] * (array.ndim - 1), list(chunk.shape))
                stream.engine.impl.PerformDataWrite()  # otherwise ADIOS2 keeps everything in memory
        for name, value in plan["attributes"].items():
            text = isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], str))
            stream.write_attribute(name, value if text else np.array(value))
        stream.end_step()


if __name__ == "__main__":
    _action, _bp, _folder, *_without = sys.argv[1:]
    try:
        if _action == "unpack":
            _unpack(Path(_bp), Path(_folder), _without)
        else:
            _pack(Path(_bp), Path(_folder))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(3 if isinstance(error, StorageError) else 4)
