"""Conversion between formats of structures and data sets: keeps all that both sides can hold, and lists what is lost.

Every structure passes through a :class:`~hydragnn_hpc.dataset.read.frames.Frame`. LSMS text's numbers have fixed keys
there (:data:`hydragnn_hpc.dataset.read.formats.lsms.UNITS`); a data set's have its targets' names. The first frame of
an extended XYZ file written here holds, under the key ``hydragnn_hpc``, what is needed to make it a data set again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from hydragnn_hpc import atomic
from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset import store
from hydragnn_hpc.dataset.build import prepare, to_hydragnn, to_lsms
from hydragnn_hpc.dataset.generate import surrogate
from hydragnn_hpc.dataset.read import files, formats, sources
from hydragnn_hpc.dataset.read.formats import lsms
from hydragnn_hpc.dataset.read.formats.extxyz_writer import format_frame, key_of
from hydragnn_hpc.dataset.read.frames import Frame, Skipped, Unreadable, hint_to_skip
from hydragnn_hpc.dataset.read.options import Options
from hydragnn_hpc.dataset.read.targets import parse_targets
from hydragnn_hpc.dataset.read.units import units_of_keys
from hydragnn_hpc.dataset.store.foreign import INDEX
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.fields import SOURCE_INDEX, sample_names
from hydragnn_hpc.logs import ProgressCallback
from hydragnn_hpc.records.dataset import EXPORTED_KEY, ExportedDataset, Target
from hydragnn_hpc.validation import one_line

KINDS = ("lsms", "extxyz", "bp", "hydragnn")


@dataclass(frozen=True)
class Conversion:
    """The outcome of a conversion.

    Attributes
    ----------
    kind : str
        What was written, one of :data:`KINDS`.
    count : int
        Structures.
    lost : tuple of str
        What the new format cannot hold.
    skipped : Skipped
        Structures that were left out.
    """

    kind: str
    count: int
    lost: tuple[str, ...]
    skipped: Skipped


def convert(source: Path, out: Path, options: Options, to: str = "auto", force: bool = False) -> Conversion:
    """Convert ``source`` to ``out``; no structure is dropped, except with ``options.on_error="skip"``.

    Parameters
    ----------
    source : Path
        Structures of any format, or a data set.
    out : Path
        A data set (``.bp``), an extended XYZ file (``.xyz``, ``.extxyz``), or else a folder of LSMS text.
    options : Options
        Format of the source, cell, cutoff and targets, where they are needed; what to do with unusable structures.
    to : {"auto", "lsms", "extxyz", "bp", "hydragnn"}
        What to write; ``auto``: by the name of ``out``, which never means HydraGNN's.
    force : bool
        Replace an existing file, folder or data set.

    Raises
    ------
    UserError
        If something cannot be read or written, or lacks what the other format needs.
    """
    if to not in ("auto", *KINDS):
        raise UserError(f"--to {to}{nearest(to, ('auto', *KINDS))}")
    kind = _kind_of(out) if to == "auto" else to
    given = options.form
    if given == "auto":
        foreign = (source / INDEX).is_file() and not (source / store.MANIFEST).exists()
        given = "bp" if source.suffix == ".bp" and not foreign else formats.detect(source)
    if given == kind:
        raise UserError(f"{source} is {given} already; copy it, or give OUT another name or --to")
    write = {"bp": _to_bp, "extxyz": _to_extxyz, "lsms": _to_lsms, "hydragnn": _to_hydragnn}[kind]
    with hint_to_skip():
        return write(source, out, replace(options, form=given), force)


def _kind_of(out: Path) -> str:
    return "bp" if out.suffix == ".bp" else "extxyz" if out.suffix in (".xyz", ".extxyz") else "lsms"


def _with_cell(frame: Frame, cell: tuple[float, ...] | None) -> Frame:
    """Return a frame with a cell (nine numbers, bohr) and periodic, if one is given and the frame has none."""
    if cell is None or frame.cell.any():
        return frame
    return replace(frame, cell=np.array(cell).reshape(3, 3), periodic=(True, True, True))


def _frames_of_bp(bp: Path) -> tuple[store.Manifest, Iterator[tuple[Frame, dict[str, int]]]]:
    """Return the manifest, and every sample with its part of the split (0, 1 or 2) and its number in the source."""
    manifest, a = store.read(bp)

    def frames() -> Iterator[tuple[Frame, dict[str, int]]]:
        sites = list(pairwise(a["geometry_atom_offsets"].tolist()))
        atoms = pairwise(a["atom_offsets"].tolist())
        for k, (name, (first, last)) in enumerate(zip(sample_names(a), atoms, strict=True)):
            g = int(a["sample_geometry"][k])
            values: dict[str, Any] = {}
            columns = {}
            for key, target in manifest.targets.items():
                if target.level == "node":
                    columns[key] = a[f"target_{key}"][first:last]
                elif not np.isnan(a[f"target_{key}"][k]).all():
                    values[key] = a[f"target_{key}"][k]
            p = a["periodic"][g].astype(bool).tolist()
            frame = Frame(name, f"{bp.name}@{k}", f"{bp}, sample {k}",
                          a["atomic_numbers"][first:last], a["pos"][slice(*sites[g])], a["cell"][g],
                          (p[0], p[1], p[2]), values, columns)  # fmt: skip
            yield frame, {key: int(a[key][k]) for key in ("split", SOURCE_INDEX) if key in a}

    return manifest, frames()


def _done(source: Path, kind: str, count: int, lost: Iterable[str], skipped: Skipped) -> Conversion:
    if not count and skipped.count:
        raise UserError(
            f"{source}: none of {counted(skipped.count, 'structure')} can be converted; the first: {skipped.reasons[0]}"
        )
    return Conversion(kind, count, tuple(lost), skipped)


def _read(source: Path, options: Options, skipped: Skipped) -> Iterator[Frame]:
    """Yield the structures of a source; LSMS text in natural order of the names, wherever the files come from."""

    def good() -> Iterator[Frame]:
        for frame in formats.iter_frames(source, options.form):
            if isinstance(frame, UserError):
                skipped.take(frame, options.on_error)
            else:
                yield _with_cell(frame, options.cell)

    if options.form == "lsms":
        return iter(sorted(good(), key=lambda frame: (files.natural_key(frame.name), frame.name)))
    return good()


def _to_hydragnn(source: Path, out: Path, options: Options, force: bool) -> Conversion:
    if options.form != "bp":
        raise UserError(
            f"{source}: HydraGNN's data sets have a split and neighbours; make a data set first (data prepare)"
        )
    return Conversion("hydragnn", to_hydragnn.write(source, out, force), to_hydragnn.LOST, Skipped())


def _to_extxyz(source: Path, out: Path, options: Options, force: bool) -> Conversion:
    atomic.refuse_file(out, force)
    skipped, lost = Skipped(), dict[str, None]()
    frames: Iterator[tuple[Frame, dict[str, int]]]
    first_tail: dict[str, Any] = {}
    if options.form == "bp":
        manifest, frames = _frames_of_bp(source)
        exported = ExportedDataset(
            targets=[_spelled(name, t) for name, t in manifest.targets.items()],
            cutoff_bohr=manifest.neighbours.cutoff_bohr,
            scaled_over=manifest.scaled_over,
            end_members=manifest.source.end_members,
        )
        first_tail = {EXPORTED_KEY: exported.model_dump()}
        lost["neighbour lists (rebuilt from the cutoff)"] = lost["the counts of its preparation"] = None
    else:
        frames = (_with_split(frame, options.form) for frame in _read(source, options, skipped))
    count = 0
    with atomic.new_file(out) as stream:
        for frame, head in frames:
            # All targets of a data set are written; the first frame states their keys.
            stream.write(frame_text(frame, {} if first_tail else lost, head, {} if count else first_tail).encode())
            count += 1
        return _done(source, "extxyz", count, lost, skipped)


def _with_split(frame: Frame, form: str) -> tuple[Frame, dict[str, int]]:
    """Return a frame without the part of the split that its format states, and that part."""
    if form not in formats.WITH_SPLIT:
        return frame, {}
    values = dict(frame.values)
    part = values.pop("split")
    return replace(frame, values=values), {} if np.isnan(part) else {"split": int(part)}


def frame_text(
    frame: Frame, lost: dict[str, None], head: Mapping[str, Any] | None = None, tail: Mapping[str, Any] | None = None
) -> str:
    """Return a frame as extended XYZ; what is left out, or written under another key, is named in ``lost``.

    ``head`` and ``tail`` are written before and after the frame's own values, under their keys as they are.
    """
    values: dict[str, Any] = {"name": frame.name, **(head or {})}
    columns = {}
    for key, value in frame.values.items():
        if reason := _why_not(key, value, of_atoms=False):
            lost[f"'{key}' ({reason})"] = None
        else:
            values[key_of(key)] = value
    for key, value in frame.columns.items():
        if reason := _why_not(key, value, of_atoms=True):
            lost[f"'{key}' ({reason})"] = None
        else:
            array = np.asarray(value)
            columns[key_of(key)] = array.astype(int) if array.dtype.kind == "b" else array
    for key in (*frame.values, *frame.columns):
        new = key_of(key)
        if new != key and (new in values or new in columns):
            lost[f"'{key}' (written as '{new}': the name has another meaning in extended XYZ)"] = None
    values |= _unit_keys(frame, {*values, *columns}, lost)
    periodic = frame.periodic or (False, False, False)
    return format_frame(frame.atomic_numbers, frame.pos, frame.cell, periodic, {**values, **(tail or {})}, columns)


def _why_not(key: str, value: Any, *, of_atoms: bool) -> str:
    """Return why a value, of the structure or of all its atoms, cannot be written in extended XYZ; empty if it can."""
    if re.fullmatch(r"""[^\s:="'{}\[\]\\]+""", key) is None:
        return "such a name cannot be written in extended XYZ"
    if isinstance(value, Unreadable):
        return "unreadable or contradictory in the source"
    if isinstance(value, str) and not of_atoms:
        return ""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        return "neither a number nor text"
    if array.dtype.kind not in "biuf":
        return "not numbers" if of_atoms else "neither a number nor text"
    if not array.size:
        return "empty"
    most_dimensions = 3 if of_atoms else 1  # a tensor of every atom is written as a row
    return "" if array.ndim <= most_dimensions else "a table"


