"""Reading and writing LSMS text, the output of an LSMS calculation; what is read can be written byte for byte.

A file's first line holds the total, band and Fermi energy (Ry). Every other line is one atom, in 18 columns: proton
number, index, position (bohr), charge (electrons in the site), magnetic moment (μB), then the spin direction and the
constraining field, which are kept unchanged.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.read.files import RawFile
from hydragnn_hpc.dataset.read.fortran import to_float, with_e
from hydragnn_hpc.dataset.read.frames import LARGEST_Z, Frame
from hydragnn_hpc.dataset.read.targets import TargetSpec
from hydragnn_hpc.dataset.read.units import parse_unit
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import PROPERTIES

ENERGY_KEYS = ("total_energy", "band_energy", "fermi_energy")
"""Keys of the numbers in a file's first line, in their order."""

UNITS = {**dict.fromkeys(ENERGY_KEYS, "Ry"), "charge": "e", "magnetic_moment": "μB"}
"""Keys and units of a frame's numbers; ``charge`` is the electrons in the site."""

REST = "lsms_columns"
"""Key of columns 2 to 5 and 8 to 18, kept unchanged: index, position in bohr (a conversion to ångström and back would
change the last digit), spin and field."""

TARGETS = (
    TargetSpec(PROPERTIES["mixing_enthalpy"], "total_energy", parse_unit("Ry", "LSMS text"), mixing=True),
    TargetSpec(PROPERTIES["charge_transfer"], "charge", parse_unit("e", "LSMS text"), less_protons=True),
    TargetSpec(PROPERTIES["magnetic_moment"], "magnetic_moment", parse_unit("μB", "LSMS text")),
)

COLUMNS = 18
_ATOM = (
    "%3d %8d  %21.15f  %21.15f  %21.15f %13.6f %12.6f  %21.15f  %21.15f  %21.15f %7.2f  %21.15f  %21.15f  %21.15f"
    " %9.4f  %21.15f  %21.15f  %21.15f\n"
)


@dataclass(frozen=True, eq=False)
class LsmsSample:
    """The content of one file.

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


def detect(start: bytes, name: str) -> bool:
    """Whether the first line holds three numbers and the second, if it is complete, at least 17 columns.

    A file in which a column is missing, or two have run together, is recognised so that the error can name the line.
    """
    lines = start.split(b"\n", 2)
    try:
        words = [line.decode("ascii").split() for line in lines[:2]]
        numbers = [to_float(word) for word in words[0]]
    except ValueError:
        return False
    return len(numbers) == 3 and (len(lines) < 3 or len(words[1]) >= COLUMNS - 1)


def frames(file: RawFile) -> Iterator[Frame | UserError]:
    """Yield the one structure of a file."""
    try:
        yield frame_of(parse_sample(file.read(), file.where), file.where, file.origin)
    except UserError as error:
        yield error


def frame_of(sample: LsmsSample, where: str, origin: str) -> Frame:
    """Return a sample as a frame, without a cell or a boundary: LSMS text states neither."""
    table = sample.table
    values = dict(zip(ENERGY_KEYS, sample.energies.tolist(), strict=True))
    columns = {
        "charge": sample.charge,
        "magnetic_moment": sample.moment,
        REST: np.concatenate([table[:, 1:5], table[:, 7:]], axis=1),
    }
    return Frame(sample.name, origin, where, sample.atomic_numbers, sample.pos, np.zeros((3, 3)), None, values, columns)


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


def parse_sample(content: bytes, where: str) -> LsmsSample:
    """Parse one file's content; ``where`` names it in errors.

    Only blank lines at the end and carriage returns are ignored.

    Raises
    ------
    UserError
        If it is not LSMS text, naming the file, the line and the reason.
    """
    if not content.strip():
        raise UserError(f"{where}: the file is empty ({len(content)} bytes); repeat that calculation")
    try:
        text = with_e(content.decode("ascii"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise UserError(f"{where}, line {line}: byte 0x{byte:02x} is not text; this is not LSMS output") from error
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
            reason = "the file is truncated" if last else "every line must be an atom"
            return f"{where}, line {number}: {counted(len(words), 'column')}, expected {COLUMNS}; {reason}"
    return f"{where}: not LSMS text"


def _check(table: np.ndarray, where: str) -> None:
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        value = table[row, column]
        raise UserError(f"{where}, line {row + 2}, column {column + 1}: {value} is not finite; repeat that calculation")
    z = table[:, 0]
    wrong = (z != np.floor(z)) | (z < 1) | (z > LARGEST_Z)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(f"{where}, line {row + 2}: {z[row]:g} is not a proton number (1 to {LARGEST_Z})")


def refuse_folder(out: Path, force: bool) -> None:
    """Refuse to write LSMS text into a folder that is not empty, or to replace anything but LSMS text.

    Raises
    ------
    UserError
        If ``out`` is a file, is the current folder or contains it, is not empty (without ``force``), or holds
        anything but ``out_<number>``.
    """
    out = out.resolve()
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; give the name of a folder")
    if Path.cwd().is_relative_to(out):
        raise UserError(f"{out} is the current folder, or contains it; give the name of a new one")
    names = sorted(path.name for path in out.iterdir())
    if names and not force:
        raise UserError(f"{out} exists and is not empty; give another folder, or --force to replace its content")
    for name in names:
        if not re.fullmatch(r"out_\d+", name):
            raise UserError(f"{out} holds '{name}'; --force replaces only LSMS text (out_<number>); move it away")
