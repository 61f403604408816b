"""The samples of a data set under construction: collected in any order, then sorted into a fixed one."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from hydragnn_hpc.dataset.graphs import Geometry
from hydragnn_hpc.dataset.read.files import natural_key
from hydragnn_hpc.dataset.read.frames import Frame
from hydragnn_hpc.dataset.store.spool import ScratchSpace
from hydragnn_hpc.fields import Property

Values = dict[str, np.ndarray | None]
"""A sample's targets by name: ``[n_atoms, d]`` at node level, ``[1, d]`` at graph level; None where missing."""


@dataclass
class RawSamples:
    """All samples, in natural order of their names.

    Attributes
    ----------
    names : list of str
        Not necessarily unique.
    origins : list of str
        What identifies each structure in the source, uniquely.
    geometries : list of Geometry
        The distinct ones, in order of first use.
    geometry : numpy.ndarray
        ``[S]`` int32, index of each sample's geometry.
    atomic_numbers : list of numpy.ndarray
        Per sample ``[n]`` int32.
    values : dict
        Targets by name, per sample ``[n, d]`` (node level) or ``[1, d]`` (graph level) float64, NaN where missing.
    energies : numpy.ndarray
        ``[S]`` float64 total energies, Ry per cell; NaN where not known.
    source_index : numpy.ndarray
        ``[S]`` int64, each structure's number in the source, counted from 0 over all its structures.
    """

    names: list[str]
    origins: list[str]
    geometries: list[Geometry]
    geometry: np.ndarray
    atomic_numbers: list[np.ndarray]
    values: dict[str, list[np.ndarray]]
    energies: np.ndarray
    source_index: np.ndarray

    def chosen(self, positions: np.ndarray) -> RawSamples:
        """Return the samples at ``positions``; geometries no longer in use are dropped."""
        picks = positions.tolist()
        # By first use, so that the numbers do not depend on the order in which the files were read.
        number: dict[int, int] = {}
        renumbered = [number.setdefault(g, len(number)) for g in self.geometry[positions].tolist()]
        return RawSamples(
            [self.names[k] for k in picks],
            [self.origins[k] for k in picks],
            [self.geometries[k] for k in number],
            np.array(renumbered, np.int32),
            [self.atomic_numbers[k] for k in picks],
            {name: [values[k] for k in picks] for name, values in self.values.items()},
            self.energies[positions],
            self.source_index[positions],
        )

    def atom_offsets(self) -> np.ndarray:
        """Return where each sample's atoms start, and the end: ``[S + 1]`` int64."""
        return offsets_of([len(z) for z in self.atomic_numbers])

    def keys(self) -> list[bytes]:
        """Return a key per sample, equal only for the same species on the same sites."""
        pairs = zip(self.geometry.tolist(), self.atomic_numbers, strict=True)
        return [_hash(g.to_bytes(4, "little") + z.tobytes()) for g, z in pairs]


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def offsets_of(counts: list[int] | np.ndarray) -> np.ndarray:
    """Return where each of ``counts`` entries starts, and the end: ``[n + 1]`` int64."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


@dataclass(slots=True)
class _Row:
    name: str
    origin: str
    geometry: int
    atomic_numbers: np.ndarray
    values: Values
    energy: float
    source_index: int

    def content(self, geometries: list[Geometry]) -> tuple[bytes, ...]:
        values = [b"" if v is None else v.tobytes() for v in self.values.values()]
        return (geometries[self.geometry].key(), self.atomic_numbers.tobytes(), *values, repr(self.energy).encode())


class SampleCollector:
    """Collects samples one by one; geometries that they share are kept once.

    Per-atom values are kept on disk, in ``folder`` or in the folder for temporary files; a sample takes about a
    kilobyte of memory, whatever its number of atoms.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._scratch = ScratchSpace(folder)
        self._rows: list[_Row] = []
        self._geometries: list[Geometry] = []
        self._known: dict[bytes, int] = {}

    def knows(self, geometry: Geometry) -> bool:
        """Whether a sample on that geometry has been added."""
        return _hash(geometry.key()) in self._known

    def add(
        self,
        frame: Frame,
        geometry: Geometry,
        values: Values,
        energy: float = math.nan,
        source_index: int | None = None,
    ) -> None:
        """Add a structure whose geometry is ``geometry``; its arrays are copied.

        Its number in the source is that of the structures before it, unless ``source_index`` is given.

        Raises
        ------
        UserError
            If the disk is full.
        """
        keep = self._scratch.keep
        number = self._known.setdefault(_hash(geometry.key()), len(self._geometries))
        if number == len(self._geometries):
            self._geometries.append(replace(geometry, pos=keep(geometry.pos)))
        kept = {name: value if value is None else keep(value) for name, value in values.items()}
        index = len(self._rows) if source_index is None else source_index
        self._rows.append(_Row(frame.name, frame.origin, number, keep(frame.atomic_numbers), kept, energy, index))

    def __len__(self) -> int:
        return len(self._rows)

    def samples(self, properties: list[Property], widths: dict[str, int]) -> RawSamples:
        """Return all samples, in natural order of their names; missing values become NaN."""
        rows = self._ordered()
        values = {
            p.name: [_with_nan(r.values[p.name], p, widths[p.name], len(r.atomic_numbers)) for r in rows]
            for p in properties
        }
        return RawSamples(
            [r.name for r in rows],
            [r.origin for r in rows],
            self._geometries,
            np.array([r.geometry for r in rows], np.int32),
            [r.atomic_numbers for r in rows],
            values,
            np.array([r.energy for r in rows]),
            np.array([r.source_index for r in rows], np.int64),
        )

    def _ordered(self) -> list[_Row]:
        def by_name(row: _Row) -> tuple[tuple[tuple[int, int | str], ...], str]:
            return natural_key(row.name), row.name

        ordered: list[_Row] = []
        for _, alike in groupby(sorted(self._rows, key=by_name), key=lambda row: row.name):
            # Names need not be unique (files of one name in several folders): the content decides between them.
            group = list(alike)
            ordered += group if len(group) == 1 else sorted(group, key=lambda row: row.content(self._geometries))
        return ordered


def _with_nan(values: np.ndarray | None, of: Property, width: int, n_atoms: int) -> np.ndarray:
    """Return the values of a target, NaN where they are missing."""
    return np.full((n_atoms if of.level == "node" else 1, width), np.nan) if values is None else values
