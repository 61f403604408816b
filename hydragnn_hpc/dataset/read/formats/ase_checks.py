"""Refuses files in which ASE's readers would guess, invent or leave out something without an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from hydragnn_hpc.counts import counted

ARGUMENTS: dict[str, dict[str, Any]] = {"cif": {"store_tags": True}}
"""Arguments of ASE's reader, by format."""

_IN_ANGSTROM = ("metal", "real")  # LAMMPS's unit styles with lengths in ångström, which ASE assumes
_WITHOUT_ENERGY = "lammps-dump-text"  # ASE gives its structures the energy 0
_END_OF_VASPRUN = b"</modeling>"
_ONLY_FIRST = (
    "goes on after its first structure, and ASE would leave out the rest; correct the number of atoms, or give each"
    " structure a file of its own"
)
_LINES_AFTER_ATOMS = 100_000  # at most, of a POSCAR that are searched for another structure
_END_SEARCHED = 4096  # bytes
_SHOWN = 40  # characters of the file that an error quotes
# In an OUTCAR: the first begins every electronic step, the second comes at the end of every ionic step.
_ITERATION, _ENERGY = "Iteration", "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"


def guessed(kind: str, path: Path) -> str:
    """Return what ASE would guess or leave out in a file of format ``kind``, and the remedy; empty if nothing."""
    check = _CHECKS.get(kind)
    if check is None:
        return ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        return check(lines)


def unfinished(kind: str, path: Path) -> str:
    """Return how a file is truncated, where ASE reads it without an error all the same; empty if it is whole."""
    if kind == "vasp-xml":
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _END_SEARCHED))
            if _END_OF_VASPRUN not in stream.read():
                return f"the file ends before {_END_OF_VASPRUN.decode()}"
    if kind == "vasp-out":
        with path.open(encoding="utf-8", errors="replace") as lines:
            marks = [line for line in lines if _ITERATION in line or _ENERGY in line]
        if marks and _ITERATION in marks[-1]:
            return "the file ends within an ionic step"
    return ""


def lost(kind: str, atoms: Any) -> str:
    """Return what ASE lost of a CIF file read with :data:`ARGUMENTS`: a site's element or the cell; empty if nothing.

    The file's tags are removed from ``atoms.info``.
    """
    if kind != "cif":
        return ""
    from ase.io.cif import CIFBlock
    from scipy.spatial import cKDTree

    tags = {key: atoms.info.pop(key) for key in list(atoms.info) if key.startswith("_")}
    if not atoms.cell.rank:
        return "" if "_atom_site_fract_x" not in tags else "coordinates are fractional, but there is no cell; add it"
    sites = CIFBlock("", tags).get_unsymmetrized_structure()
    # Twice, because -1e-17 % 1.0 is 1.0.
    stated, made = (structure.get_scaled_positions() % 1.0 % 1.0 for structure in (sites, atoms))
    nearest = cKDTree(made, boxsize=1.0).query(stated)[1]
    other = np.flatnonzero(sites.numbers != atoms.numbers[nearest])
    if not len(other):
        return ""
    site, kept = sites.symbols[other[0]], atoms.symbols[nearest[other[0]]]
    return (
        f"{site} and {kept} are at the same position, or at equivalent ones by the symmetry that is stated; correct one"
        " of them, or the symmetry"
    )


def without_invented(kind: str, atoms: Any) -> Any:
    """Return a structure without the values that ASE invents."""
    if kind == _WITHOUT_ENERGY and atoms.calc is not None:
        atoms.calc.results.pop("energy", None)
    return atoms


def _check_lammps_dump(lines: Iterator[str]) -> str:
    for line in lines:
        if line.startswith("ITEM: UNITS") and (problem := _check_lammps_units(next(lines, "").strip())):
            return problem
        if line.startswith("ITEM: ATOMS"):
            if {"element", "mass"} & set(line.split()):
                return ""
            return (
                "no column holds the atoms' elements or masses, and a type is not an element; write the dump with the"
                " column element (dump_modify ID element Cu Au)"
            )
    return ""


def _check_lammps_data(lines: Iterator[str]) -> str:
    stated = re.search(r"\bunits = (\w+)", next(lines, ""))
    if stated and (problem := _check_lammps_units(stated[1])):
        return problem
    for line in lines:
        if line.startswith("Masses"):
            return ""
        if line.startswith("Atom Type Labels") and _are_elements(lines):
            return ""
    return "there are no masses, and a type is not an element; add the section Masses, or Atom Type Labels (1 Cu)"


