"""Targets named by the user: which numbers of a structure file become which target, in which unit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.read.frames import Frame, Unreadable, WrongOptionError
from hydragnn_hpc.dataset.read.units import Unit, parse_unit
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.fields import BESIDE_TARGETS, RYDBERG_IN_EV, Property
from hydragnn_hpc.logs import log
from hydragnn_hpc.records.base import Level

LARGEST = 1e100
"""Largest absolute value of a target: sums of larger ones' squares could overflow."""
LEVELS = ("graph", "node", "mixing")
"""What ``--target`` may give as level."""
_EXPECTED = "expected NAME=LEVEL:KEY:UNIT or NAME=LEVEL:KEY:UNIT:LABEL, such as energy=graph:energy:eV"


@dataclass(frozen=True)
class TargetSpec:
    """A target to be taken from structure files.

    Attributes
    ----------
    property : Property
        What is stored: name, level, unit, label.
    key : str
        Its key in the files.
    unit : Unit
        Its unit in the files.
    mixing : bool
        Whether ``key`` is a total energy, from which the mixing enthalpy (Ry per cell) is derived.
    less_protons : bool
        Whether an atom's proton number is subtracted from the value.
    """

    property: Property
    key: str
    unit: Unit
    mixing: bool = False
    less_protons: bool = False


def parse_targets(given: Sequence[str]) -> tuple[TargetSpec, ...]:
    """Read ``["energy=graph:energy:eV", "forces=node:forces:eV/Ang:force on an atom", ...]``.

    The level is ``graph`` (a value of the structure), ``node`` (of every atom), or ``mixing``: a total energy of the
    structure, stored as mixing enthalpy.

    Raises
    ------
    UserError
        If an entry cannot be read, its unit is unknown, a name is given twice, or two mixing enthalpies are requested.
    """
    specs: list[TargetSpec] = []
    for entry in given:
        where = f"--target {entry}"
        name, equals, rest = entry.partition("=")
        level, key, unit_text, label, *_ = [*rest.split(":", 3), "", "", ""]
        if not equals or not key or not unit_text:
            raise UserError(f"{where}: {_EXPECTED}")
        if not re.fullmatch(r"[A-Za-z]\w{0,63}", name, re.ASCII):
            raise UserError(
                f"{where}: '{name}' is not a valid name: use letters, digits and '_', starting with a letter"
            )
        if name in BESIDE_TARGETS:
            raise UserError(f"{where}: '{name}' has another meaning in files of true values; rename the target")
        if level not in LEVELS:
            raise UserError(f"{where}: level '{level}'{nearest(level, LEVELS)}")
        if any(name == spec.property.name for spec in specs):
            raise UserError(f"{where}: target '{name}' is given twice; leave one out or rename it")
        unit, mixing = parse_unit(unit_text, where), level == "mixing"
        if mixing and unit.in_ev is None:
            raise UserError(
                f"{where}: a mixing enthalpy is derived from an energy; {unit_text} is not a unit of energy, such as eV"
            )
        if mixing and any(spec.mixing for spec in specs):
            raise UserError(f"{where}: a second mixing enthalpy; leave one out")
        unit_stored = "Ry" if mixing else unit.text
        stored = Property(name, "node" if level == "node" else "graph", unit_stored, label or name.replace("_", " "))
        specs.append(TargetSpec(stored, key, unit, mixing))
    return tuple(specs)


