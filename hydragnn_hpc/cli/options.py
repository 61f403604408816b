"""Options that several commands share: their help, and how their values are parsed and checked."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

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


def length_in_bohr(unit: str, where: str) -> float:
    """Return a unit of length in bohr; ``where`` names the option.

    Raises
    ------
    UserError
        If it is not a unit of length.
    """
    from hydragnn_hpc.dataset.graphs import parse_length

    try:
        return parse_length(f"1{unit if unit.isalpha() else ''}")
    except UserError as error:
        raise UserError(f"{where}: '{unit}' is not a unit of length; give bohr or angstrom") from error


def parse_cell(text: str) -> tuple[float, ...]:
    """Read ``"20.872 10.436 14.116 bohr"`` (or nine numbers); return nine numbers in bohr.

    Raises
    ------
    UserError
        If the unit is missing or the numbers are not three or nine.
    """
    *words, unit = text.replace(",", " ").split() or [""]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    if len(numbers) not in (3, 9) or not all(map(math.isfinite, numbers)) or not unit.isalpha():
        raise UserError(
            f"--cell '{text}': expected 3 edge lengths or 9 numbers, and a unit: '20.872 10.436 14.116 bohr'"
        )
    scale = length_in_bohr(unit, f"--cell '{text}'")
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


def check_on_error(value: str) -> None:
    """Refuse an unknown value of ``--on-error``."""
    from hydragnn_hpc.dataset.read.sources import ON_ERROR

    one_of("--on-error", value, ON_ERROR)


def check_device(device: str) -> None:
    """Refuse an unknown device."""
    from hydragnn_hpc.prediction.ensemble import DEVICES

    if device not in DEVICES:  # all are named: the nearest to 'gpu' would be 'cpu'
        raise UserError(f"--device {device}; known: {', '.join(DEVICES)}")


def check_new_yaml(path: Path, what: str, option: str = "") -> None:
    """Refuse a path for ``what`` (such as ``"a profile"``) that exists, or does not end in .yaml."""
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{option} {path}: give {what} a name that ends in .yaml")
    if path.exists():
        raise UserError(f"{path} exists; give another name{option and f' with {option}'}, or remove it")


def output_stream(path: Path | None) -> AbstractContextManager[IO[str]]:
    """Return a file that is written whole or not at all; standard output where there is no path."""
    from hydragnn_hpc.atomic import written_whole

    return nullcontext(sys.stdout) if path is None else written_whole(path, "w")


def check_output(path: Path | None, source: Path) -> None:
    """Refuse an ``--out`` that is a folder, lies in none, or would replace a file of ``source``."""
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
        If it is not a length, or is longer than any interaction: its neighbour lists would take hours.
    """
    from hydragnn_hpc.dataset.graphs import parse_length

    value = parse_length(text, "--cutoff")
    if value > _LONGEST_CUTOFF:
        raise UserError(f"--cutoff {text}: at most {_LONGEST_CUTOFF:g} bohr; atoms interact over 5 to 20 bohr")
    return value


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Read ``"0.70,0.15,0.15"``; their sum is checked where they are used.

    Raises
    ------
    UserError
        If they are not three numbers.
    """
    try:
        train, validation, test = (float(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"--fractions {text}: expected three numbers, such as 0.70,0.15,0.15") from error
    return train, validation, test
