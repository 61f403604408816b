"""Distances between atoms that suggest a wrong unit of positions: reported once, however many structures have them."""

from __future__ import annotations

import math

import numpy as np

from hydragnn_hpc.dataset.graphs import Neighbours

_CLOSE = 1.0  # bohr; the two of H2 are 1.4 apart


class DistanceCheck:
    """Remembers the closest atoms, and counts those without a neighbour; ``cutoff`` in bohr."""

    def __init__(self, cutoff: float) -> None:
        self._cutoff = cutoff
        self._closest, self._where, self._lonely = math.inf, "", 0

    def add(self, neighbours: Neighbours, where: str) -> None:
        """Look at one geometry; ``where`` names a structure on it."""
        if (shortest := neighbours.shortest()) < self._closest:
            self._closest, self._where = shortest, where
        degrees = np.diff(neighbours.offsets)
        self._lonely += int((degrees == 0).sum()) if len(degrees) > 1 else 0

    def lines(self) -> dict[str, str]:
        """Return a line for each thing that was noticed, by the name of its remark."""
        found = {}
        if self._closest < _CLOSE:
            found["close-atoms"] = (
                f"two atoms of {self._where} are {self._closest:.3g} bohr apart, too close for nuclei: check the unit"
                " of positions"
            )
        if self._lonely:
            found["no-neighbours"] = (
                f"{self._lonely:,} atoms have no neighbour within {self._cutoff:g} bohr: check the unit of positions,"
                " and the cutoff"
            )
        return found
