"""The formats of raw structures.

A new format is a line of :data:`FORMATS` and a file in this folder: a module with the three names of :class:`Reader`.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from hydragnn_hpc.atomic import StorageError
from hydragnn_hpc.dataset.read import files
from hydragnn_hpc.dataset.read.files import RawFile
from hydragnn_hpc.dataset.read.frames import Frame, FrameCheck
from hydragnn_hpc.dataset.read.targets import TargetSpec
from hydragnn_hpc.errors import UserError, nearest

FORMATS = {"ase-db": "ase_db", "hydragnn": "hydragnn", "extxyz": "extxyz", "lsms": "lsms", "ase": "ase_files"}
"""Module of each format, in the order in which they are tried on a file."""

WITH_SPLIT = frozenset({"hydragnn"})
"""Formats whose structures have the key ``split``: 0, 1 or 2, as in a data set."""

START_BYTES = 4096
"""How many first bytes of a file decide on its format."""

_SAMPLED_FILES = 15


class Reader(Protocol):
    """The interface of a format's module."""

    TARGETS: tuple[TargetSpec, ...]
    """The format's own targets; empty where the user names the targets."""

    @staticmethod
    def detect(start: bytes, name: str) -> bool:
        """Whether a file is of this format, by its first :data:`START_BYTES` and its name."""

    @staticmethod
    def frames(file: RawFile) -> Iterator[Frame | UserError]:
        """Yield the structures of a file; for a malformed one, an error instead.

        No more than one structure is in memory at a time, where the format allows it.
        """


def reader(form: str) -> Reader:
    """Return a format's module.

    Raises
    ------
    UserError
        If there is no such format.
    """
    if form not in FORMATS:
        raise UserError(f"--format {form}{nearest(form, ('auto', *FORMATS))}")
    module: Reader = importlib.import_module(f"{__name__}.{FORMATS[form]}")  # type: ignore[assignment]
    return module


def detect(source: Path) -> str:
    """Return which of :data:`FORMATS` a file, or the files of a folder or an archive, are in.

    A sample of the files is examined, and the most frequent format wins: there may be notes beside the data.

    Raises
    ------
    UserError
        If ``source`` cannot be read, or no file has a known format.
    """
    paths = files.visible(source) if source.is_dir() else []
    step = max(1, len(paths) // _SAMPLED_FILES)
    detected = [_format_of(file) for file in islice(files.iter_files(source, step), _SAMPLED_FILES + 1)]
    known = Counter(form for form in detected if isinstance(form, str)).most_common(1)
    if known:
        return known[0][0]
    problem = next((form for form in detected if isinstance(form, UserError)), None)
    if problem is not None:
        raise problem
    if not detected:
        raise UserError(f"{source}: contains no files; give the folder or archive that holds the data")
    if source.is_file() and not source.stat().st_size:
        raise UserError(f"{source}: the file is empty (0 bytes); write it again")
    raise UserError(
        f"{source}: is in none of the formats that can be read: LSMS text, extended XYZ, ASE databases,"
        " HydraGNN's, and what ASE recognises by name or content (POSCAR, .cif, .traj); convert it, or give --format"
    )


def _format_of(file: RawFile) -> str | UserError | None:
    """Return a file's format, None if it is unknown, or an error if the file cannot be read."""
    if file.problem:
        return UserError(f"{file.where}: {file.problem}")
    try:
        with file.open() as stream:
            start = bytes(stream.read(START_BYTES))
    except files.DAMAGE as error:
        return UserError(f"{file.where}: {files.reason(error)}")
    except UserError as error:
        return error
    return next((form for form in FORMATS if reader(form).detect(start, file.plain_name)), None)


def iter_frames(source: Path, form: str) -> Iterator[Frame | UserError]:
    """Yield the structures of a file, a folder or an archive; for a malformed one, an error instead.

    Raises
    ------
    UserError
        If ``source`` is missing, or an archive is damaged.
    """
    read, check = reader(form).frames, FrameCheck()
    for file in files.iter_files(source):
        if file.problem:
            yield UserError(f"{file.where}: {file.problem}")
            continue
        try:
            for frame in read(file):
                yield frame if isinstance(frame, UserError) else _checked(frame, check)
        except files.DAMAGE as error:
            yield UserError(f"{file.where}: {files.reason(error)}")
        except StorageError:
            raise
        except UserError as error:
            yield error


def _checked(frame: Frame, check: FrameCheck) -> Frame | UserError:
    try:
        check(frame)
    except UserError as error:
        return error
    return frame
