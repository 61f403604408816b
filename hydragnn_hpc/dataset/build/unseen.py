"""New structures as arrays for trained models: neighbours, inputs and references are computed as in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from hydragnn_hpc import compositions
from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.features import inputs, residual
from hydragnn_hpc.dataset.graphs import Geometry, Neighbours, find_neighbours
from hydragnn_hpc.dataset.read import formats, sources
from hydragnn_hpc.dataset.read.frames import Frame, Skipped
from hydragnn_hpc.dataset.read.gathered import offsets_of
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.remarks.distances import DistanceCheck
from hydragnn_hpc.dataset.staged.copies import scaled
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.logs import log
from hydragnn_hpc.records.model import ModelFacts
from hydragnn_hpc.records.recipe import FittedReference

BATCH_ATOMS = 65_536
"""Atoms that are predicted together: what bounds the memory, however many structures there are."""
_MORE_THAN_ELEMENTS = 200


@dataclass(frozen=True)
class ReadingChoice:
    """Options for reading new structures.

    Attributes
    ----------
    form : str
        A format, or ``auto``.
    cell : tuple of float or None
        Nine numbers, bohr, rows are vectors: the cell where the source gives none.
    on_error : {"fail", "skip"}
        What to do with a structure that cannot be used.
    own_boundary : {"overrule", "refuse"}
        What to do with a structure that states a boundary other than that of the training.
    """

    form: str = "auto"
    cell: tuple[float, ...] | None = None
    on_error: str = "fail"
    own_boundary: str = "overrule"


@dataclass
class PreparedGeometry:
    """A geometry, and what is computed from it once, whatever elements are on its sites.

    Attributes
    ----------
    geometry : Geometry
    neighbours : Neighbours
    operators : GeometryOperators or None
        Of the inputs; None where the species is the only one.
    """

    geometry: Geometry
    neighbours: Neighbours
    operators: inputs.GeometryOperators | None


@dataclass(frozen=True)
class UnseenStructures:
    """Some new structures, in the order of their source.

    Attributes
    ----------
    frames : list of Frame
    index : list of int
        The position of each in the source, counted from 0, skipped structures included.
    geometries : list of PreparedGeometry
        The distinct ones.
    sample_geometry : numpy.ndarray
        ``[S]`` int32, the geometry of each structure.
    atom_offsets : numpy.ndarray
        ``[S + 1]`` int64.
    atomic_numbers : numpy.ndarray
        ``[A]`` int32.
    inputs : numpy.ndarray
        ``[A, F0]`` float32.
    """

    frames: list[Frame]
    index: list[int]
    geometries: list[PreparedGeometry]
    sample_geometry: np.ndarray
    atom_offsets: np.ndarray
    atomic_numbers: np.ndarray
    inputs: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def reference(self, reference: FittedReference) -> np.ndarray:
        """Return the values of a task's reference, scaled: ``[A, d]`` or, at graph level, ``[S, d]`` float64."""
        elements, numbers = np.array(reference.elements), self.atomic_numbers
        counts = compositions.counts_of(numbers, self.atom_offsets, elements)
        n_atoms, element = np.diff(self.atom_offsets), np.searchsorted(elements, numbers)
        regressors = residual.regressors_of(reference.level, self.inputs, n_atoms, element, len(elements))
        each = np.arange(len(n_atoms))
        if reference.level == "graph":
            return residual.evaluate(reference, counts, each, np.zeros_like(each), regressors)
        return residual.evaluate(reference, counts, np.repeat(each, n_atoms), element, regressors)


