"""The shared data set: an ADIOS2 BP5 folder with a manifest that protects its readers.

ADIOS2 does not check what it reads: a truncated file hangs it, garbage crashes it or comes back as numbers. So every
file's size and SHA-256 stand in ``manifest.json``, itself sealed with a checksum, and are checked before ADIOS2 is
allowed to open anything; every array's name, shape and dtype is checked on the way in and on the way out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.fields import STRUCTURE, Field, target_field
from hydragnn_hpc.paths import TEMPORARY_PREFIX, write_text

SCHEMA = 1
MANIFEST = "manifest.json"
_AGAIN = "copy it again from its source, or prepare it again"


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says; :func:`write` lists its keys."""

    content: dict[str, Any]

    @property
    def sha256(self) -> str:
        """The content's hash: names the data set, whatever its folder is called."""
        return str(self.content["sha256"])

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes by letter: S samples, A atoms, G geometries, B sites, E edges, N bytes of names."""
        return dict(self.content["sizes"])

    @property
    def targets(self) -> dict[str, dict[str, Any]]:
        """By name: level, width, unit, label, minimum, maximum, missing."""
        return dict(self.content["targets"])

    @property
    def split_counts(self) -> list[int]:
        """Samples in the training, validation and test part."""
        return list(self.content["split"])


def declared(targets: dict[str, dict[str, Any]]) -> tuple[Field, ...]:
    """Return every array of a data set with these targets."""
    return (*STRUCTURE, *(target_field(name, t["level"], t["unit"]) for name, t in targets.items()))


def check_arrays(arrays: dict[str, np.ndarray], targets: dict[str, dict[str, Any]], where: str) -> dict[str, int]:
    """Hold arrays to their declarations and to each other; returns the sizes by letter.

    Raises
    ------
    UserError
        On the first that does not fit.
    """
    sizes: dict[str, int] = {}
    for field in declared(targets):
        if field.name not in arrays:
            raise UserError(f"{where}: array '{field.name}' is missing; {_AGAIN}")
        field.check(arrays[field.name], sizes, where)
    for letter in "SGB":
        if sizes.pop(f"{letter}+1") != sizes[letter] + 1:
            raise UserError(f"{where}: an array of offsets does not fit its {sizes[letter]} entries; {_AGAIN}")
    for offsets, counted in (("sample_name_offsets", "N"), ("atom_offsets", "A"), ("neighbour_offsets", "E")):
        _check_offsets(arrays[offsets], sizes[counted], offsets, where)
    _check_offsets(arrays["geometry_atom_offsets"], sizes["B"], "geometry_atom_offsets", where)
    n_sites = np.diff(arrays["geometry_atom_offsets"])
    if sizes["S"] and not (arrays["sample_geometry"].min() >= 0 and arrays["sample_geometry"].max() < sizes["G"]):
        raise UserError(f"{where}: a sample points to a geometry that is not there; {_AGAIN}")
    if not np.array_equal(np.diff(arrays["atom_offsets"]), n_sites[arrays["sample_geometry"]]):
        raise UserError(f"{where}: a sample's atoms do not fit its geometry's sites; {_AGAIN}")
    n_of_site = np.repeat(n_sites, n_sites)
    of_edge = np.repeat(n_of_site, np.diff(arrays["neighbour_offsets"]))
    if (arrays["neighbours"] < 0).any() or (arrays["neighbours"] >= of_edge).any():
        raise UserError(f"{where}: a neighbour lies outside its geometry; {_AGAIN}")
    if sizes["S"] and arrays["split"].max() > 2:
        raise UserError(f"{where}: a sample belongs to no part; {_AGAIN}")
    return sizes


def _check_offsets(offsets: np.ndarray, total: int, name: str, where: str) -> None:
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise UserError(f"{where}: array '{name}' does not count up from 0 to {total}; {_AGAIN}")


def write(path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any], force: bool = False) -> Manifest:
    """Write a data set, whole or not at all.

    Parameters
    ----------
    path : Path
        The ``.bp`` folder to make.
    arrays : dict
        By name, as declared in :mod:`hydragnn_hpc.fields`.
    facts : dict
        The manifest's ``targets`` (name: level, width, unit, label, minimum, maximum, missing), ``species``
        (minimum, maximum of the proton number), ``scaled_over``, ``source`` and ``neighbours``.
    force : bool
        Replace an existing data set.

    Raises
    ------
    UserError
        If ``path`` exists (and not ``force``), an array does not fit, or the folder cannot be written.
    """
    refuse_existing(path, force)
    # ADIOS2 writes a non-contiguous array wrong, and refuses a read-only one.
    arrays = {name: np.require(array, requirements=["C", "W"]) for name, array in arrays.items()}
    sizes = check_arrays(arrays, facts["targets"], str(path))
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        _check_space(temporary.parent, sum(a.nbytes for a in arrays.values()))
        _write_bp(temporary, arrays)
        manifest = _seal(temporary, arrays, sizes, facts)
        _replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    except RuntimeError as error:  # what ADIOS2 raises, on a full disk among others
        raise UserError(f"cannot write {path}: ADIOS2 says: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse to write over ``path``; early, before long work."""
    if path.suffix != ".bp":
        raise UserError(f"{path}: a data set's name ends in .bp")
    if path.exists() and not force:
        raise UserError(f"{path} exists; give another name, or --force to replace it")
    if path.exists() and not (path / MANIFEST).exists():
        raise UserError(f"{path} is no data set of this program: --force replaces data sets only; remove it by hand")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"cannot write into {folder}: {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")


