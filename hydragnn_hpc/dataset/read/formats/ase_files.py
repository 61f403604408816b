"""All other formats that ASE reads (POSCAR, CIF, trajectories, output of calculations); a file may hold several."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from hydragnn_hpc.dataset.read.atoms import frame_of
from hydragnn_hpc.dataset.read.files import RawFile
from hydragnn_hpc.dataset.read.formats import START_BYTES, ase_checks
from hydragnn_hpc.dataset.read.frames import Frame
from hydragnn_hpc.dataset.read.targets import TargetSpec
from hydragnn_hpc.errors import UserError

TARGETS: tuple[TargetSpec, ...] = ()

# Databases and extended XYZ have readers of their own here; a bundle is a folder; to read a restart file, ASE would
# start its calculator.
_EXCLUDED = {
    "db", "json", "mysql", "postgresql", "extxyz", "xyz", "bundletrajectory", "gpw", "wout", "nomad-json", "dftb",
    "acemolecule-out", "acemolecule-input",
    "lammps-dump-binary",  # states neither its columns nor the elements
}  # fmt: skip
# Suffixes that ASE knows but that notes and logs have as well: they indicate no format, but are read with --format.
_AMBIGUOUS = (
    ".md", ".out", ".log", ".dat", ".data", ".in", ".inp", ".com", ".config", ".restart", ".cell", ".geom", ".arc",
    ".res", ".ascii",
)  # fmt: skip
_SHOWN = 160  # characters of ASE's message that an error quotes


def _kind(start: bytes, name: str) -> Any:
    """Return ASE's format of a file, by its content or otherwise its name; None for formats that are not read here."""
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats, match_magic

    base = PurePosixPath(name).name
    guesses: tuple[Callable[[], Any], ...] = (
        lambda: match_magic(start),
        lambda: ioformats[filetype(base, read=False, guess=False)],
    )
    for guess in guesses:
        try:
            kind = guess()
        except (UnknownFileTypeError, KeyError, ValueError):
            continue
        if kind.can_read and kind.name not in _EXCLUDED:
            return kind
    return None


def detect(start: bytes, name: str) -> bool:
    """Whether ASE recognises a format by the first bytes, or by an unambiguous name."""
    return _kind(start, "" if name.casefold().endswith(_AMBIGUOUS) else name) is not None


def frames(file: RawFile) -> Iterator[Frame | UserError]:
    """Yield the structures of a file."""
    import ase.io

    with file.on_disk() as path:
        with path.open("rb") as stream:
            start = stream.read(START_BYTES)
        kind, remedy = _kind(start, file.plain_name), "correct the file"
        if kind is None:
            yield UserError(f"{file.where}: ASE recognises no format by its name or content; rename or convert it")
            return
        if file.plain_name.casefold().endswith(_AMBIGUOUS) and _kind(start, "") is None:
            remedy += f"; if it is of another format, convert it to extended XYZ: only its name says {kind.name}"
        number = 0
        try:
            if problem := ase_checks.guessed(kind.name, path):
                yield UserError(f"{file.where}: {problem}")
                return
            more = ase_checks.ARGUMENTS.get(kind.name, {})
            images = ase.io.iread(path, index=":", format=kind.name, do_not_split_by_at_sign=True, **more)
            while (atoms := _quietly(images)) is not None:
                problem = ase_checks.lost(kind.name, atoms)
                atoms = ase_checks.without_invented(kind.name, atoms)
                yield _frame_of(atoms, file, number, problem)
                number += 1
            if number and (problem := ase_checks.unfinished(kind.name, path)):
                yield UserError(
                    f"{file.where}, after frame {number - 1}: {problem}: it is truncated, or the run was stopped, and"
                    " structures may be missing"
                )
            if not number:
                yield UserError(f"{file.where}: holds no structure that ASE can read as {kind.name}; {remedy}")
        except Exception as error:  # on damaged files parsers raise exceptions of any type
            reason = f"{type(error).__name__}: {error!s:.{_SHOWN}}".replace("\n", " ")
            yield UserError(f"{file.where}, frame {number}: ASE cannot read it as {kind.name}: {reason}; {remedy}")


def _quietly(images: Iterator[Any]) -> Any:
    """Return the next structure, None at the end, without the warnings of ASE's parsers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return next(images, None)


def _frame_of(atoms: Any, file: RawFile, number: int, problem: str) -> Frame | UserError:
    label = file.named(str(number), f"frame {number}")
    occupancy = atoms.info.get("occupancy")  # of a CIF, the share of each element by site; elsewhere it may be anything
    sites = [site for site in occupancy.values() if isinstance(site, dict)] if isinstance(occupancy, dict) else []
    shared = [site for site in sites if len(site) > 1 or any(share != 1 for share in site.values())]
    if shared:
        return UserError(
            f"{label.where}: a site is occupied by {shared[0]}: partly occupied sites describe an average of many"
            " structures; give ordered structures"
        )
    if problem:
        return UserError(f"{label.where}: {problem}")
    # Many programs give all files one name, such as POSCAR; only the path is unique.
    return frame_of(atoms, [("the file's header", atoms.info)], label._replace(name=label.origin))