@dataclass
class Preparation:
    """Converts structures into batches, and counts those that are skipped or changed.

    Geometries of one batch are kept for the next: new structures often decorate the same sites.

    Attributes
    ----------
    facts : ModelFacts
        Facts of the models to be applied.
    choice : ReadingChoice
    count : int
        Structures seen so far.
    skipped : Skipped
        Structures that could not be used.
    overruled : int
        Structures that were treated under a boundary other than their own.
    """

    facts: ModelFacts
    choice: ReadingChoice = field(default_factory=ReadingChoice)
    count: int = 0
    skipped: Skipped = field(default_factory=Skipped)
    overruled: int = 0

    def __post_init__(self) -> None:
        near = self.facts.neighbours
        periodic = {"open": False, "periodic": True}.get(near.boundary)
        choice = self.choice
        self.options = Options(near.cutoff_bohr, periodic, cell=choice.cell, form=choice.form, on_error=choice.on_error)
        species = self.facts.species
        self._elements = species.elements or list(range(species.minimum, species.maximum + 1))
        self._is_known = np.zeros(_MORE_THAN_ELEMENTS, bool)
        self._is_known[self._elements] = True
        self._distances = DistanceCheck(near.cutoff_bohr)
        self._prepared_before: dict[bytes, PreparedGeometry] = {}
        self._used: dict[bytes, PreparedGeometry] = {}

    def read(self, source: Path) -> Iterator[UnseenStructures]:
        """Read structures in any format, in the order of the source; targets and other values are ignored.

        Raises
        ------
        UserError
            If the source cannot be read or holds nothing that can be used, or a structure is malformed or contains an
            element that the models were not trained on (:class:`MalformedError` where skipping would help).
        """
        form = sources.form_of(source, self.options)
        yield from self.batches(formats.iter_frames(source, form))
        if self.count == self.skipped.count:
            what = f"none of {counted(self.count, 'structure')} can be used" if self.count else "holds no structure"
            remedy = f"; the first: {self.skipped.reasons[0]}" if self.count else "; give a file that has some"
            raise UserError(f"{source}: {what} as {form}{remedy}")

    def batches(self, frames: Iterable[Frame | UserError]) -> Iterator[UnseenStructures]:
        """Yield structures in batches of at most :data:`BATCH_ATOMS` atoms, or of one structure.

        Raises
        ------
        MalformedError
            At a structure that cannot be used, unless these are skipped.
        """
        taken: list[tuple[Frame, int, PreparedGeometry]] = []
        atoms = 0
        for frame in frames:
            index, self.count = self.count, self.count + 1
            try:
                if isinstance(frame, UserError):
                    raise frame
                prepared = self._prepared(frame)
            except UserError as error:
                self.skipped.take(error, self.choice.on_error)
                continue
            n = len(frame.atomic_numbers)
            if taken and atoms + n > BATCH_ATOMS:
                yield self._batch(taken)
                taken, atoms = [], 0
            taken.append((frame, index, prepared))
            atoms += n
        if taken:
            yield self._batch(taken)

    def report(self) -> None:
        """Print which structures were skipped or changed, and what seems wrong with distances, a line for each."""
        if self.overruled:
            log(
                f"{self.overruled:,} of {self.count - self.skipped.count:,} structures state a boundary other than that"
                f" of the training; taken as {self.facts.neighbours.boundary}"
            )
        for line in self._distances.lines().values():
            log(line)
        if self.skipped.count:
            log(f"{counted(self.skipped.count, 'structure')} skipped; the first: {self.skipped.reasons[0]}")

    def _prepared(self, frame: Frame) -> PreparedGeometry:
        """Check a structure, and return its geometry; a new one is prepared first."""
        known = self._is_known[frame.atomic_numbers]
        if not known.all():
            from ase.data import chemical_symbols

            other = chemical_symbols[frame.atomic_numbers[int(np.argmin(known))]]
            raise UserError(
                f"{frame.where}: holds {other}, which the models were not trained on (they know"
                f" {', '.join(chemical_symbols[z] for z in self._elements)})"
            )
        geometry = sources.geometry_of(frame, self.options)
        if frame.periodic is not None and geometry.periodic != frame.periodic:
            boundary = self.facts.neighbours.boundary
            if self.choice.own_boundary == "refuse":
                raise UserError(
                    f"{frame.where}: its boundary is {frame.periodic}, but that of the models' training is {boundary};"
                    f" set atoms.pbc = {boundary == 'periodic'}"
                )
            self.overruled += 1
        key = geometry.key()
        if key not in self._used:
            self._used[key] = self._prepared_before.get(key) or self._prepare(geometry, frame.where)
        return self._used[key]

    def _prepare(self, geometry: Geometry, where: str) -> PreparedGeometry:
        recipe = self.facts.ready.computed_inputs
        try:
            neighbours = find_neighbours(geometry, self.options.cutoff)
            operators = None if recipe is None else inputs.GeometryOperators(recipe, geometry)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        self._distances.add(neighbours, where)
        return PreparedGeometry(geometry, neighbours, operators)

    def _batch(self, taken: list[tuple[Frame, int, PreparedGeometry]]) -> UnseenStructures:
        self._prepared_before, self._used = self._used, {}
        frames, geometries = [frame for frame, _, _ in taken], [geometry for _, _, geometry in taken]
        distinct = {id(geometry): geometry for geometry in geometries}
        number = {key: k for k, key in enumerate(distinct)}
        sample_geometry = np.array([number[id(geometry)] for geometry in geometries], np.int32)
        numbers = np.concatenate([frame.atomic_numbers for frame in frames])
        offsets = offsets_of([len(frame.atomic_numbers) for frame in frames])
        index = [index for _, index, _ in taken]
        columns = self._inputs(numbers, offsets, geometries)
        return UnseenStructures(frames, index, list(distinct.values()), sample_geometry, offsets, numbers, columns)

    def _inputs(self, numbers: np.ndarray, offsets: np.ndarray, geometries: list[PreparedGeometry]) -> np.ndarray:
        if geometries[0].operators is None:
            return scaled(numbers[:, None].astype(np.float64), self.facts.species.minimum, self.facts.species.maximum)
        # One by one: a matrix product's last digits depend on how many structures go into it.
        each = [
            geometry.operators.inputs(numbers[None, first:end])[0]
            for geometry, (first, end) in zip(geometries, pairwise(offsets.tolist()), strict=True)
            if geometry.operators is not None
        ]
        return np.concatenate(each)
