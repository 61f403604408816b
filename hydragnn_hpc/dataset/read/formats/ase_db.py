"""ASE databases, SQLite or JSON, with the units stated in their metadata."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hydragnn_hpc.dataset.read.atoms import frame_of
from hydragnn_hpc.dataset.read.files import RawFile
from hydragnn_hpc.dataset.read.frames import Frame
from hydragnn_hpc.dataset.read.targets import TargetSpec
from hydragnn_hpc.dataset.read.units import LengthUnit, stated_length_unit, units_of_keys
from hydragnn_hpc.errors import UserError

TARGETS: tuple[TargetSpec, ...] = ()

_TABLES = ("units", "property_units", "property_unit_dict", "_property_unit_dict")
_SQLITE = b"SQLite format 3\x00"
# The keys of rows are numbers, and "ids" lists them; other JSON is notes or a configuration.
_JSON = re.compile(rb'\s*\{\s*"([0-9]+|ids)"\s*:')


def detect(start: bytes, name: str) -> bool:
    """Whether a file is SQLite, JSON that starts like a database of ASE, or has the suffix ``.db``."""
    return start.startswith(_SQLITE) or _JSON.match(start) is not None or name.endswith(".db")


def frames(file: RawFile) -> Iterator[Frame | UserError]:
    """Yield the rows as structures."""
    import ase.db

    with file.on_disk() as path:
        if not path.stat().st_size:
            yield UserError(f"{file.where}: the file is empty (0 bytes)")
            return
        last: int | None = None
        try:
            connect: Any = ase.db.connect
            with path.open("rb") as stream:
                kind = "db" if stream.read(len(_SQLITE)) == _SQLITE else "json"
            if kind == "db" and not _has_structures(path):
                yield UserError(
                    f"{file.where}: is an SQLite file, but not a database of ASE; give one, or leave it out"
                )
                return
            db = connect(path, type=kind, use_lock_file=False)
            length, units = _stated_units(dict(db.metadata or {}), file.where)
            for row in db.select():
                yield _frame_of(row, file, length, units)
                last = int(row.id)
        except UserError as error:
            yield error
        except Exception as error:  # on damaged files ASE raises exceptions of any type
            reason = f"{type(error).__name__}: {error!s:.160}"
            place = "" if last is None else f" after row {last}"
            yield UserError(
                f"{file.where}: cannot be read as an ASE database{place}: {reason}; it is damaged, truncated or in"
                " another format"
            )


def _has_structures(path: Path) -> bool:
    """Return whether an SQLite file has ASE's tables: ASE would add them to one without."""
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
        return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'systems'").fetchone())


def _frame_of(row: Any, file: RawFile, length: LengthUnit, units: Mapping[str, str]) -> Frame | UserError:
    label = file.named(f"id={row.id}", f"id {row.id}")
    try:
        atoms = row.toatoms()
        own = [("the row's key-value pairs", row.key_value_pairs), ("the row's data", row.data)]
        return frame_of(atoms, own, label, length, units)
    except Exception as error:  # on damaged rows, too
        return UserError(f"{label.where}: damaged: {type(error).__name__}: {error!s:.160}")


def _stated_units(metadata: Mapping[str, Any], where: str) -> tuple[LengthUnit, dict[str, str]]:
    """Return the units of lengths and of keys.

    SchNetPack's tables, ASE's ``key_descriptions`` and keys such as ``energy_unit`` state them.

    Raises
    ------
    UserError
        If a unit of length is unknown, or there are several.
    """
    units: dict[str, str] = {}
    for key, described in _mapping(metadata.get("key_descriptions")).items():
        if isinstance(described, list | tuple) and len(described) == 3 and described[2]:
            units[str(key)] = str(described[2])
    for table in _TABLES:
        units.update({str(key): str(unit) for key, unit in _mapping(metadata.get(table)).items() if unit})
    of_keys = units_of_keys(metadata)
    both = {**units, **{f"_{key}": unit for key, unit in of_keys.items()}}  # apart, so that a contradiction shows
    return stated_length_unit(both, f"{where}: metadata"), {**of_keys, **units}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
