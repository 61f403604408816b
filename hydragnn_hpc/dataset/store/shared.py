"""The shared data set: an ADIOS2 BP5 folder with a manifest that protects its readers.

ADIOS2 does not check what it reads: a truncated file hangs it, and garbage crashes it or is returned as data. So
``manifest.json``, itself protected by a checksum, lists every file's size and SHA-256, which are checked before ADIOS2
may open anything; every array's name, shape and dtype is checked when written and when read.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.atomic import StorageError, new_folder, sync, write_text
from hydragnn_hpc.dataset.store import bp5
from hydragnn_hpc.dataset.store.manifest import (
    AGAIN,
    MANIFEST,
    SCHEMA,
    Manifest,
    is_there,
    read_manifest,
    seal_of,
    sha256_of,
    verify,
)
from hydragnn_hpc.dataset.store.spool import chunks, ranges
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import SOURCE_INDEX, STRUCTURE, Field, target_field
from hydragnn_hpc.records.dataset import ArrayFacts, DatasetFacts, Target

_SITES = 1_000_000  # sites whose neighbours are checked together


def declared(targets: Mapping[str, Target]) -> tuple[Field, ...]:
    """Return every array of a data set with these targets."""
    return (*STRUCTURE, *(target_field(name, t.level, t.unit) for name, t in targets.items()))


def check_arrays(arrays: dict[str, np.ndarray], targets: Mapping[str, Target], where: str) -> dict[str, int]:
    """Check arrays against their declarations (`fields`) and each other; return the sizes by letter.

    Raises
    ------
    UserError
        On the first mismatch.
    """
    sizes: dict[str, int] = {}
    for field in declared(targets):
        if field.name not in arrays:
            if not field.required:
                continue
            raise UserError(f"{where}: array '{field.name}' is missing; {AGAIN}")
        field.check(arrays[field.name], sizes, where)
    for letter, counted in (("S", "samples"), ("G", "geometries"), ("B", "sites")):
        n = sizes.pop(f"{letter}+1") - 1
        if n != sizes[letter]:
            raise UserError(f"{where}: arrays of {sizes[letter]} {counted} have offsets of {n}; {AGAIN}")
    totals = {"sample_name_offsets": "N", "atom_offsets": "A", "geometry_atom_offsets": "B", "neighbour_offsets": "E"}
    for name, letter in totals.items():
        _check_offsets(arrays[name], sizes[letter], name, where)
    n_sites = np.diff(arrays["geometry_atom_offsets"])
    if sizes["S"] and not (arrays["sample_geometry"].min() >= 0 and arrays["sample_geometry"].max() < sizes["G"]):
        raise UserError(f"{where}: a sample points to a geometry that does not exist; {AGAIN}")
    if not np.array_equal(np.diff(arrays["atom_offsets"]), n_sites[arrays["sample_geometry"]]):
        raise UserError(f"{where}: a sample's atoms do not match its geometry's sites; {AGAIN}")
    _check_neighbours(arrays, np.repeat(n_sites, n_sites), where)
    if sizes["S"] and arrays["split"].max() > 2:
        raise UserError(f"{where}: a sample belongs to no set of the split; {AGAIN}")
    _check_finite(arrays, targets, where)
    return sizes


def _check_neighbours(arrays: dict[str, np.ndarray], n_of_site: np.ndarray, where: str) -> None:
    """Check that every neighbour is a site of its geometry, in blocks of sites: edges are most of a data set."""
    offsets, neighbours = arrays["neighbour_offsets"], arrays["neighbours"]
    for first in range(0, len(n_of_site), _SITES):
        bounds = offsets[first : first + _SITES + 1]
        some = neighbours[bounds[0] : bounds[-1]]
        if (some < 0).any() or (some >= np.repeat(n_of_site[first : first + _SITES], np.diff(bounds))).any():
            raise UserError(f"{where}: a neighbour lies outside its geometry; {AGAIN}")


def _check_finite(arrays: dict[str, np.ndarray], targets: Mapping[str, Target], where: str) -> None:
    """Check that NaN occurs only for missing targets, and infinity nowhere."""
    for name in ("pos", "cell", "edge_vectors"):
        if not all(np.isfinite(chunk).all() for chunk in chunks(arrays[name])):
            raise UserError(f"{where}: array '{name}' holds values that are not finite numbers; {AGAIN}")
    for name in targets:
        if any(np.isinf(chunk).any() for chunk in chunks(arrays[f"target_{name}"])):
            raise UserError(f"{where}: target '{name}' holds infinite values; {AGAIN}")


def _check_offsets(offsets: np.ndarray, total: int, name: str, where: str) -> None:
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise UserError(f"{where}: array '{name}' does not count up from 0 to {total}; {AGAIN}")


def write(path: Path, arrays: dict[str, np.ndarray], facts: DatasetFacts, force: bool = False) -> Manifest:
    """Write a data set, completely or not at all.

    Parameters
    ----------
    path : Path
        The ``.bp`` folder to create.
    arrays : dict
        By name, as declared in :mod:`hydragnn_hpc.fields`.
    facts : DatasetFacts
    force : bool
        Replace an existing data set.

    Raises
    ------
    UserError
        If ``path`` exists (and not ``force``), an array does not fit, or the folder cannot be written.
    """
    refuse_existing(path, force)
    # ADIOS2 writes non-contiguous arrays incorrectly.
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    sizes = check_arrays(arrays, facts.targets, str(path))
    with new_folder(path, replace=force) as temporary:
        _check_space(path, sum(a.nbytes for a in arrays.values()))
        _write_bp(temporary, arrays)
        return _seal(temporary, arrays, sizes, facts)


def folder_for(path: Path) -> Path:
    """Return the nearest existing folder above ``path``: its file system has space for it and for temporary files."""
    return next(folder for folder in path.resolve().parents if folder.is_dir())


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse to overwrite ``path``; called early, before long work.

    Raises
    ------
    UserError
        If its name does not end in ``.bp`` or is not UTF-8, or it exists and is not to be replaced.
    """
    if path.suffix != ".bp":
        raise UserError(f"{path}: a data set's name ends in .bp; give such a name")
    bp5.check_path(path)
    if not is_there(path):
        return
    if not force:
        raise UserError(f"{path} exists; give another name, or --force to replace it")
    if not (path / MANIFEST).exists():
        raise UserError(f"{path} is not a data set of this program: --force replaces data sets only; remove it by hand")


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(folder_for(path)).free
    if free < needed:
        needs = f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free"
        raise StorageError(f"cannot write {path}: {needs}; free space, or choose another folder")