def _are_elements(lines: Iterable[str]) -> bool:
    """Whether all labels in the section that starts at the next line are symbols of elements."""
    labels: list[str] = []
    for line in lines:
        words = line.split()
        if not words and labels:
            break
        labels += words[1:2]
    return all(label in atomic_numbers for label in labels)


def _check_poscar(lines: Iterator[str]) -> str:
    """Check that a POSCAR names its elements and holds one structure.

    If there is no line of elements, ASE searches the comment for them.
    """
    head = [*islice(lines, 6)]
    comment, counts = head[0] if head else "", head[-1].partition("!")[0].split() if len(head) == 6 else []
    if not counts:
        return ""  # ASE reports it
    if not counts[0].isdecimal():
        counts = next(lines, "").partition("!")[0].split()
    else:
        words = re.sub(r"[-_,.=\d]", " ", comment).split()
        if any(_elements([word]) for word in words) and _elements(words) != len(counts):
            return (
                f"there is no line of elements, and the comment {comment.strip()[:_SHOWN]!r} does not name"
                f" {counted(len(counts), 'element')} and nothing else; add the line, above the numbers of atoms"
            )
    if not all(map(str.isdecimal, counts)):
        return ""
    if next(lines, "").strip()[:1].casefold() == "s":  # selective dynamics
        next(lines, "")
    n = sum(map(int, counts))
    after = list(islice(lines, n, n + _LINES_AFTER_ATOMS))
    goes_on = re.match(r"\s*[-+.\d]", after[0]) if after else None
    return _ONLY_FIRST if goes_on or any(_are_elements_and_counts(*pair) for pair in pairwise(after)) else ""


def _elements(words: list[str]) -> int:
    """Return how many elements words such as ``Ni Al`` or ``NiAl`` name; 0 if they hold anything else."""
    symbols = re.findall(r"[A-Z][a-z]?", "".join(words))
    return len(symbols) if "".join(symbols) == "".join(words) and set(symbols) <= atomic_numbers.keys() else 0


def _are_elements_and_counts(row: str, following: str) -> bool:
    words, counts = row.split(), following.split()
    return bool(words) and len(words) == len(counts) and _elements(words) > 0 and all(map(str.isdecimal, counts))


def _check_single(mark: str, lines: Iterator[str]) -> str:
    """Check that only one line starts with ``mark``, as one line of every structure does."""
    return _ONLY_FIRST if sum(line.startswith(mark) for line in lines) > 1 else ""


def _check_gen(lines: Iterator[str]) -> str:
    number, kind = [*next(lines, "").split(), "", ""][:2]
    n = int(number) if number.isdecimal() else 0
    rest = islice(lines, 1 + n + (0 if kind == "C" else 4), None)
    return _ONLY_FIRST if n and any(line.strip() for line in rest) else ""


def _check_gromacs(lines: Iterator[str]) -> str:
    return _check_names(line[10:15].strip() for line in list(islice(lines, 2, None))[:-1])


def _check_gromos(lines: Iterator[str]) -> str:
    started = False
    names = []
    for line in lines:
        started = started or line.startswith("POSITION")
        if started and line.startswith("END"):
            break
        names += line.split()[2:3] if started and not line.startswith(("#", "POSITION")) else []
    return _check_names(names)


def _check_names(names: Iterable[str]) -> str:
    other = next((name for name in names if name not in atomic_numbers), None)
    if other is None:
        return ""
    return f"an atom is named {other!r}, from which ASE would guess its element; convert the file to extended XYZ"


def _check_pdb(lines: Iterator[str]) -> str:
    for line in lines:
        if not line.startswith(("ATOM  ", "HETATM")):
            continue
        if line[76:78].strip().capitalize() not in atomic_numbers:
            return (
                f"the atom {line[12:16].strip()!r} has no element in columns 77 and 78, and ASE would guess it from"
                " the name; write the elements"
            )
        if line[16:17].strip():
            return "atoms have alternate locations (column 17), of which ASE reads all; keep one of them"
    return ""


def _check_lammps_units(units: str) -> str:
    if units in _IN_ANGSTROM:
        return ""
    return f"lengths are in LAMMPS's units '{units}', not in ångström; convert the file to units metal"


_CHECKS: dict[str, Callable[[Iterator[str]], str]] = {
    "lammps-dump-text": _check_lammps_dump,
    "lammps-data": _check_lammps_data,
    "vasp": _check_poscar,
    "sdf": partial(_check_single, "M  END"),
    "mol": partial(_check_single, "M  END"),
    "res": partial(_check_single, "TITL"),
    "gen": _check_gen,
    "gromacs": _check_gromacs,
    "gromos": _check_gromos,
    "proteindatabank": _check_pdb,
}
