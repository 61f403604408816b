"""Properties of elements, by name, that can be node inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hydragnn_hpc.errors import UserError

_NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)
_NA = float("nan")
# Pauling scale: CRC Handbook of Chemistry and Physics, 95th edition (2014), section 9; `_NA` where it lists no value.
_ELECTRONEGATIVITIES = (
    2.20, _NA, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, _NA, 0.93, 1.31, 1.61, 1.90, 2.19, 2.58, 3.16, _NA, 0.82,
    1.00, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.90, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96, _NA, 0.82, 0.95,
    1.22, 1.33, 1.6, 2.16, 2.10, 2.2, 2.28, 2.20, 1.93, 1.69, 1.78, 1.96, 2.05, 2.1, 2.66, 2.60, 0.79, 0.89, 1.10,
    1.12, 1.13, 1.14, _NA, 1.17, _NA, 1.20, _NA, 1.22, 1.23, 1.24, 1.25, _NA, 1.0, 1.3, 1.5, 1.7, 1.9, 2.2, 2.2, 2.2,
    2.4, 1.9, 1.8, 1.8, 1.9, 2.0, 2.2, _NA, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.3, 1.3,
)  # fmt: skip


def period(number: int) -> float:
    """Return the row of the periodic table."""
    return float(sum(number > core for core in _NOBLE_GASES))


def group(number: int) -> float:
    """Return the column of the periodic table, 1 to 18; 3 for lanthanides and actinides."""
    outer, row = _outer_electrons(number), period(number)
    if outer <= 2 and number != 2:
        return float(outer)
    f_block = 14 if row >= 6 else 0
    if f_block and outer <= 3 + f_block:
        return 3.0
    length = int(_NOBLE_GASES[int(row)] - _NOBLE_GASES[int(row) - 1])
    return float(18 - (length - outer))


def valence_electrons(number: int) -> float:
    """Return the number of electrons beyond the preceding noble gas, without those of filled inner d and f shells.

    Zn, Cd and Hg have 12, Ga 3, Hf 4; those of lanthanides and actinides include f electrons: Ce 4, Eu 9.
    """
    outer, row = _outer_electrons(number), period(number)
    f_block, d_block = (14 if row >= 6 else 0), (10 if row >= 4 else 0)
    if outer > f_block + d_block + 2:
        return float(outer - f_block - d_block)
    return float(outer - f_block if f_block and outer > f_block + 2 else outer)


def radius(number: int) -> float:
    """Return the covalent radius, ångström: Cordero et al., Dalton Trans. 2008, 2832; NaN where unknown."""
    from ase.data import covalent_radii

    return float(covalent_radii[number]) if number <= 96 else _NA


def electronegativity(number: int) -> float:
    """Return the electronegativity on Pauling's scale; NaN where unknown."""
    return _ELECTRONEGATIVITIES[number - 1] if number <= len(_ELECTRONEGATIVITIES) else _NA


PROPERTIES: dict[str, Callable[[int], float]] = {
    "radius": radius,
    "electronegativity": electronegativity,
    "valence_electrons": valence_electrons,
    "period": period,
    "group": group,
}


def values(name: str, numbers: Sequence[int]) -> np.ndarray:
    """Return the property ``name`` of elements, ``[K]``.

    Raises
    ------
    UserError
        If it is unknown for one of them.
    """
    from ase.data import chemical_symbols

    known = np.array([PROPERTIES[name](z) for z in numbers])
    if unknown := [chemical_symbols[z] for z, value in zip(numbers, known, strict=True) if np.isnan(value)]:
        raise UserError(f"inputs: '{name}' is not known for {', '.join(unknown)}; leave it out, or use one_hot")
    return known


def _outer_electrons(number: int) -> int:
    return number - max(core for core in _NOBLE_GASES if core < number)
