"""Conversion of ASE structures to frames, whichever of ASE's readers they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hydragnn_hpc.dataset.read.frames import Frame, FrameLabel, Unreadable
from hydragnn_hpc.dataset.read.units import ANGSTROM, LengthUnit


def frame_of(
    atoms: Any,
    own: Sequence[tuple[str, Mapping[str, Any]]],
    label: FrameLabel,
    length: LengthUnit = ANGSTROM,
    units: Mapping[str, str] | None = None,
) -> Frame:
    """Turn an ASE structure into a frame.

    Parameters
    ----------
    atoms : ase.Atoms
    own : sequence of (str, mapping)
        For each place that holds values of the structure: its name for errors, and the values by key. A key that has
        different values in two places, the calculator's results included, is :class:`Unreadable`.
    label : FrameLabel
        Its ``name`` is used unless ``own`` holds one.
    length : LengthUnit
        Unit of positions and cell.
    units : mapping
        Units that are stated, by key.
    """
    values: dict[str, Any] = {}
    first_place: dict[str, str] = {}
    for place, mapping in own:
        for key, value in mapping.items():
            values[key] = _agreed(values[key], value, first_place[key], place) if key in values else value
            first_place.setdefault(key, place)
    columns = dict(atoms.arrays)
    numbers, positions = columns.pop("numbers"), columns.pop("positions")
    for key, value in (atoms.calc.results if atoms.calc else {}).items():
        from ase.io.extxyz import per_atom_properties  # ase.io takes half a second to load

        mine, other = (columns, values) if key in per_atom_properties else (values, columns)
        if key in values:
            value = _agreed(values[key], value, first_place[key], "the calculator's results")
        elif key in columns and mine is columns:
            value = _agreed(columns[key], value, "the arrays of atoms", "the calculator's results")
        mine[key] = value
        if mine is columns:
            other.pop(key, None)
    own_name = values.pop("name", None)
    periodic = (bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2]))
    return Frame(
        label.name if own_name is None else str(own_name),
        label.origin,
        label.where,
        np.asarray(numbers, np.int32),
        length.to_bohr(np.asarray(positions, np.float64)),
        length.to_bohr(np.asarray(atoms.cell.array, np.float64)),
        periodic,
        values,
        columns,
        dict(units or {}),
    )


def _agreed(one: Any, other: Any, place: str, other_place: str) -> Any:
    """Return the value that two places hold; :class:`Unreadable` where they do not agree."""
    try:
        same = bool(np.array_equal(one, other, equal_nan=True))
    except TypeError:  # not numbers
        same = bool(np.array_equal(one, other))
    if same:
        return other
    shown = [" ".join(str(value).split())[:40] for value in (one, other)]
    return Unreadable(f"is {shown[0]} in {place} and {shown[1]} in {other_place}; correct or remove one of them")
