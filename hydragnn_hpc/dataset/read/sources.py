"""Reads the source of a data set, in any format, as samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.graphs import Geometry, check_cell, find_neighbours
from hydragnn_hpc.dataset.read import derive, files, formats, parts, targets
from hydragnn_hpc.dataset.read.frames import Frame, Skipped, WrongOptionError
from hydragnn_hpc.dataset.read.gathered import RawSamples, SampleCollector
from hydragnn_hpc.dataset.store.manifest import is_there
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.fields import PARTS, SOURCE_INDEX, Property
from hydragnn_hpc.logs import ProgressCallback, log

if TYPE_CHECKING:
    from hydragnn_hpc.dataset.read.options import Options

_SAME_CELL = 1e-6  # bohr
_SPLIT = Property("-split", "graph", "", "")  # a name that no target can have
ON_ERROR = ("fail", "skip")
"""What ``--on-error`` may be."""


@dataclass
class RawData:
    """The data read from a source.

    Attributes
    ----------
    samples : RawSamples
    skipped : Skipped
        What was left out.
    properties : list of Property
        The targets in ``samples.values``.
    mixing : Property or None
        The mixing enthalpy that is to be derived from ``samples.energies``.
    form : str
        The format.
    path : Path
        The source.
    part : numpy.ndarray or None
        ``[S]`` uint8, each sample's part of the split as the source states it; None where it is not kept.
    split_dropped : bool
        Whether the source states a split, in whole or in part, that is not kept.
    end_members : dict
        End members that the source itself states for its mixing enthalpy, by proton number; Ry per atom.
    """

    samples: RawSamples
    skipped: Skipped
    properties: list[Property]
    mixing: Property | None
    form: str
    path: Path
    part: np.ndarray | None = None
    split_dropped: bool = False
    end_members: derive.EndMembers = field(default_factory=dict)


def read(
    source: Path,
    options: Options,
    progress: ProgressCallback | None = None,
    folder: Path | None = None,
    keep_split: bool = False,
) -> RawData:
    """Read all of a source, in the given or detected format; per-atom values are kept on disk, in ``folder``.

    The split that the source states is kept with ``keep_split``, with ``options.split_by="source"``, and with ``auto``
    if the format always has a split (:data:`formats.WITH_SPLIT`).

    Raises
    ------
    UserError
        If the source cannot be read, the options do not fit its format, or something in it is malformed
        (:class:`MalformedError` where ``on_error="skip"`` would leave it out).
    """
    form = form_of(source, options)
    own = formats.reader(form).TARGETS
    if own and options.targets:
        names = ", ".join(spec.property.name for spec in own)
        raise UserError(
            f"{source} is read as {form.upper()} text, which has targets of its own ({names}): leave out --target, or"
            " give --format"
        )
    of_source = options.split_by == parts.SOURCE
    keep_split = keep_split or of_source or (form in formats.WITH_SPLIT and options.split_by == "auto")
    gathering = _Gathering(source, options, own or options.targets, folder, keep_split)
    total = files.count_files(source) if own else 0
    for frame in formats.iter_frames(source, form):
        gathering.take(frame)
        if progress:
            progress(gathering.count, total)
    return gathering.finish(form)


def form_of(source: Path, options: Options) -> str:
    """Return the format of a source, given or detected.

    Raises
    ------
    UserError
        If there is no such source, it is in no known format, or ``options.on_error`` is unknown.
    """
    if options.on_error not in ON_ERROR:
        raise UserError(f"on_error '{options.on_error}'{nearest(options.on_error, ON_ERROR)}")
    if not is_there(source):
        raise UserError(f"no such file or folder: {source}")
    return formats.detect(source) if options.form == "auto" else options.form


class _Gathering:
    """The loop over structures: those that can be used become samples; `Skipped.take` decides on the others."""

    def __init__(
        self,
        source: Path,
        options: Options,
        specs: tuple[targets.TargetSpec, ...],
        folder: Path | None,
        keep_split: bool,
    ) -> None:
        self._source, self._options, self._specs, self._keep_split = source, options, specs, keep_split
        self._extract = targets.TargetExtractor(specs)
        self._samples, self._skipped = SampleCollector(folder), Skipped()
        self._isolated = self._lone = 0
        self._has_split = False
        self._stated: set[int] | None = set() if options.purpose == "train" and options.split_by == "auto" else None

    @property
    def count(self) -> int:
        """Structures taken and skipped so far."""
        return len(self._samples) + self._skipped.count

    def take(self, frame: Frame | UserError) -> None:
        """Add a structure, or count it as skipped."""
        try:
            if isinstance(frame, UserError):
                raise frame
            self._add(frame)
        except UserError as error:
            self._skipped.take(error, self._options.on_error)

    def _add(self, frame: Frame) -> None:
        options = self._options
        if not self._specs:
            raise WrongOptionError(f"{self._source}: no --target says what to learn; {targets.available(frame)}")
        if options.purpose == "train" and frame.marked_isolated:
            self._skipped.add(f"{frame.where}: an isolated atom ({frame.marked_isolated})")
            self._isolated += 1
            return
        geometry = geometry_of(frame, options)
        if options.on_error == "skip" and not self._samples.knows(geometry):
            try:
                find_neighbours(geometry, options.cutoff)
            except UserError as error:
                raise UserError(f"{frame.where}: {error}") from error
        self._has_split |= "split" in frame.values
        self._note_split(frame)
        values, energy = self._extract(frame)
        if self._keep_split:
            part = (parts.stated_part if options.split_by == parts.SOURCE else parts.part_of_key)(frame)
            values[_SPLIT.name] = None if part is None else np.array([[part]], np.float64)
        if not np.isnan(energy) and self._is_lone(frame, geometry):
            energy, self._lone = np.nan, self._lone + 1
        self._samples.add(frame, geometry, values, energy, self._source_index(frame))

    def _source_index(self, frame: Frame) -> int:
        """Return a structure's number in the source, or in the source of the data set that the file was made from."""
        stated = frame.values.get(SOURCE_INDEX) if self._keep_split and self._options.purpose == "convert" else None
        return int(stated) if isinstance(stated, int | np.integer) and stated >= 0 else self.count

    def _note_split(self, frame: Frame) -> None:
        """Remember the sets of a split that the source states, as long as it does so for every structure."""
        if self._stated is not None:
            try:
                self._stated.add(parts.stated_part(frame))
            except UserError:
                self._stated = None

    def _is_lone(self, frame: Frame, geometry: Geometry) -> bool:
        """Whether it is a single atom without neighbours, in a format that states the boundary."""
        if len(frame.atomic_numbers) > 1 or frame.periodic is None:
            return False
        return not len(find_neighbours(geometry, self._options.cutoff).neighbours)

    def finish(self, form: str) -> RawData:
        """Return what was read.

        Raises
        ------
        UserError
            If there are no samples, or a target is in no structure.
        """
        if self._isolated:
            log(f"structures marked as isolated atoms (config_type) and left out: {self._isolated:,}")
        if self._lone:
            log(
                f"structures that are a single atom without a neighbour within {self._options.cutoff:g} bohr:"
                f" {self._lone:,}; they have no mixing enthalpy, and are not taken for pure crystals"
            )
        if self._stated and len(self._stated) > 1 and not self._keep_split:
            log(f"{self._source} states a split of its own, which is not kept; --split-by source keeps it")
        if not len(self._samples):
            count, reasons = self._skipped.count, self._skipped.reasons
            what = f"none of {counted(count, 'structure')} can be used" if count else "holds no structure"
            remedy = f"; the first: {reasons[0]}" if count else "; give a file that has some, or another --format"
            raise UserError(f"{self._source}: {what} as {form}{remedy}")
        widths = {**self._extract.widths(str(self._source)), _SPLIT.name: 1}
        properties = [spec.property for spec in self._specs if not spec.mixing]
        mixing = next((spec.property for spec in self._specs if spec.mixing), None)
        samples = self._samples.samples([*properties, _SPLIT] if self._keep_split else properties, widths)
        raw = RawData(samples, self._skipped, properties, mixing, form, self._source)
        if self._keep_split:
            part = np.concatenate(samples.values.pop(_SPLIT.name))[:, 0]
            if self._options.split_by == parts.SOURCE:
                parts.check_complete(part, str(self._source))
            complete = form not in formats.WITH_SPLIT or len(np.unique(part)) == len(PARTS)
            raw.part = part.astype(np.uint8) if complete and not np.isnan(part).any() else None
        raw.split_dropped = self._has_split and raw.part is None
        return raw


def geometry_of(frame: Frame, options: Options) -> Geometry:
    """Return a structure's sites under the cell and boundary of ``options``, or its own.

    Raises
    ------
    UserError
        If there is no cell where one is needed, or it differs from that of ``options``.
    """
    cell = frame.cell
    if options.periodic and options.cell is None and frame.periodic is None:
        raise WrongOptionError(f"{frame.where}: its format holds no cell, which a periodic boundary needs: give --cell")
    if options.cell is not None:
        given = np.array(options.cell, dtype=np.float64).reshape(3, 3)
        if cell.any() and np.abs(cell - given).max() > _SAME_CELL:
            raise UserError(
                f"{frame.where}: its cell, {cell.round(6).tolist()} bohr, differs from --cell; leave --cell out"
            )
        cell = given
    own = frame.periodic or (False,) * 3
    geometry = Geometry(frame.pos, cell, own if options.periodic is None else (options.periodic,) * 3)
    try:
        check_cell(geometry)
    except UserError as error:
        raise UserError(f"{frame.where}: {error}") from error
    return geometry