def _unit_keys(frame: Frame, written: set[str], lost: dict[str, None]) -> dict[str, str]:
    """Return the keys that state units, such as ``energy_unit``, for values whose source states them elsewhere."""
    keys = {}
    for key, unit in frame.units.items():
        new = key_of(key)
        stated = f"{new}_unit"
        if new not in written or key not in {*frame.values, *frame.columns} or stated in frame.values:
            continue
        if stated in written or key_of(stated) != stated or units_of_keys({stated: unit}) != {new: unit}:
            lost[f"the unit of '{key}'"] = None
        elif f"{stated}s" not in frame.values:
            keys[stated] = unit
    return keys


def _spelled(name: str, target: Target) -> str:
    """Return a target as ``--target`` writes it."""
    return f"{name}={target.level}:{key_of(name)}:{target.unit or '1'}:{target.label}"


def _exported(source: Path, form: str) -> ExportedDataset | None:
    """Return what the first frame says of the data set that it came from; None if it says nothing."""
    first = next(formats.iter_frames(source, form), None)
    if not isinstance(first, Frame) or EXPORTED_KEY not in first.values:
        return None
    try:
        return ExportedDataset.model_validate(to_lsms.usable(first, first.values, EXPORTED_KEY))
    except ValidationError as error:
        reason = one_line(error, ExportedDataset)
        raise UserError(f"{first.where}: '{EXPORTED_KEY}' is damaged: {reason}; correct or remove it") from error


