"""Every array of a data set, declared once: its name, shape, dtype, unit and meaning.

Shapes are written with the sizes ``S`` samples, ``A`` atoms of all samples together, ``G`` geometries, ``B`` atoms of
all geometries together, ``E`` directed edges of all geometries together, ``N`` bytes of text, and ``d`` the width of a
target. A sample is a decoration (species and targets) of a geometry (sites, cell and neighbours); many samples may
share one geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.records.base import Level

PARTS = ("training", "validation", "test")
"""Names of the parts of the split; a sample's ``split`` is an index into this tuple."""


@dataclass(frozen=True)
class Field:
    """One declared array.

    Attributes
    ----------
    name, shape, dtype, unit, meaning : str
        ``shape`` is a space-separated list of size letters and numbers, ``"A d"`` or ``"G 3 3"``.
    required : bool
        False for an array that older data sets do not have.
    """

    name: str
    shape: str
    dtype: str
    unit: str
    meaning: str
    required: bool = True

    def check(self, array: np.ndarray, sizes: dict[str, int], where: str) -> None:
        """Check ``array`` against the declaration, and add the sizes that it fixes to ``sizes``.

        Raises
        ------
        UserError
            If the dtype, the number of dimensions or a size differs.
        """
        if array.dtype != np.dtype(self.dtype):
            raise UserError(
                f"{where}: array '{self.name}' has dtype {array.dtype}, expected {self.dtype}; prepare the data set"
                " again"
            )
        letters = self.shape.split()
        expected = [int(s) if s.isdigit() else sizes.get(s, -1) for s in letters]
        fits = array.ndim == len(letters) and all(e in (-1, a) for e, a in zip(expected, array.shape, strict=True))
        if not fits:
            shown = tuple(s if e < 0 else e for s, e in zip(letters, expected, strict=True))
            raise UserError(
                f"{where}: array '{self.name}' has shape {array.shape}, expected {shown}; prepare the data set again"
            )
        sizes.update({s: a for s, a in zip(letters, array.shape, strict=True) if not s.isdigit() and s != "d"})


SOURCE_INDEX = "source_index"
"""Name of the array that holds each sample's number in the source, and of the key that states it in other formats."""

BESIDE_TARGETS = ("sample", "names", "atom_offsets", "atomic_numbers", SOURCE_INDEX)
"""The arrays in a file of true values that are not targets; older files lack the last."""

STRUCTURE = (
    Field("sample_name_offsets", "S+1", "int64", "", "where each sample's name starts in sample_names"),
    Field("sample_names", "N", "uint8", "", "names of the samples, UTF-8, concatenated"),
    Field(
        SOURCE_INDEX,
        "S",
        "int64",
        "",
        "number of each sample's structure in the source, from 0, over all structures",
        required=False,
    ),
    Field("sample_geometry", "S", "int32", "", "the geometry that each sample decorates"),
    Field("split", "S", "uint8", "", "0 training, 1 validation, 2 test"),
    Field("atom_offsets", "S+1", "int64", "", "where each sample's atoms start in A"),
    Field("atomic_numbers", "A", "int32", "", "proton number of every atom"),
    Field("geometry_atom_offsets", "G+1", "int64", "", "where each geometry's sites start in B"),
    Field("pos", "B 3", "float64", "bohr", "positions of the sites"),
    Field("cell", "G 3 3", "float64", "bohr", "rows are the lattice vectors; zeros where there is none"),
    Field("periodic", "G 3", "uint8", "", "1 where the boundary is periodic along that lattice vector"),
    Field("neighbour_offsets", "B+1", "int64", "", "where each site's neighbours start in E"),
    Field("neighbours", "E", "int32", "", "neighbouring site, counted within its geometry"),
    Field("edge_vectors", "E 3", "float64", "bohr", "from the site to its neighbour's image"),
)
"""The arrays of structures, whatever the targets. ``neighbours`` is symmetric: each edge i -> j has its j -> i."""


def sample_names(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of all samples of a data set's arrays."""
    text, offsets = arrays["sample_names"].tobytes(), arrays["sample_name_offsets"].tolist()
    return [text[first:last].decode("utf-8", "replace") for first, last in pairwise(offsets)]


def target_field(name: str, level: Level, unit: str) -> Field:
    """Declare a target: ``node`` targets are ``[A, d]``, ``graph`` targets ``[S, d]``; NaN is a missing value."""
    return Field(f"target_{name}", "A d" if level == "node" else "S d", "float64", unit, f"{level}-level target")


@dataclass(frozen=True)
class Property:
    """A target as stored: its name, level, unit and label."""

    name: str
    level: Level
    unit: str
    label: str


PROPERTIES = {
    p.name: p
    for p in (
        Property("mixing_enthalpy", "graph", "Ry", "mixing enthalpy"),
        Property("charge_transfer", "node", "e", "charge transfer"),
        Property("magnetic_moment", "node", "μB", "magnetic moment"),
    )
}
"""The targets that LSMS text provides. Energies are per cell."""

PAPER_TASKS = {"mixing_enthalpy": "H", "charge_transfer": "C", "magnetic_moment": "M"}
"""The paper's name of each target's task."""

BOHR_IN_ANGSTROM = 0.529177210903  # CODATA 2018
RYDBERG_IN_EV = 13.605693122994  # CODATA 2018
