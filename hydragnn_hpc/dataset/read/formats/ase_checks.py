"""What ASE's readers guess, make up or leave out without an error: refused, by what the file itself says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers

_IN_ANGSTROM = ("metal", "real")  # LAMMPS's units in which lengths are as ASE takes them
_WITHOUT_ENERGY = "lammps-dump-text"  # ASE gives its structures the energy 0
_END_OF_VASPRUN = b"</modeling>"
_ITERATION, _ENERGY = "Iteration", "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"  # in an OUTCAR, of every ionic step


def guessed(kind: str, path: Path) -> str:
    """Return what ASE would only guess in a file of this kind, with the remedy; empty if nothing."""
    check = _GUESSES.get(kind)
    if check is None:
        return ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        return check(lines)


def unfinished(kind: str, path: Path) -> str:
    """Return what a file lacks at its end, of which ASE gives the structures before it; empty if nothing."""
    if kind == "vasp-xml":
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4096))
            if _END_OF_VASPRUN not in stream.read():
                return f"the file ends before {_END_OF_VASPRUN.decode()}"
    if kind == "vasp-out":
        with path.open(encoding="utf-8", errors="replace") as lines:
            marks = [line for line in lines if _ITERATION in line or _ENERGY in line]
        if marks and _ITERATION in marks[-1]:
            return "the file ends within an ionic step"
    return ""


def without_invented(kind: str, atoms: Any) -> Any:
    """Return a structure without values that are not in the file."""
    if kind == _WITHOUT_ENERGY and atoms.calc is not None:
        atoms.calc.results.pop("energy", None)
    return atoms


def _of_lammps_dump(lines: Iterator[str]) -> str:
    for line in lines:
        if line.startswith("ITEM: UNITS") and (problem := _of_lammps_units(next(lines, "").strip())):
            return problem
        if line.startswith("ITEM: ATOMS"):
            if {"element", "mass"} & set(line.split()):
                return ""
            return (
                "the columns of atoms are without element or mass, and a type is not an element; write the dump with"
                " the column element (dump_modify ID element Cu Au)"
            )
    return ""


def _of_lammps_data(lines: Iterator[str]) -> str:
    stated = re.search(r"\bunits = (\w+)", next(lines, ""))
    if stated and (problem := _of_lammps_units(stated[1])):
        return problem
    for line in lines:
        if line.startswith("Masses"):
            return ""
        if line.startswith("Atom Type Labels") and _are_elements(lines):
            return ""
    return "there are no masses, and a type is not an element; add the section Masses, or Atom Type Labels (1 Cu)"


def _are_elements(lines: Iterable[str]) -> bool:
    """Whether the labels of a section, of which the lines are the next, are all symbols of elements."""
    labels: list[str] = []
    for line in lines:
        words = line.split()
        if not words and labels:
            break
        labels += words[1:2]
    return all(label in atomic_numbers for label in labels)


def _of_lammps_units(units: str) -> str:
    if units in _IN_ANGSTROM:
        return ""
    return f"lengths are in LAMMPS's units '{units}', not in ångström; convert the file to units metal"


_GUESSES: dict[str, Callable[[Iterator[str]], str]] = {
    "lammps-dump-text": _of_lammps_dump,
    "lammps-data": _of_lammps_data,
}