class TargetExtractor:
    """Takes the targets from one frame after another, and checks that each has the same width in all frames.

    Parameters
    ----------
    specs : sequence of TargetSpec
    """

    def __init__(self, specs: Sequence[TargetSpec]) -> None:
        self.specs = tuple(specs)
        self._seen: dict[str, tuple[int, str]] = {}  # name: width, and where it was first seen
        self._keys: dict[Level, set[str]] = {"graph": set(), "node": set()}  # of all frames
        self._units_checked: set[tuple[str, str]] = set()

    def __call__(self, frame: Frame) -> tuple[dict[str, np.ndarray | None], float]:
        """Return the values of a frame's targets, and the total energy for its mixing enthalpy.

        Returns
        -------
        values : dict
            By name: ``[n_atoms, d]`` at node level, ``[1, d]`` at graph level; None where the frame lacks the key.
        energy : float
            Ry per cell; NaN where no mixing enthalpy is requested or the frame has no energy.

        Raises
        ------
        UserError
            If a value is not a number, is infinite or larger than :data:`LARGEST`, has another width than in earlier
            frames, or not one row per atom; or if the file states another unit.
        """
        self._keys["graph"].update(frame.values)
        self._keys["node"].update(frame.columns)
        values: dict[str, np.ndarray | None] = {}
        energy = np.nan
        for spec in self.specs:
            array = (_of_atoms if spec.property.level == "node" else _of_structure)(frame, spec.key)
            if array is not None:
                self._check_unit(spec, frame)
                self._check(spec, array, frame.where)
            if not spec.mixing:
                subtract = array is not None and spec.less_protons
                values[spec.property.name] = array - frame.atomic_numbers[:, None] if subtract else array
            elif array is not None:
                assert spec.unit.in_ev is not None
                scale = spec.unit.in_ev / RYDBERG_IN_EV * (len(frame.atomic_numbers) if spec.unit.per_atom else 1)
                if array.shape[1] != 1:
                    raise UserError(
                        f"{frame.where}: '{spec.key}' holds {array.shape[1]} numbers; an energy is a single number"
                    )
                energy = float(array[0, 0]) * scale
        # Remembered only now: a frame that is skipped must not set the width.
        for name, array in values.items():
            if array is not None:
                self._seen.setdefault(name, (array.shape[1], frame.where))
        if not np.isnan(energy):
            self._seen.setdefault(next(spec.property.name for spec in self.specs if spec.mixing), (1, frame.where))
        return values, energy

    def _check_unit(self, spec: TargetSpec, frame: Frame) -> None:
        """Refuse a target whose unit differs from what the file states; log a stated unit that is unknown."""
        stated, name = frame.units.get(spec.key), spec.property.name
        if stated is None or (name, stated) in self._units_checked:
            return
        self._units_checked.add((name, stated))
        file = frame.where.rsplit(", ", 1)[0]
        try:
            known = parse_unit(stated, "").text
        except UserError:
            log(f"{file}: '{spec.key}' is in '{stated}', a unit not known here; taken as {spec.unit}, as --target says")
            return
        if known != spec.unit.text:
            raise WrongOptionError(
                f"--target {name}: '{spec.key}' is in {stated}, as the metadata of {file} state, not in {spec.unit};"
                " correct the unit in --target"
            )

    def _check(self, spec: TargetSpec, array: np.ndarray, where: str) -> None:
        largest = float(np.fmax.reduce(np.abs(array), axis=None, initial=0.0))  # NaN does not count
        if largest == np.inf:
            raise UserError(f"{where}: '{spec.key}' holds an infinite value; correct it, or write nan if missing")
        if largest > LARGEST:
            raise UserError(
                f"{where}: '{spec.key}' reaches {largest:.3g}, and beyond {LARGEST:g} no variance can be computed; "
                "correct it, or write nan if missing"
            )
        width, first = self._seen.get(spec.property.name, (array.shape[1], ""))
        if array.shape[1] != width:
            raise UserError(
                f"{where}: '{spec.key}' has {array.shape[1]} components, but {width} in {first}; a target has one"
                " width: correct the file, or prepare the two kinds as two data sets"
            )

    def widths(self, source: str) -> dict[str, int]:
        """Return every target's number of components, once all frames have been taken.

        Raises
        ------
        UserError
            If no frame has a target.
        """
        for spec in self.specs:
            if spec.property.name not in self._seen:
                raise UserError(
                    f"{source}: no structure has '{spec.key}' for target '{spec.property.name}'"
                    f"{self._nearest(spec.key)}"
                )
        return {name: width for name, (width, _) in self._seen.items()}

    def _nearest(self, key: str) -> str:
        close = nearest(key, self._keys["graph"] | self._keys["node"])
        held = sorted(f"{held_key} ({level})" for level, keys in self._keys.items() for held_key in keys)
        return close if close.startswith("; did") else f"; the files hold: {', '.join(held) or 'nothing'}"


def available(frame: Frame) -> str:
    """Return, for a message, which keys of a frame can be targets, by level."""

    def usable_keys(keys: Sequence[str], get: Callable[[Frame, str], np.ndarray | None]) -> str:
        usable = []
        for key in keys:
            try:
                usable += [key] if get(frame, key) is not None else []
            except UserError:
                continue
        return ", ".join(usable) or "none"

    graph, node = usable_keys(list(frame.values), _of_structure), usable_keys(list(frame.columns), _of_atoms)
    return f"graph-level keys: {graph}; node-level keys: {node}"


def _numbers(raw: object, key: str, where: str) -> np.ndarray:
    if isinstance(raw, Unreadable):
        raise UserError(f"{where}: '{key}' {raw.reason}")
    try:
        array = np.asarray(raw)
        if array.dtype.kind not in "biuf":
            raise ValueError
    except ValueError as error:
        raise UserError(f"{where}: '{key}' is {str(raw)[:40]!r}, which is not a number; choose another key") from error
    if array.dtype.kind == "b":
        raise UserError(f"{where}: '{key}' is a boolean, not a number; choose another key")
    return array.astype(np.float64)


def _of_structure(frame: Frame, key: str) -> np.ndarray | None:
    if frame.values.get(key) is not None:  # null in JSON is a missing value
        array = _numbers(frame.values[key], key, frame.where).reshape(1, -1)
        if not array.size:
            raise UserError(f"{frame.where}: '{key}' is empty; leave it out where it is missing")
        return array
    if key in frame.columns:
        raise UserError(f"{frame.where}: '{key}' is given for every atom; its level is node, not graph")
    return None


def _of_atoms(frame: Frame, key: str) -> np.ndarray | None:
    n = len(frame.atomic_numbers)
    raw = frame.columns.get(key, frame.values.get(key))
    if raw is None:
        return None
    array = _numbers(raw, key, frame.where)
    if array.ndim == 0 or len(array) != n:
        count = counted(1 if array.ndim == 0 else len(array), "value")
        raise UserError(
            f"{frame.where}: '{key}' has {count} for {counted(n, 'atom')}; a node-level target has one for each atom"
        )
    return array.reshape(n, -1)
