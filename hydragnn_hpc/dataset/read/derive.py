"""The mixing enthalpy, derived from total energies and the energies of the pure elements."""

from __future__ import annotations

import math
import re

import numpy as np
from ase.data import atomic_numbers as proton_numbers
from ase.data import chemical_symbols

from hydragnn_hpc.dataset.read.units import parse_unit
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.fields import RYDBERG_IN_EV

EndMembers = dict[int, float]
"""Energy of the pure element, Ry per atom, by proton number."""


def parse_end_members(given: list[str]) -> EndMembers:
    """Read ``["Fe=-2541.0", "Cu=-3.72eV", ...]``: energies per atom, in Ry unless a unit is given; return Ry.

    Raises
    ------
    UserError
        If an entry is not ``symbol=number`` with an optional unit of energy, the symbol is not an element, or an
        element is given twice.
    """
    end_members: EndMembers = {}
    for entry in given:
        symbol, _, text = entry.partition("=")
        if proton_numbers.get(symbol, 0) == 0:  # ase knows 'X', a site without an atom, as number 0
            raise UserError(f"end member '{entry}': no element '{symbol}'{nearest(symbol, chemical_symbols[1:])}")
        match = re.fullmatch(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(\S*)\s*", text)
        try:
            energy = float(match[1]) if match else math.nan
        except ValueError:
            energy = math.nan
        if match is None or not math.isfinite(energy):
            raise UserError(
                f"end member '{entry}': expected SYMBOL=ENERGY, Ry per atom, such as Fe=-2541.0 or Cu=-3.72eV"
            )
        if match[2]:
            unit = parse_unit(match[2], f"end member '{entry}'")
            if unit.in_ev is None:
                raise UserError(f"end member '{entry}': {match[2]} is not a unit of energy; give Ry or eV, for example")
            energy *= unit.in_ev / RYDBERG_IN_EV
        if proton_numbers[symbol] in end_members:
            raise UserError(f"end member '{entry}': {symbol} is given twice; leave one out")
        end_members[proton_numbers[symbol]] = energy
    return end_members


def find_end_members(total_energies: np.ndarray, species_counts: np.ndarray, species: np.ndarray) -> EndMembers:
    """Return the energy of each element that has pure cells in the data: the lowest per atom among them.

    Parameters
    ----------
    total_energies : numpy.ndarray
        ``[S]`` float64, Ry per cell; NaN where not known.
    species_counts : numpy.ndarray
        ``[S, n_species]`` atoms of each species in each cell.
    species : numpy.ndarray
        ``[n_species]`` proton numbers.
    """
    end_members: EndMembers = {}
    n_atoms = species_counts.sum(axis=1)
    for column, z in enumerate(species.tolist()):
        pure = (species_counts[:, column] == n_atoms) & np.isfinite(total_energies)
        if pure.any():
            end_members[z] = float((total_energies[pure] / n_atoms[pure]).min())
    return end_members


def mixing_enthalpy(
    total_energies: np.ndarray, species_counts: np.ndarray, species: np.ndarray, end_members: EndMembers
) -> np.ndarray:
    """Return H = E - sum_s n_s e_s, Ry per cell, ``[S]``; shapes as in :func:`find_end_members`.

    Raises
    ------
    UserError
        If an element has no end member.
    """
    missing = [chemical_symbols[z] for z in species.tolist() if z not in end_members]
    if missing:
        raise UserError(
            f"no end member for {', '.join(missing)}: the mixing enthalpy needs the pure element's energy; add a pure"
            f" cell to the data or give --end-member {missing[0]}=ENERGY (Ry per atom)"
        )
    # As n * (E_pure / n_pure), which returns a pure cell's own energy to within one rounding: exactly for 32 atoms, to
    # 1e-10 Ry for other cells of this size.
    reference = sum(species_counts[:, k] * end_members[z] for k, z in enumerate(species.tolist()))
    enthalpy: np.ndarray = total_energies - reference
    return enthalpy