def _write_bp(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    import adios2

    io = adios2.Adios().declare_io("write")
    io.set_engine("BP5")
    with adios2.Stream(io, str(folder), "w") as stream:
        stream.begin_step()
        for name, array in arrays.items():
            if array.size:  # ADIOS2 has no arrays of size zero; the manifest's shape brings them back
                stream.write(name, array, list(array.shape), [0] * array.ndim, list(array.shape))
        stream.end_step()
    for extra in folder.glob("*profiling.json"):
        extra.unlink()


def _seal(folder: Path, arrays: dict[str, np.ndarray], sizes: dict[str, int], facts: dict[str, Any]) -> Manifest:
    content = {
        "schema": SCHEMA,
        "sizes": sizes,
        "split": np.bincount(arrays["split"], minlength=3).tolist(),
        "arrays": {n: {"shape": list(a.shape), "dtype": str(a.dtype)} for n, a in arrays.items()},
        "files": {p.name: {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(folder.iterdir())},
        **facts,
        "sha256": _content_hash(arrays, facts),
    }
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    write_text(folder / MANIFEST, json.dumps({**content, "seal": _seal_of(content)}, indent=1, ensure_ascii=False))
    return Manifest(content)


def _replace(temporary: Path, path: Path) -> None:
    old = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-old-{path.name}")
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _content_hash(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([facts["targets"], facts["species"]], sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _seal_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Read and check ``manifest.json``; ADIOS2 is not involved.

    Raises
    ------
    UserError
        If ``path`` is no data set, or its manifest is damaged or of another version.
    """
    file = path / MANIFEST
    if not path.exists():
        raise UserError(f"no such data set: {path}; 'hydragnn-hpc data prepare' makes one")
    if not path.is_dir():
        raise UserError(f"{path} is a file; a data set is a folder that 'hydragnn-hpc data prepare' makes")
    if not file.exists():
        raise UserError(f"{path} is no data set of this program: it has no {MANIFEST}; prepare the data again")
    try:
        text = file.read_bytes().decode("utf-8")
        content = json.loads(text)
        seal = content.pop("seal")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); {_AGAIN}") from error
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{file}: format version {content.get('schema')}, this program reads {SCHEMA}; prepare it again"
        )
    # The seal covers the values; comparing the text too catches damage to blanks and doubled keys.
    whole = json.dumps({**content, "seal": seal}, indent=1, ensure_ascii=False)
    if seal != _seal_of(content) or whole != text:
        raise UserError(f"{file} is damaged (its checksum does not fit); {_AGAIN}")
    return Manifest(content)


def verify(path: Path, manifest: Manifest) -> None:
    """Check every file of the data set against the manifest: presence, size, SHA-256, and nothing besides.

    Raises
    ------
    UserError
        Names the first file that does not fit.
    """
    listed = manifest.content["files"]
    for name, fact in listed.items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file} is missing; {_AGAIN}")
        if file.stat().st_size != fact["bytes"]:
            raise UserError(f"{file} has {file.stat().st_size} bytes, expected {fact['bytes']}; {_AGAIN}")
        if _sha256(file) != fact["sha256"]:
            raise UserError(f"{file} is damaged (its SHA-256 does not fit the manifest); {_AGAIN}")


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
        If anything does not fit.
    """
    manifest = read_manifest(path)
    verify(path, manifest)
    import adios2

    arrays: dict[str, np.ndarray] = {}
    with adios2.FileReader(str(path)) as reader:
        present = reader.available_variables()
        for name, fact in manifest.content["arrays"].items():
            shape, dtype = tuple(fact["shape"]), np.dtype(fact["dtype"])
            if 0 in shape:
                arrays[name] = np.zeros(shape, dtype)
                continue
            if name not in present:
                raise UserError(f"{path}: ADIOS2 finds no array '{name}'; {_AGAIN}")
            found = tuple(int(n) for n in present[name]["Shape"].split(","))
            if found != shape:
                raise UserError(f"{path}: array '{name}' has shape {found}, the manifest says {shape}; {_AGAIN}")
            arrays[name] = np.ascontiguousarray(reader.read(name))
    check_arrays(arrays, manifest.targets, str(path))
    return manifest, arrays
