"""A check for distances between atoms that suggest a wrong unit: one line, however many structures are affected."""

from __future__ import annotations

import math

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.graphs import Neighbours

_CLOSE = 1.0  # bohr; the shortest bond, in H2, has 1.4


class DistanceCheck:
    """Remembers the closest pair of atoms, and counts atoms without a neighbour; ``cutoff`` in bohr."""

    def __init__(self, cutoff: float) -> None:
        self._cutoff = cutoff
        self._closest, self._where, self._isolated = math.inf, "", 0

    def add(self, neighbours: Neighbours, where: str) -> None:
        """Examine one geometry; ``where`` names a structure that has it."""
        if (shortest := neighbours.shortest()) < self._closest:
            self._closest, self._where = shortest, where
        degrees = np.diff(neighbours.offsets)
        self._isolated += int((degrees == 0).sum()) if len(degrees) > 1 else 0

    def lines(self) -> dict[str, str]:
        """Return what seems wrong, a line each, by the name of the remark."""
        lines = {}
        if self._closest < _CLOSE:
            lines["close-atoms"] = (
                f"two atoms of {self._where} are {self._closest:.3g} bohr apart, too close for nuclei: check the unit"
                " of positions"
            )
        if self._isolated:
            lines["no-neighbours"] = (
                f"{counted(self._isolated, 'atom')} without a neighbour within {self._cutoff:g} bohr: check the unit"
                " of positions and the cutoff"
            )
        return lines
