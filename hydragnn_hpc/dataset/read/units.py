"""Units of targets, written as products and quotients, and the conversion of lengths between ångström and bohr."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.fields import BOHR_IN_ANGSTROM, RYDBERG_IN_EV

_KILOJOULE_PER_MOLE_IN_EV = 0.010364269656262174  # 1000 / (N_A e), exact SI values of 2019
# Energies have a value in eV, used to convert total energies; other units are only names.
_ENERGIES = {
    "eV": 1.0,
    "meV": 1e-3,
    "Ry": RYDBERG_IN_EV,
    "mRy": 1e-3 * RYDBERG_IN_EV,
    "Ha": 2 * RYDBERG_IN_EV,
    "kJ/mol": _KILOJOULE_PER_MOLE_IN_EV,
    "kcal/mol": 4.184 * _KILOJOULE_PER_MOLE_IN_EV,
}
_NAMES = {
    **{name: name for name in _ENERGIES if "/" not in name},
    **dict.fromkeys(("hartree", "Hartree"), "Ha"),
    **dict.fromkeys(("rydberg", "Rydberg"), "Ry"),
    **dict.fromkeys(("Ang", "Angstrom", "angstrom", "Å", "A"), "Å"),
    **dict.fromkeys(("bohr", "Bohr"), "bohr"),
    **dict.fromkeys(("μB", "µB", "muB", "mu_B", "bohr_magneton"), "μB"),
    **{name: name for name in ("e", "D", "V", "GPa", "kbar", "K", "nm", "ps", "fs", "THz", "atom", "mol")},
    **{"kJ": "kJ", "kcal": "kcal", "J": "J", "N": "N", "m": "m", "C": "C", "T": "T"},
    **dict.fromkeys(("debye", "Debye"), "D"),
}
_FACTOR = re.compile(r"([^\W\d]+|1)(?:\^(-?[1-9]))?")
_OF_KEY = re.compile(r"_?(.+?)_units?", re.IGNORECASE)
LENGTH_KEYS = ("length", "distance", "position", "positions", "pos", "coordinates")
"""Names under which files state the unit of positions and cell."""
_LENGTH_NAMES = {
    **dict.fromkeys(("a0", "a_0", "au", "a.u.", "bohr"), "bohr"),
    **dict.fromkeys(("ang", "angstrom", "angstroms", "angström", "ångström", "å", "a"), "Å"),
}
_SHORT_DECIMALS = 10  # a number with at most as many decimals is a short one
_ROUNDING_STEPS = 4  # between neighbouring floating-point numbers: the rounding error of a conversion


@dataclass(frozen=True)
class Unit:
    """A unit of a target.

    Attributes
    ----------
    text : str
        The unit as it is displayed, ``"eV/Å"``; empty for a dimensionless number.
    in_ev : float or None
        Its value in eV if it is an energy, or an energy per atom.
    per_atom : bool
        Whether it is an energy per atom.
    """

    text: str
    in_ev: float | None = None
    per_atom: bool = False

    def __str__(self) -> str:
        return self.text or "1 (dimensionless)"


def parse_unit(text: str, where: str) -> Unit:
    """Read a unit: names joined by ``*`` and ``/``, with integer powers (``eV/Ang^3``); ``1`` is dimensionless.

    Raises
    ------
    UserError
        If a name is unknown or the text is not such an expression; ``where`` names the option.
    """
    pieces = re.split(r"([*/])", text.strip())
    shown = ""
    for operator, factor in zip(["", *pieces[1::2]], pieces[::2], strict=True):
        match = _FACTOR.fullmatch(factor)
        if match is None or (match[1] != "1" and match[1] not in _NAMES):
            raise UserError(
                f"{where}: unknown unit '{text}'{nearest(factor or text, [*_NAMES, '1'])} (units are joined by * and /,"
                " with powers: eV/Ang^3; 1 is dimensionless)"
            )
        name = _NAMES.get(match[1], "1")
        shown += f"{operator}{name}" + (f"^{match[2]}" if match[2] else "")
    energy, per_atom = shown.removesuffix("/atom"), shown.endswith("/atom")
    return Unit("" if shown == "1" else shown, _ENERGIES.get(energy), per_atom and energy in _ENERGIES)


@dataclass(frozen=True)
class LengthUnit:
    """A unit of length; ``to_bohr`` converts an array in this unit."""

    name: str
    to_bohr: Callable[[np.ndarray], np.ndarray]


def length_unit(text: str, where: str) -> LengthUnit:
    """Return the unit of length with that name.

    Raises
    ------
    UserError
        If it is not a unit of length; ``where`` names the place.
    """
    name = _LENGTH_NAMES.get(text.strip().casefold()) or parse_unit(text, where).text
    if name not in _LENGTH_UNITS:
        raise UserError(f"{where}: '{text}' is not a unit of length; known: {', '.join(_LENGTH_UNITS)}")
    return _LENGTH_UNITS[name]


def units_of_keys(values: Mapping[str, Any]) -> dict[str, str]:
    """Return by key the units that a file's header or metadata state: ``energy_unit=eV`` is the unit of ``energy``."""
    matches = {key: _OF_KEY.fullmatch(key) for key, value in values.items() if isinstance(value, str) and value}
    return {match[1]: str(values[key]) for key, match in matches.items() if match}


