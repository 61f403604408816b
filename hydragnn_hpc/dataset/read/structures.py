"""Structures with their numbers from extended XYZ files and ASE databases, one after another."""

from __future__ import annotations

import io
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase.io.extxyz import per_atom_properties
from ase.io.formats import UnknownFileTypeError

from hydragnn_hpc.dataset.read import files, xyz
from hydragnn_hpc.dataset.read.lsms import refuse_one_place
from hydragnn_hpc.dataset.read.units import to_bohr
from hydragnn_hpc.errors import UserError

FORMATS = ("lsms", "extxyz", "ase-db")
_SQLITE = b"SQLite format 3\x00"
_LARGEST_Z = 118
_LOOKED_AT = 15  # files
# What ASE raises on a damaged database depends on where the damage is.
_DAMAGE = (sqlite3.Error, UnknownFileTypeError, KeyError, IndexError, ValueError, TypeError, AttributeError, OSError)


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure of a file.

    Attributes
    ----------
    name : str
        ``file@number``, or the structure's own ``name``.
    where : str
        The file and the structure's number in it, for errors.
    atomic_numbers : numpy.ndarray
        ``[n_atoms]`` int32.
    pos, cell : numpy.ndarray
        ``[n_atoms, 3]`` and ``[3, 3]`` float64, bohr; the rows of ``cell`` are vectors, zeros where there is none.
    periodic : tuple of bool
        Along each lattice vector.
    values : dict
        What the file says of the structure, by key.
    columns : dict
        What it says of every atom, by key, ``[n_atoms, ...]``.
    """

    name: str
    where: str
    atomic_numbers: np.ndarray
    pos: np.ndarray
    cell: np.ndarray
    periodic: tuple[bool, bool, bool]
    values: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)


def detect(source: Path) -> str:
    """Return which of :data:`FORMATS` a file, the files of a folder or those of an archive have: by content.

    Of several files some are looked at, and what most of them are decides (a note may lie beside the data); ``lsms``
    where it is neither of the others.

    Raises
    ------
    UserError
        If ``source`` cannot be read.
    """
    if source.is_file() and not files.is_archive(source):
        return _format_of(_start_of(source), source.name)
    if source.is_dir():
        paths = [path for path in files.visible(source) if path.is_file()]
        found = [_format_of(_start_of(path), path.name) for path in paths[:: max(1, len(paths) // _LOOKED_AT)]]
    else:
        some = islice(files.iter_files(source), _LOOKED_AT)
        found = [_format_of(c[:4096], name) for name, c in some if not isinstance(c, UserError)]
    return Counter(found).most_common(1)[0][0] if found else "lsms"


def _start_of(path: Path) -> bytes:
    try:
        with files.decompressed(path) as stream:
            return bytes(stream.read(4096))
    except files.DAMAGE:
        return b""  # told where it is read


def _format_of(start: bytes, name: str) -> str:
    if start.startswith(_SQLITE) or start.lstrip().startswith(b"{"):
        return "ase-db"
    if xyz.is_count(start.split(b"\n", 1)[0]) or name.endswith((".xyz", ".extxyz")):
        return "extxyz"
    return "ase-db" if name.endswith((".db", ".json")) else "lsms"


def iter_frames(source: Path, form: str) -> Iterator[Frame | UserError]:
    """Yield the structures of a file, of a folder's files, or of an archive's; the reason where one is malformed.

    One structure is in memory at a time, and one file of an archive.

    Parameters
    ----------
    source : Path
        A file (extended XYZ may be compressed), a folder, or a tar archive.
    form : {"extxyz", "ase-db"}
        What the files are.

    Raises
    ------
    UserError
        If ``source`` is missing, or an archive is damaged.
    """
    read = {"extxyz": _frames_of_xyz, "ase-db": _frames_of_database}[form]
    for where, name, content in _contents(source):
        if isinstance(content, UserError):
            yield content
            continue
        for frame in read(content, where, name):
            yield frame if isinstance(frame, UserError) else _problem(frame) or frame


def _contents(source: Path) -> Iterator[tuple[str, str, Path | bytes | UserError]]:
    """Yield (where, name, file or its bytes)."""
    if source.is_dir():
        for path in files.visible(source):
            yield str(path), path.name, path if path.is_file() else UserError(f"{path}: is no plain file")
    elif source.is_file() and not files.is_archive(source):
        yield str(source), source.name, source
    else:
        for where, content in files.iter_files(source):
            yield where, Path(where).name, content


def _frames_of_xyz(content: Path | bytes, where: str, name: str) -> Iterator[Frame | UserError]:
    try:
        with files.decompressed(content) if isinstance(content, Path) else io.BytesIO(content) as stream:
            for number, chunk in xyz.iter_chunks(stream, where):
                yield chunk if isinstance(chunk, UserError) else _frame_of_chunk(chunk, f"{where}, frame {number}",
                                                                                f"{name}@{number}")  # fmt: skip
    except files.DAMAGE as error:
        if isinstance(error, OSError) and error.strerror:  # of the system, not of what is in the file
            yield UserError(f"{where}: cannot be read: {error.strerror}; mend that, or leave the file out")
        else:
            yield UserError(f"{where}: cannot be read: {error}; it is damaged or truncated")


def _frame_of_chunk(chunk: list[bytes], where: str, name: str) -> Frame | UserError:
    try:
        atoms = xyz.parse(chunk, where)
    except UserError as error:
        return error
    columns = xyz.column_names(chunk[1])
    # ASE calls this column otherwise than the file; a user goes by the file.
    renamed = {"charges": "charge"} if "charge" in columns else {}
    return _frame(atoms, where, name, {"charges" if c == "charge" else c for c in columns}, renamed)


def _frames_of_database(content: Path | bytes, where: str, name: str) -> Iterator[Frame | UserError]:
    import ase.db

    with tempfile.TemporaryDirectory() as folder:
        path = content
        if isinstance(path, bytes):
            path = Path(folder, "of_archive")
            path.write_bytes(content)  # type: ignore[arg-type]
        number: int | str = "first"
        try:
            kind = "db" if _start_of(path).startswith(_SQLITE) else "json"
            if not path.stat().st_size:
                yield UserError(f"{where}: the file is empty (0 bytes)")
                return
            connect: Any = ase.db.connect
            for row in connect(path, type=kind, use_lock_file=False).select():
                number = int(row.id)
                yield _frame_of_row(row, f"{where}, id {number}", f"{name}@id={number}")
        except _DAMAGE as error:
            yield UserError(
                f"{where}: no ASE database from row {number} on: {type(error).__name__}: {error}; it is damaged,"
                " truncated or of another format"
            )


def _frame_of_row(row: Any, where: str, name: str) -> Frame | UserError:
    try:
        atoms = row.toatoms()
        atoms.info = {**row.key_value_pairs, **row.data}
        return _frame(atoms, where, name, set(per_atom_properties), {})
    except _DAMAGE as error:
        return UserError(f"{where}: damaged: {type(error).__name__}: {error}")


def _frame(atoms: Any, where: str, name: str, of_atoms: set[str], renamed: dict[str, str]) -> Frame:
    """Turn an ASE structure into a :class:`Frame`.

    Of a calculator's results, those named in ``of_atoms`` are of the atoms; ``renamed`` gives some another key.
    """
    values, columns = dict(atoms.info), dict(atoms.arrays)
    numbers, positions = columns.pop("numbers"), columns.pop("positions")
    own = values.pop("name", None)
    for key, value in (atoms.calc.results if atoms.calc else {}).items():
        (columns if key in of_atoms else values)[renamed.get(key, key)] = value
    periodic = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    pos, cell = to_bohr(np.asarray(positions, np.float64)), to_bohr(np.asarray(atoms.cell.array, np.float64))
    name = name if own is None else str(own)
    return Frame(name, where, np.asarray(numbers, np.int32), pos, cell, periodic, values, columns)


def _problem(frame: Frame) -> UserError | None:
    try:
        _check(frame)
    except UserError as error:
        return error
    return None


def _check(frame: Frame) -> None:
    z, pos, cell = frame.atomic_numbers, frame.pos, frame.cell
    if not len(z):
        raise UserError(f"{frame.where}: no atoms; leave the structure out")
    if z.min() < 1 or z.max() > _LARGEST_Z:
        atom = int(np.argmax((z < 1) | (z > _LARGEST_Z)))
        raise UserError(f"{frame.where}: atom {atom} is no element (proton number {z[atom]}); mend or leave it out")
    if not np.isfinite(pos).all():
        atom = int(np.argwhere(~np.isfinite(pos))[0, 0])
        raise UserError(f"{frame.where}: atom {atom} is at {pos[atom].tolist()}: no finite position; mend the file")
    if not np.isfinite(cell).all():
        raise UserError(f"{frame.where}: the cell is {cell.tolist()}: no finite numbers; mend the file")
    refuse_one_place(pos, frame.where, "atom")
