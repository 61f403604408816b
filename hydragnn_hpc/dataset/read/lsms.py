"""LSMS text, the output of an LSMS calculation: read, written byte for byte, iterated over in a folder or an archive.

A file's first line holds the total, band and Fermi energy (Ry). Every other line is one atom in 18 columns: proton
number, index, position (bohr), charge (electrons in the site), magnetic moment (μB), then the spin direction and the
constraining field's columns, which are carried along untouched.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from hydragnn_hpc.dataset.read.files import count_files, iter_files, natural_key
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.paths import write_text

__all__ = [
    "LsmsSample", "MalformedError", "Skipped", "count_files", "format_sample", "iter_samples", "natural_key",
    "new_sample", "parse_sample", "write_sample",
]  # fmt: skip

COLUMNS = 18
_ATOM = (
    "%3d %8d  %21.15f  %21.15f  %21.15f %13.6f %12.6f  %21.15f  %21.15f  %21.15f %7.2f  %21.15f  %21.15f  %21.15f"
    " %9.4f  %21.15f  %21.15f  %21.15f\n"
)
_LARGEST_Z = 118
_ONE_PLACE = 1e-3  # bohr; nuclei of a real structure are more than one bohr apart
_REMEMBERED = 1000
_SHOWN_REASONS = 5


@dataclass(frozen=True, eq=False)
class LsmsSample:
    """One file.

    Attributes
    ----------
    name : str
        The file's name without its folders.
    energies : numpy.ndarray
        ``[3]`` float64: total, band and Fermi energy, Ry.
    table : numpy.ndarray
        ``[n_atoms, 18]`` float64: all columns.
    """

    name: str
    energies: np.ndarray
    table: np.ndarray

    @property
    def atomic_numbers(self) -> np.ndarray:
        """``[n_atoms]`` int32."""
        return self.table[:, 0].astype(np.int32)

    @property
    def pos(self) -> np.ndarray:
        """``[n_atoms, 3]`` float64, bohr."""
        return np.ascontiguousarray(self.table[:, 2:5])

    @property
    def charge(self) -> np.ndarray:
        """``[n_atoms]`` float64, electrons in the site."""
        return self.table[:, 5]

    @property
    def moment(self) -> np.ndarray:
        """``[n_atoms]`` float64, μB."""
        return self.table[:, 6]


class MalformedError(UserError):
    """One file or structure among others is malformed: it can be passed over."""


@dataclass
class Skipped:
    """What was passed over while reading with ``on_error="skip"``: how many files, and why the first few."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, reason: str) -> None:
        """Count one file."""
        self.count += 1
        if len(self.reasons) < _SHOWN_REASONS:
            self.reasons.append(reason)


def new_sample(
    name: str, energies: np.ndarray, atomic_numbers: np.ndarray, pos: np.ndarray, values: tuple[np.ndarray, np.ndarray]
) -> LsmsSample:
    """Build a sample from positions (bohr) and ``values = (charge, moment)``; spins along z, no fields."""
    table = np.zeros((len(atomic_numbers), COLUMNS))
    table[:, 0], table[:, 1], table[:, 2:5] = atomic_numbers, np.arange(len(atomic_numbers)), pos
    table[:, 5], table[:, 6] = values
    table[:, 9], table[:, 10], table[:, 17] = 1.0, -1.0, 1.0
    return LsmsSample(name, energies, table)


def format_sample(sample: LsmsSample) -> str:
    """Return the file's text."""
    rows = [_ATOM % (int(row[0]), int(row[1]), *row[2:]) for row in sample.table.tolist()]
    return " ".join(f"{energy:.15f}" for energy in sample.energies.tolist()) + "\n" + "".join(rows)


def write_sample(sample: LsmsSample, folder: Path) -> None:
    """Write the sample into ``folder`` under its name, whole or not at all."""
    write_text(folder / sample.name, format_sample(sample))