def stated_length_unit(units: Mapping[str, str], where: str) -> LengthUnit:
    """Return the unit of positions and cell among stated ones, by :data:`LENGTH_KEYS`; ångström where there is none.

    Raises
    ------
    UserError
        If it is not a unit of length, or there are several.
    """
    stated = {key: unit for key, unit in units.items() if key.casefold().lstrip("_") in LENGTH_KEYS}
    lengths = {length_unit(unit, f"{where}: the unit of {key}") for key, unit in stated.items()}
    if len(lengths) > 1:
        raise UserError(f"{where}: several units of length are stated, {stated}; correct them")
    return lengths.pop() if lengths else ANGSTROM


def is_energy(unit: str) -> bool:
    """Return whether a unit, as displayed, is a unit of energy; a unit of energy per atom is not."""
    return unit in _ENERGIES


def to_bohr(angstrom: np.ndarray) -> np.ndarray:
    """Convert ångström to bohr; :func:`to_angstrom` undoes it exactly for numbers of up to ten decimals below 10^4."""
    return _exactly_undone(angstrom, angstrom / BOHR_IN_ANGSTROM, lambda bohr: bohr * BOHR_IN_ANGSTROM)


def to_angstrom(bohr: np.ndarray) -> np.ndarray:
    """Convert bohr to ångström; :func:`to_bohr` undoes it exactly for numbers of up to ten decimals below 10^4."""
    return _exactly_undone(bohr, bohr * BOHR_IN_ANGSTROM, lambda angstrom: angstrom / BOHR_IN_ANGSTROM)


ANGSTROM = LengthUnit("Å", to_bohr)
_LENGTH_UNITS = {
    "Å": ANGSTROM,
    "bohr": LengthUnit("bohr", lambda lengths: lengths),
    "nm": LengthUnit("nm", lambda lengths: to_bohr(lengths * 10.0)),
}


def _exactly_undone(values: np.ndarray, results: np.ndarray, undone: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    # The two conversions do not undo each other to the last bit. A result within rounding error of a short decimal is
    # taken to have been one and restored, so that files converted back and forth keep their numbers; unless the value
    # itself is a short decimal: then its result must not pass for one, or the way back would start from another number.
    if not values.any():
        return results
    short = np.round(results, _SHORT_DECIMALS)
    with np.errstate(invalid="ignore"):  # non-finite values stay so, and their structure is refused later
        close = np.abs(short - results) <= _ROUNDING_STEPS * np.spacing(np.abs(results))
    mistaken = (results == short) & (undone(results) != values)
    is_short = values == np.round(values, _SHORT_DECIMALS)
    kept = np.where(mistaken, np.nextafter(results, 0.0), results)
    converted: np.ndarray = np.where(is_short, kept, np.where(close, short, results))
    return converted
