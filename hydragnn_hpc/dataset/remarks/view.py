"""A data set as the checks of data see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hydragnn_hpc.dataset.graphs import Neighbours
from hydragnn_hpc.dataset.remarks.distances import DistanceCheck
from hydragnn_hpc.fields import SOURCE_INDEX, sample_names
from hydragnn_hpc.records.dataset import NeighbourFacts, Source, Target

Lines = Iterator[tuple[str, str | None]]
"""The text of each remark, and the target that it is about; None where it is about all of the data."""


@dataclass(frozen=True)
class ReadFacts:
    """Facts that are known only while the source is read.

    Attributes
    ----------
    contradictions : list of tuple
        (origin of a repeated sample, origin of the sample that it repeats), where their targets differ.
    mixing : str
        Name of the target that is a mixing enthalpy; empty where there is none.
    energies : numpy.ndarray
        ``[S]`` float64, Ry: the total energies that the mixing enthalpy is derived from; NaN where unknown.
    pure_clusters : list of str
        Elements whose end member is a structure that is not periodic in all three directions.
    """

    contradictions: list[tuple[str, str]]
    mixing: str
    energies: np.ndarray
    pure_clusters: list[str]


@dataclass(frozen=True)
class DataView:
    """A data set, complete but for its manifest.

    Attributes
    ----------
    arrays : dict
        By name, as declared in `hydragnn_hpc.fields`.
    targets : dict
        By name.
    source, neighbours
        As in the manifest.
    counts : numpy.ndarray
        ``[S, K]``, atoms of each element in each sample.
    classes : numpy.ndarray or None
        ``[S]``, the same for samples that are equivalent by a symmetry of their geometry; None where not determined.
    read : ReadFacts or None
        None where the data set is not being read from its source.
    """

    arrays: dict[str, np.ndarray]
    targets: dict[str, Target]
    source: Source
    neighbours: NeighbourFacts
    counts: np.ndarray
    classes: np.ndarray | None = None
    read: ReadFacts | None = None

    def name(self, sample: int) -> str:
        """Return a sample's name, and its number in the source where other samples have the same name."""
        name = self._names[sample]
        if name not in self._repeated or SOURCE_INDEX not in self.arrays:
            return name
        return f"{name} (structure {self.arrays[SOURCE_INDEX][sample]} of the source)"

    @cached_property
    def _names(self) -> list[str]:
        return sample_names(self.arrays)

    @cached_property
    def _repeated(self) -> set[str]:
        return {name for name, number in Counter(self._names).items() if number > 1}

    def listed(self, samples: np.ndarray, most: int = 3) -> str:
        """Return the names of the first few samples, and how many more there are."""
        shown = ", ".join(self.name(k) for k in samples[:most].tolist())
        return f"{shown} and {len(samples) - most:,} more" if len(samples) > most else shown

    def part_sizes(self) -> list[int]:
        """Return the number of samples in the training, validation and test sets."""
        sizes: list[int] = np.bincount(self.arrays["split"], minlength=3).tolist()
        return sizes

    def sample_of_rows(self, target: str) -> np.ndarray:
        """Return the sample of each row of a target's values."""
        n = len(self.arrays["split"])
        if self.targets[target].level == "graph":
            return np.arange(n)
        return np.repeat(np.arange(n), np.diff(self.arrays["atom_offsets"]))

    def graph_of(self, geometry: int) -> Neighbours:
        """Return the neighbour list of a geometry."""
        first, last = self.arrays["geometry_atom_offsets"][geometry : geometry + 2].tolist()
        offsets = self.arrays["neighbour_offsets"][first : last + 1]
        edges = slice(int(offsets[0]), int(offsets[-1]))
        return Neighbours(offsets - offsets[0], self.arrays["neighbours"][edges], self.arrays["edge_vectors"][edges])

    def graphs(self) -> Iterator[tuple[int, Neighbours]]:
        """Yield the first sample of each geometry, and the geometry's neighbour list."""
        first = np.unique(self.arrays["sample_geometry"], return_index=True)[1]
        for geometry, sample in enumerate(first.tolist()):
            yield sample, self.graph_of(geometry)

    @cached_property
    def distance_lines(self) -> dict[str, str]:
        """What seems wrong with distances between atoms, by the name of the remark; all edges are read once."""
        check = DistanceCheck(self.neighbours.cutoff_bohr)
        for sample, graph in self.graphs():
            check.add(graph, self.name(sample))
        return check.lines()

    def atoms_of(self, sample: int) -> slice:
        """Return the rows of a sample's atoms."""
        first, last = self.arrays["atom_offsets"][sample : sample + 2].tolist()
        return slice(first, last)


def evenly(n: int, most: int) -> np.ndarray:
    """Return at most ``most`` of the numbers below n, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64)) if n else np.zeros(0, np.int64)