def parse_sample(content: bytes, where: str) -> LsmsSample:
    """Read one file's content; ``where`` names it in errors.

    Blank lines at the end and carriage returns are passed over; nothing else is.

    Raises
    ------
    UserError
        If it is not LSMS text; names the file, the line and the reason.
    """
    if not content.strip():
        raise UserError(f"{where}: the file is empty ({len(content)} bytes); run that calculation again")
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise UserError(f"{where}, line {line}: byte 0x{byte:02x} is not text; this is no LSMS output") from error
    header, _, body = text.rstrip().partition("\n")
    energies = _numbers(header)
    if energies is None or len(energies) != 3 or len(header.split()) != 3 or not np.isfinite(energies).all():
        raise UserError(
            f"{where}, line 1: expected the total, band and Fermi energy (3 numbers, Ry), found {header[:60]!r}"
        )
    if not body:
        raise UserError(f"{where}: no atoms after line 1; the file is truncated")
    lines = body.split("\n")
    values = _numbers(body)
    if values is None or len(values) != COLUMNS * len(lines) or any(len(line.split()) != COLUMNS for line in lines):
        raise UserError(_first_bad_line(lines, where))
    table = values.reshape(-1, COLUMNS)
    _check(table, where)
    return LsmsSample(Path(where).name, energies, table)


def _numbers(text: str) -> np.ndarray | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text, sep=" ")
        except (DeprecationWarning, ValueError):
            return None


def _first_bad_line(lines: list[str], where: str) -> str:
    for number, line in enumerate(lines, start=2):
        words = line.split()
        for column, word in enumerate(words, start=1):
            value = _numbers(word)
            if value is None or len(value) != 1:
                return f"{where}, line {number}, column {column}: {word[:40]!r} is not a number"
        if len(words) != COLUMNS:
            last = number == len(lines) + 1 and len(words) < COLUMNS
            reason = "the file is truncated" if last else "columns must not be mixed"
            return f"{where}, line {number}: {len(words)} columns, expected {COLUMNS}; {reason}"
    return f"{where}: not LSMS text"


def _check(table: np.ndarray, where: str) -> None:
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        value = table[row, column]
        raise UserError(f"{where}, line {row + 2}, column {column + 1}: {value} is no finite number; redo that run")
    z = table[:, 0]
    wrong = (z != np.floor(z)) | (z < 1) | (z > _LARGEST_Z)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(f"{where}, line {row + 2}: {z[row]:g} is no proton number (1 to {_LARGEST_Z})")


def refuse_one_place(pos: np.ndarray, where: str, counted: str, first: int = 0) -> None:
    """Refuse two atoms in one place; errors name them as ``counted``, numbered from ``first``."""
    pairs = cKDTree(pos).query_pairs(_ONE_PLACE, output_type="ndarray")
    if len(pairs):
        one, other = sorted(min(pairs.tolist(), key=sorted))
        raise UserError(
            f"{where}, {counted} {other + first}: two atoms in one place, {pos[other].tolist()} bohr, the other in"
            f" {counted} {one + first}; take one of them out, or check the unit of positions"
        )


class GeometryCheck:
    """Refuses atoms in one place; remembers positions that it has seen, since most files share theirs."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __call__(self, sample: LsmsSample, where: str) -> None:
        """Check one sample's positions."""
        key = sample.pos.tobytes()
        if key in self._seen:
            return
        refuse_one_place(sample.pos, where, "line", first=2)
        if len(self._seen) < _REMEMBERED:
            self._seen.add(key)


def iter_samples(source: Path, on_error: str = "fail", skipped: Skipped | None = None) -> Iterator[LsmsSample]:
    """Yield the samples of a folder (at any depth, in natural order) or of a tar archive (in its own order).

    Hidden files are left out; any other file must be LSMS text, so that a damaged one cannot pass for a note. One
    file is in memory at a time (:func:`iter_files`). Whoever needs one order wherever the
    files come from sorts by :func:`natural_key` of the names.

    Parameters
    ----------
    source : Path
        A folder or an archive.
    on_error : {"fail", "skip"}
        What a malformed file does.
    skipped : Skipped, optional
        Counts what was passed over.

    Raises
    ------
    UserError
        If ``source`` is missing, holds no file, or holds a malformed file (``on_error="fail"``).
    """
    if on_error not in ("fail", "skip"):
        raise UserError(f"on_error '{on_error}'{nearest(on_error, ('fail', 'skip'))}")
    skipped = skipped if skipped is not None else Skipped()
    check, found, good = GeometryCheck(), 0, 0
    for where, content in iter_files(source):
        found += 1
        try:
            if isinstance(content, UserError):
                raise content
            sample = parse_sample(content, where)
            check(sample, where)
        except UserError as error:
            if on_error == "fail":
                raise MalformedError(str(error)) from error
            skipped.add(str(error))
            continue
        good += 1
        yield sample
    if not good:
        what = f"none of its {found} files is LSMS text; the first: {skipped.reasons[0]}" if found else "holds no file"
        raise UserError(f"{source}: {what}")
