"""What a data set is made from, in whatever format, as samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydragnn_hpc.dataset.graphs import Geometry, check_cell
from hydragnn_hpc.dataset.read import derive, files, lsms, structures, targets
from hydragnn_hpc.dataset.read.gathered import Collector, Samples
from hydragnn_hpc.dataset.store.manifest import is_there
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.fields import PROPERTIES, Property
from hydragnn_hpc.logs import Progress

if TYPE_CHECKING:
    from hydragnn_hpc.dataset.read.options import Options

_SAME_CELL = 1e-6  # bohr


@dataclass
class Raw:
    """What was read.

    Attributes
    ----------
    samples : Samples
    skipped : lsms.Skipped
        What was passed over.
    properties : list of Property
        The targets in ``samples.values``.
    mixing : Property or None
        The mixing enthalpy that is to be derived from ``samples.energies``.
    form : str
        The format.
    path : Path
        Where from.
    part : numpy.ndarray or None
        ``[S]`` uint8, where the source itself says to which part of the split each sample belongs.
    overruled : int
        Samples that have another boundary of their own than the one that was asked for.
    end_members : dict
        Those that the source itself says its mixing enthalpy was taken with.
    """

    samples: Samples
    skipped: lsms.Skipped
    properties: list[Property]
    mixing: Property | None
    form: str
    path: Path
    part: np.ndarray | None = None
    overruled: int = 0
    end_members: derive.EndMembers = field(default_factory=dict)


def read(source: Path, options: Options, progress: Progress | None = None, folder: Path | None = None) -> Raw:
    """Read all of a source, in the format that is given or found; what atoms have is kept on disk, in ``folder``.

    Raises
    ------
    UserError
        If the source cannot be read, the options do not fit its format, or something in it is malformed.
    """
    known = ("auto", *structures.FORMATS)
    if options.form not in known:
        raise UserError(f"--format {options.form}{nearest(options.form, known)}")
    if not is_there(source):
        raise UserError(f"no such file or folder: {source}")
    form = structures.detect(source) if options.form == "auto" else options.form
    if form == "lsms":
        if options.form == "auto" and source.is_file() and not files.is_archive(source):
            _refuse_lsms_file(source)
        return read_lsms(source, options, Collector(folder), progress)
    return read_structures(source, form, options, Collector(folder), progress)


def _refuse_lsms_file(source: Path) -> None:
    if not source.stat().st_size:
        raise UserError(f"{source}: the file is empty (0 bytes); make it again")
    if files.is_compressed(source):
        next(files.iter_files(source), None)  # says what is wrong with the archive
    raise UserError(
        f"{source}: is neither extended XYZ nor an ASE database nor an archive, and LSMS text comes in a folder or a"
        " tar archive; convert it, or give the folder that it is in"
    )


def read_lsms(source: Path, options: Options, found: Collector, progress: Progress | None = None) -> Raw:
    """Read all LSMS text of a folder or archive; the boundary is open unless ``options`` says otherwise."""
    if source.is_dir() and not files.count_files(source):
        raise UserError(f"{source}: holds no file; give the folder or archive that the data are in")
    if options.targets:
        raise UserError(
            f"{source} is read as LSMS text, since it is neither extended XYZ nor an ASE database; LSMS text has"
            f" targets of its own ({', '.join(PROPERTIES)}): leave out --target, or give --format"
        )
    if options.periodic and options.cell is None:
        raise UserError(f"{source}: LSMS text holds no cell, and a periodic boundary needs one: give --cell")
    skipped, total = lsms.Skipped(), lsms.count_files(source)
    cell = np.zeros((3, 3)) if options.cell is None else np.array(options.cell, dtype=np.float64).reshape(3, 3)
    for sample in lsms.iter_samples(source, options.on_error, skipped):
        geometry = Geometry(sample.pos, cell, (bool(options.periodic),) * 3)
        z = sample.atomic_numbers
        values: dict[str, np.ndarray | None] = {
            "charge_transfer": derive.charge_transfer(sample.charge, z)[:, None],
            "magnetic_moment": sample.moment[:, None],
        }
        found.add(sample.name, geometry, z, values, float(sample.energies[0]))
        if progress:
            progress(len(found) + skipped.count, total)
    properties = [PROPERTIES[name] for name in ("charge_transfer", "magnetic_moment")]
    samples = found.samples(properties, {p.name: 1 for p in properties})
    return Raw(samples, skipped, properties, PROPERTIES["mixing_enthalpy"], "lsms", source)


def read_structures(
    source: Path, form: str, options: Options, found: Collector, progress: Progress | None = None
) -> Raw:
    """Read all structures of extended XYZ files or ASE databases; cell and boundary are theirs unless given."""
    skipped, overruled = lsms.Skipped(), 0
    extract = targets.Extractor(options.targets)
    for frame in structures.iter_frames(source, form):
        try:
            if isinstance(frame, UserError):
                raise frame
            if not options.targets and options.needs_targets:
                raise _NoTargetError(f"{source}: no --target says what to learn; {targets.available(frame)}")
            geometry = _geometry(frame, options)
            values, energy = extract(frame)
        except _NoTargetError:
            raise
        except UserError as error:
            if options.on_error == "fail":
                raise lsms.MalformedError(str(error)) from error
            skipped.add(str(error))
        else:
            found.add(frame.name, geometry, frame.atomic_numbers, values, energy)
            overruled += geometry.periodic != frame.periodic
        if progress:
            progress(len(found) + skipped.count, 0)
    if not len(found):
        reason = f"; the first: {skipped.reasons[0]}" if skipped.count else ""
        what = f"none of its {skipped.count} structures can be used" if skipped.count else "holds no structure"
        raise UserError(f"{source}: {what} as {form}{reason or '; give a file that has some, or another --format'}")
    widths = extract.widths(str(source))
    properties = [one.property for one in options.targets if not one.mixing]
    mixing = next((one.property for one in options.targets if one.mixing), None)
    return Raw(found.samples(properties, widths), skipped, properties, mixing, form, source, overruled=overruled)


class _NoTargetError(UserError):
    """Not a malformed structure: nothing to pass over."""


def _geometry(frame: structures.Frame, options: Options) -> Geometry:
    cell = frame.cell
    if options.cell is not None:
        given = np.array(options.cell, dtype=np.float64).reshape(3, 3)
        if cell.any() and np.abs(cell - given).max() > _SAME_CELL:
            raise UserError(
                f"{frame.where}: has a cell of its own, {cell.round(6).tolist()} bohr, other than --cell; leave --cell"
                " out"
            )
        cell = given
    periodic = frame.periodic if options.periodic is None else (options.periodic,) * 3
    geometry = Geometry(frame.pos, cell, periodic)
    try:
        check_cell(geometry)
    except UserError as error:
        raise UserError(f"{frame.where}: {error}") from error
    return geometry
