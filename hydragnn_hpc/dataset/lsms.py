"""LSMS text, the output of an LSMS calculation: read, written byte for byte, iterated over in a folder or an archive.

A file's first line holds the total, band and Fermi energy (Ry). Every other line is one atom in 18 columns: proton
number, index, position (bohr), charge (electrons in the site), magnetic moment (μB), then the spin direction and the
constraining field's columns, which are carried along untouched.
"""

from __future__ import annotations

import io
import re
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import write_text

COLUMNS = 18
_ATOM = (
    "%3d %8d  %21.15f  %21.15f  %21.15f %13.6f %12.6f  %21.15f  %21.15f  %21.15f %7.2f  %21.15f  %21.15f  %21.15f"
    " %9.4f  %21.15f  %21.15f  %21.15f\n"
)
_LARGEST_Z = 118
_SHOWN_REASONS = 5


@dataclass(frozen=True)
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

    Raises
    ------
    UserError
        If it is not LSMS text; names the file, the line and the reason.
    """
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start} is not text; this is no LSMS output") from error
    header, _, body = text.partition("\n")
    energies = _numbers(header)
    if energies is None or len(energies) != 3 or not np.isfinite(energies).all():
        shown = header[:60]
        raise UserError(f"{where}, line 1: expected the total, band and Fermi energy (3 numbers, Ry), found '{shown}'")
    lines = body.splitlines()
    if not lines:
        raise UserError(f"{where}: no atoms after line 1; the file is truncated or empty")
    values = _numbers(body)
    if values is None or any(len(line.split()) != COLUMNS for line in lines):
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
        if len(words) != COLUMNS:
            reason = "the file is truncated" if number == len(lines) + 1 else "columns must not be mixed"
            return f"{where}, line {number}: {len(words)} columns, expected {COLUMNS}; {reason}"
        for column, word in enumerate(words, start=1):
            if _numbers(word) is None:
                return f"{where}, line {number}, column {column}: '{word[:40]}' is not a number"
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


class GeometryCheck:
    """Refuses atoms in one place; remembers the positions that it has seen, since most files share theirs."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __call__(self, sample: LsmsSample, where: str) -> None:
        """Check one sample's positions."""
        key = sample.pos.tobytes()
        if key in self._seen:
            return
        _, first, counts = np.unique(sample.pos, axis=0, return_index=True, return_counts=True)
        if (counts > 1).any():
            row = int(first[np.argmax(counts > 1)])
            raise UserError(f"{where}, line {row + 2}: two atoms in one place, {sample.pos[row].tolist()} bohr")
        self._seen.add(key)


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which ``out_2`` comes before ``out_10``."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part)


def iter_samples(source: Path, on_error: str = "fail", skipped: Skipped | None = None) -> Iterator[LsmsSample]:
    """Yield the samples of a folder (at any depth, in natural order) or of a tar archive (in its own order).

    Hidden files are left out. Archives of any compression are streamed; nothing is unpacked to disk.

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
    skipped = skipped if skipped is not None else Skipped()
    check, found, good = GeometryCheck(), 0, 0
    for where, content in _files(source):
        found += 1
        try:
            sample = parse_sample(content, where)
            check(sample, where)
        except UserError as error:
            if on_error == "fail":
                raise UserError(f"{error} (--on-error skip passes over such files)") from error
            skipped.add(str(error))
            continue
        good += 1
        yield sample
    if not good:
        what = f"none of its {found} files is LSMS text; the first: {skipped.reasons[0]}" if found else "holds no file"
        raise UserError(f"{source}: {what}")


def count_files(source: Path) -> int:
    """Return how many files a folder holds, 0 for an archive (counting would mean reading it twice)."""
    return sum(1 for _ in _visible(source)) if source.is_dir() else 0


def _visible(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of every visible file."""
    if source.is_dir():
        for path in sorted(_visible(source), key=lambda p: natural_key(str(p.relative_to(source)))):
            try:
                yield str(path), path.read_bytes()
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    elif source.is_file():
        yield from _members(source)
    else:
        raise UserError(f"no such file or folder: {source}")


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                if member.isfile() and not Path(member.name).name.startswith("."):
                    stream = tar.extractfile(member) or io.BytesIO()
                    yield f"{archive}/{member.name}", stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"cannot read {archive} as a tar archive: {error}; fetch it again, or give a folder or .tar[.gz|.bz2|.xz]"
        ) from error
    except Exception as error:
        if type(error).__name__ not in ("LZMAError", "error", "ZstdError"):
            raise
        raise UserError(f"cannot read {archive}: {error}; the archive is damaged, fetch it again") from error