def _end_members(exported: ExportedDataset | None) -> dict[int, float]:
    return {int(z): energy for z, energy in exported.end_members.items()} if exported else {}


def _to_bp(source: Path, out: Path, options: Options, force: bool) -> Conversion:
    lost = ["band and Fermi energies, spin and field columns"] if options.form == "lsms" else []
    exported = _exported(source, options.form) if options.form != "lsms" and not options.targets else None
    if exported:
        options = replace(options, targets=parse_targets(exported.targets), scale_over=exported.scaled_over)
        options = replace(options, cutoff=options.cutoff or exported.cutoff_bohr)
    options = replace(options, cutoff=options.cutoff or Options.cutoff, cap=0, keep_repeated=True, purpose="convert")
    store.refuse_existing(out, force)
    keep_split = bool(exported and options.targets)
    raw = sources.read(source, options, folder=store.folder_for(out), keep_split=keep_split)
    raw.end_members = _end_members(exported)
    if raw.split_dropped:
        lost.append("'split' (data prepare --split-by source keeps it)")
    manifest = prepare.write_raw(raw, out, options, force)
    return Conversion("bp", manifest.sizes["S"], tuple(lost), raw.skipped)


def _to_lsms(source: Path, out: Path, options: Options, force: bool) -> Conversion:
    skipped = Skipped()
    lost: dict[str, None] = {"cell and boundary": None}
    frames: Iterator[Frame]
    if options.form == "bp":
        manifest, samples = _frames_of_bp(source)
        frames = (frame for frame, _ in samples)
        lost["split, scaling, neighbour lists and numbers in the source"] = None
        end_members = {int(z): e for z, e in manifest.source.end_members.items()}
    else:
        frames = _read(source, options, skipped)
        end_members = _end_members(_exported(source, options.form))
    specs = {spec.property.name: spec for spec in options.targets}
    count, names = 0, set()
    lsms.refuse_folder(out, force)
    with atomic.new_folder(out, replace=force) as folder:
        for frame in frames:
            try:
                sample = to_lsms.sample_of(frame, specs, end_members, lost)
                if not re.fullmatch(r"[\w@=+-][\w@=+.-]{0,199}", sample.name) or sample.name in names:
                    what = "the name of two structures" if sample.name in names else "not a valid file name"
                    raise UserError(f"{frame.where}: {sample.name!r} is {what}; rename the structure")
            except UserError as error:
                skipped.take(error, options.on_error)
                continue
            names.add(sample.name)
            (folder / sample.name).write_text(lsms.format_sample(sample), encoding="ascii")
            count += 1
        return _done(source, "lsms", count, lost, skipped)


def generate_fept(out: Path, cap: int, seed: int, force: bool = False, progress: ProgressCallback | None = None) -> int:
    """Write the surrogate FePt data set as one periodic extended XYZ file; return the number of structures.

    Keys and units are those of LSMS text (:data:`hydragnn_hpc.dataset.read.formats.lsms.UNITS`).

    Raises
    ------
    UserError
        If ``out`` exists (and not ``force``) or cannot be written.
    """
    fe, cell = surrogate.configurations(cap, seed), tuple(surrogate.sites()[1].ravel().tolist())
    atomic.refuse_file(out, force)
    with atomic.new_file(out) as stream:
        for done, sample in enumerate(surrogate.samples(fe), start=1):
            frame = _with_cell(lsms.frame_of(sample, sample.name, sample.name), cell)
            stream.write(frame_text(frame, {}).encode())
            if progress:
                progress(done, len(fe))
    return len(fe)