def _write_bp(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    bp5.write(folder, arrays)
    for extra in (*folder.glob("*profiling.json"), *folder.parent.glob(f"{glob.escape(folder.name)}*profiling.json")):
        extra.unlink()


def _seal(folder: Path, arrays: dict[str, np.ndarray], sizes: dict[str, int], facts: DatasetFacts) -> Manifest:
    content = {
        "schema": SCHEMA,
        "sizes": sizes,
        "split": np.bincount(arrays["split"], minlength=3).tolist(),
        "arrays": {
            f.name: {"shape": list(arrays[f.name].shape), "dtype": f.dtype, "unit": f.unit}
            for f in declared(facts.targets)
            if f.name in arrays
        },
        "files": {p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in sorted(folder.iterdir())},
        **facts.model_dump(exclude_unset=True),
        "sha256": _content_hash(arrays, facts),
    }
    for file in folder.iterdir():
        sync(file)
    write_text(folder / MANIFEST, json.dumps({**content, "seal": seal_of(content)}, indent=1, ensure_ascii=False))
    return Manifest(**content)


def _content_hash(arrays: dict[str, np.ndarray], facts: DatasetFacts) -> str:
    scaling = [{name: t.model_dump() for name, t in facts.targets.items()}, facts.species.model_dump()]
    digest = hashlib.sha256(json.dumps(scaling, sort_keys=True).encode())
    # Where a structure was found is not content: neither its numbers nor its place in the data set depend on that.
    for name in sorted(arrays.keys() - {SOURCE_INDEX}):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(arrays[name].data if arrays[name].size else b"")  # without a copy
    return digest.hexdigest()


def read(path: Path) -> tuple[Manifest, dict[str, np.ndarray]]:
    """Verify and read a data set.

    Returns
    -------
    manifest : Manifest
    arrays : dict
        Every array by name, contiguous.

    Raises
    ------
    UserError
        If anything does not match the manifest.
    """
    manifest = read_manifest(path)
    arrays = dict(read_each(path, manifest))
    check_arrays(arrays, manifest.targets, str(path))
    return manifest, arrays


def read_chunks(path: Path, manifest: Manifest) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
    """Verify the files, then read array by array, each in chunks of rows, in order.

    Yields
    ------
    name : str
    chunks : iterator of numpy.ndarray
        Contiguous; to be consumed before the next array is requested.

    Raises
    ------
    UserError
        If anything does not match the manifest.
    """
    verify(path, manifest)
    with bp5.opened(path) as reader:
        present = reader.available_variables()
        for name, fact in manifest.arrays.items():
            if 0 not in fact.shape and name not in present:
                raise UserError(f"{path}: ADIOS2 finds no array '{name}'; {AGAIN}")
            yield name, _chunks_of(reader, path, name, fact, present)


def _chunks_of(reader: Any, path: Path, name: str, fact: ArrayFacts, present: dict[str, Any]) -> Iterator[np.ndarray]:
    shape, dtype = tuple(fact.shape), np.dtype(fact.dtype)
    if 0 in shape:
        return
    stored = tuple(int(n) for n in present[name]["Shape"].split(","))
    kind = {"double": "float64", "float": "float32"}.get(
        present[name]["Type"], present[name]["Type"].removesuffix("_t")
    )
    if (stored, kind) != (shape, dtype.name):
        raise UserError(
            f"{path}: array '{name}' is {kind} {stored}, not {dtype.name} {shape} as the manifest states; {AGAIN}"
        )
    for rows in ranges(shape, dtype.itemsize):
        count = [rows.stop - rows.start, *shape[1:]]
        chunk = np.ascontiguousarray(reader.read(name, [rows.start] + [0] * (len(shape) - 1), count))
        if list(chunk.shape) != count or chunk.dtype != dtype:
            raise UserError(f"{path}: ADIOS2 read {chunk.dtype} {chunk.shape} of array '{name}'; {AGAIN}")
        yield chunk


def read_each(path: Path, manifest: Manifest, names: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Verify the files, then read all arrays, or those of some ``names``, so that only one needs to be in memory.

    Yields
    ------
    name : str
    array : numpy.ndarray
        Contiguous; shape and dtype as in the manifest.

    Raises
    ------
    UserError
        If anything does not match the manifest.
    """
    for name, parts in read_chunks(path, manifest):
        if names is not None and name not in names:
            continue
        fact = manifest.arrays[name]
        array = np.empty(tuple(fact.shape), fact.dtype)
        first = 0
        for part in parts:
            array[first : first + len(part)] = part
            first += len(part)
        yield name, array
