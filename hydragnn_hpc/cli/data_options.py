"""Options that several commands share: their help, and the parsing and checking of their values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from hydragnn_hpc.errors import UserError, nearest

FORMATS_HELP = (
    "auto (by content), lsms, extxyz, ase-db, hydragnn, or ase: whatever else ASE reads, such as POSCAR, .cif or .traj."
)
SPLIT_HELP = (
    "composition: each in the same proportion in all sets; symmetry: that, and configurations that are equivalent by a"
    " symmetry of the lattice stay in one set; groups: only the latter; random."
)
TARGET_SYNTAX = "NAME=LEVEL:[b]KEY[/b]:UNIT"  # in help; without the markup, rich shows :KEY: as an emoji
CELL_HELP = "Cell for structures without one, as in data prepare: '20.8 10.4 14.1 bohr'."
DEVICE_HELP = "cpu, cuda, xpu, or auto: an accelerator where there is one."
ON_ERROR_HELP = "What to do with a structure that cannot be used: fail, or skip (leave it out and count it)."

_LONGEST_CUTOFF = 200.0  # bohr


def parse_cell(text: str) -> tuple[float, ...]:
    """Read ``"20.872 10.436 14.116 bohr"`` (or nine numbers); return nine numbers in bohr.

    Raises
    ------
    UserError
        If the unit is missing or the numbers are not three or nine.
    """
    from hydragnn_hpc.dataset.graphs import parse_length

    *words, unit = text.replace(",", " ").split() or [""]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    if len(numbers) not in (3, 9) or not all(map(math.isfinite, numbers)) or not unit.isalpha():
        raise UserError(
            f"--cell '{text}': expected 3 edge lengths or 9 numbers, and a unit: '20.872 10.436 14.116 bohr'"
        )
    scale = parse_length(f"1{unit}", f"--cell '{text}': unit")
    numbers = [number * scale for number in numbers]
    if len(numbers) == 3:
        a, b, c = numbers
        numbers = [a, 0.0, 0.0, 0.0, b, 0.0, 0.0, 0.0, c]
    return tuple(numbers)


def one_of(option: str, value: str, known: Iterable[str]) -> str:
    """Return ``value`` if it is among ``known``; otherwise raise a :class:`UserError` that names the nearest."""
    if value not in known:
        raise UserError(f"{option} {value}{nearest(value, known)}")
    return value


def check_seed(seed: int) -> None:
    """Refuse a negative seed."""
    if seed < 0:
        raise UserError(f"--seed {seed}: must be 0 or positive")


def check_output(path: Path | None, source: Path) -> None:
    """Refuse an ``--out`` that is a folder, lies in none, or would replace what is read, before any work is done."""
    if path is not None and path.exists() and source.exists():
        real, read = path.resolve(), source.resolve()
        if real == read or (read in real.parents and path.is_file()):
            raise UserError(f"--out {path}: would replace a file of {source}, which is read; give another name")
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        where = f"{path} is a folder" if path.is_dir() else f"no such folder: {path.parent}"
        raise UserError(f"--out {path}: {where}; give a file in an existing folder")


def parse_cutoff(text: str) -> float:
    """Read a cutoff with its unit; return bohr.

    Raises
    ------
    UserError
        If it is not a length, or absurdly long: its neighbour lists would take for ever.
    """
    from hydragnn_hpc.dataset.graphs import parse_length

    value = parse_length(text, "--cutoff")
    if value > _LONGEST_CUTOFF:
        raise UserError(f"--cutoff {text}: at most {_LONGEST_CUTOFF:g} bohr; atoms interact over 5 to 20 bohr")
    return value


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Read ``"0.70,0.15,0.15"``; whether they sum to 1 is checked where they are used."""
    try:
        train, validation, test = (float(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"--fractions {text}: expected three numbers, such as 0.70,0.15,0.15") from error
    return train, validation, test
