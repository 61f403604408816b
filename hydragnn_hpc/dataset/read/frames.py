"""The common form of structures from any format, and the errors and counts of reading them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hydragnn_hpc.atomic import StorageError
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import UserError

_COINCIDE = 1e-3  # bohr; nuclei of a real structure are more than one bohr apart
_FARTHEST = 1e8  # bohr; a structure of 5 mm is damage, and farther out too few digits are left for distances
_SHOWN_REASONS = 5
_REMEMBERED = 1000  # sets of positions
_BLOCK = 100  # atoms whose nearest neighbours are searched at once
_ISOLATED = ("isolatedatom", "isolatedatoms")


LARGEST_Z = 118
"""Largest proton number of an element."""


class MalformedError(UserError):
    """One file or structure among others cannot be used: ``--on-error skip`` continues without it."""


class WrongOptionError(UserError):
    """An option that does not suit the source as a whole: not one malformed structure, so nothing to skip."""


@contextlib.contextmanager
def hint_to_skip() -> Iterator[None]:
    """Add to a `MalformedError` the option that leaves the structure out."""
    try:
        yield
    except MalformedError as error:
        raise UserError(f"{error} (--on-error skip leaves it out)") from error


@dataclass
class Skipped:
    """Structures or files skipped while reading: how many, and the reasons for the first few."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, reason: str) -> None:
        """Count one structure or file."""
        self.count += 1
        if len(self.reasons) < _SHOWN_REASONS:
            self.reasons.append(reason)

    def take(self, error: UserError, on_error: str) -> None:
        """Count the structure that has the error; with ``on_error="fail"``, raise it as a `MalformedError`.

        An error that is not of the structure, but of an option or of the storage, is always raised as it is.
        """
        if isinstance(error, WrongOptionError | StorageError):
            raise error
        if on_error == "fail":
            raise MalformedError(str(error)) from error
        self.add(str(error))


@dataclass(frozen=True)
class Unreadable:
    """Placeholder for a value that the file holds but that cannot be used: an error only where it is requested.

    Attributes
    ----------
    reason : str
        Continues "'KEY' ...": ``appears twice in the header, as 'energy=1' and as 'energy=2'``.
    """

    reason: str


class FrameLabel(NamedTuple):
    """The names of a structure, as in :class:`Frame`."""

    name: str
    origin: str
    where: str


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure of a file, in whatever format.

    Attributes
    ----------
    name : str
        The structure's own name, or ``file@number``; other structures may have the same.
    origin : str
        What identifies it in the source, uniquely: the path within the source and the number in the file.
    where : str
        The file and the structure in it, for errors.
    atomic_numbers : numpy.ndarray
        ``[n_atoms]`` int32.
    pos, cell : numpy.ndarray
        ``[n_atoms, 3]`` and ``[3, 3]`` float64, bohr; the rows of ``cell`` are vectors, zeros where there is none.
    periodic : tuple of bool or None
        Along each lattice vector; None where the format cannot state it.
    values : dict
        What the file states about the structure, by key: numbers, text or :class:`Unreadable`.
    columns : dict
        What it states about every atom, by key, ``[n_atoms, ...]`` or :class:`Unreadable`.
    units : dict
        Units that the file states, by key.
    """

    name: str
    origin: str
    where: str
    atomic_numbers: np.ndarray
    pos: np.ndarray
    cell: np.ndarray
    periodic: tuple[bool, bool, bool] | None
    values: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.atomic_numbers)
        shapes = {"pos": (self.pos, (n, 3)), "cell": (self.cell, (3, 3))}
        for name, (array, shape) in shapes.items():
            if array.shape != shape or array.dtype != np.float64:
                raise ValueError(f"{self.where}: {name} is {array.dtype} {array.shape}, expected float64 {shape}")
        for key, column in self.columns.items():
            if not isinstance(column, Unreadable) and len(column) != n:
                raise ValueError(
                    f"{self.where}: column '{key}' has {counted(len(column), 'row')} for {counted(n, 'atom')}"
                )

    @property
    def marked_isolated(self) -> str:
        """``config_type=IsolatedAtom``, as the file writes it, where it marks one atom as isolated; otherwise empty."""
        if len(self.atomic_numbers) != 1:
            return ""
        for key, value in self.values.items():
            by_type = _plain(key) == "configtype" and isinstance(value, str) and _plain(value) in _ISOLATED
            by_flag = _plain(key) in _ISOLATED and isinstance(value, bool | np.bool_) and value
            if by_type or by_flag:
                return f"{key}={value}"
        return ""


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]", "", text.casefold())


class FrameCheck:
    """Refuses invalid structures; remembers positions that it has checked, since samples often share them."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __call__(self, frame: Frame) -> None:
        """Check one structure.

        Raises
        ------
        UserError
            If it has no atoms, an unknown element, positions or a cell that are not finite or absurdly large, two atoms
            at the same position, or a name that cannot be encoded as UTF-8.
        """
        z, pos, cell, where = frame.atomic_numbers, frame.pos, frame.cell, frame.where
        try:
            frame.name.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a character
            raise UserError(f"{where}: its name {frame.name!r} is not UTF-8; rename the structure") from error
        if not len(z):
            raise UserError(f"{where}: no atoms; leave the structure out")
        if z.min() < 1 or z.max() > LARGEST_Z:
            atom = int(np.argmax((z < 1) | (z > LARGEST_Z)))
            raise UserError(
                f"{where}: atom {atom} is not an element (proton number {z[atom]}); correct or leave it out"
            )
        if not (np.abs(pos) < _FARTHEST).all():
            atom = int(np.argwhere(~(np.abs(pos) < _FARTHEST))[0, 0])
            raise UserError(
                f"{where}: atom {atom} is at {pos[atom].tolist()} bohr, {_beyond(pos[atom])}; correct or leave it out"
            )
        if not (np.abs(cell) < _FARTHEST).all():
            raise UserError(f"{where}: the cell is {cell.tolist()} bohr, {_beyond(cell)}; correct the file")
        key = pos.tobytes()
        if key not in self._seen:
            _refuse_coinciding(pos, where)
            if len(self._seen) < _REMEMBERED:
                self._seen.add(key)


def _beyond(lengths: np.ndarray) -> str:
    return f"beyond {_FARTHEST:g} bohr" if np.isfinite(lengths).all() else "which is not finite"


def _refuse_coinciding(pos: np.ndarray, where: str) -> None:
    from scipy.spatial import cKDTree

    tree = cKDTree(pos)
    # In blocks, up to the first pair: all pairs of a structure whose positions are all zero would fill the memory.
    for start in range(0, len(pos), _BLOCK):
        to_nearest = tree.query(pos[start : start + _BLOCK], k=2, distance_upper_bound=_COINCIDE)[0][:, 1]
        if np.isfinite(to_nearest).any():
            one = start + int(np.argmax(np.isfinite(to_nearest)))
            other = min(atom for atom in tree.query_ball_point(pos[one], _COINCIDE) if atom != one)
            raise UserError(
                f"{where}: atoms {one} and {other} are at the same position, {pos[other].tolist()} bohr; remove one of"
                " them, or check the unit of positions"
            )
