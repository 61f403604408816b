"""Extended XYZ, written with full precision."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from hydragnn_hpc.dataset.read.formats.extxyz import OTHER_CELLS
from hydragnn_hpc.dataset.read.units import LENGTH_KEYS, to_angstrom
from hydragnn_hpc.fields import SOURCE_INDEX
from hydragnn_hpc.records.dataset import EXPORTED_KEY

# Names that have another meaning for readers of extended XYZ, in any letter case.
_RESERVED = {
    "stress", "virial", "virials", "lattice", "properties", "pbc", "name", "split", "numbers", "positions", "species",
    "pos", "symbols", "z", "move_mask", "uid", "tags", "masses", "momenta", EXPORTED_KEY, SOURCE_INDEX, *OTHER_CELLS,
    *(f"{length}_{unit}" for length in LENGTH_KEYS for unit in ("unit", "units")),
}  # fmt: skip


def key_of(name: str, taken: Collection[str] = ()) -> str:
    """Return the key under which a value is written: unique to its name, and without another meaning in the format.

    ``taken`` are keys, in lower case, that the file uses for something else.
    """
    plain = name.casefold()
    while plain.startswith("target_"):
        plain = plain.removeprefix("target_")
    return f"target_{name}" if plain in _RESERVED or plain in taken else name


def format_frame(
    atomic_numbers: np.ndarray,
    pos: np.ndarray,
    cell: np.ndarray,
    periodic: tuple[bool, bool, bool],
    values: Mapping[str, Any],
    columns: Mapping[str, np.ndarray],
) -> str:
    """Return a structure as extended XYZ in full precision (ASE would write positions with 8 decimals).

    Parameters
    ----------
    atomic_numbers : numpy.ndarray
        ``[n]``.
    pos, cell : numpy.ndarray
        ``[n, 3]`` and ``[3, 3]`` in bohr, written in ångström; a cell of zeros is left out.
    periodic : tuple of bool
        By cell vector.
    values : mapping
        Values of the structure: numbers, one-dimensional arrays, text; anything else is written as JSON.
    columns : mapping
        Values of every atom, ``[n]`` or ``[n, d]``: integers or floats.
    """
    symbols = [chemical_symbols[z] for z in atomic_numbers.tolist()]
    table = {"pos": to_angstrom(pos), **{key: v.reshape(len(symbols), -1) for key, v in columns.items()}}
    kinds = {key: "I" if v.dtype.kind in "iu" else "R" for key, v in table.items()}
    header = []
    if cell.any():
        header.append(f'Lattice="{_joined(to_angstrom(cell).ravel())}"')
    header.append("Properties=species:S:1" + "".join(f":{k}:{kinds[k]}:{v.shape[1]}" for k, v in table.items()))
    header += [f"{key}={_value(value)}" for key, value in values.items()]
    header.append(f'pbc="{" ".join("FT"[p] for p in periodic)}"')
    rows = zip(symbols, *(v.tolist() for v in table.values()), strict=True)
    lines = [" ".join([symbol, *(repr(number) for part in parts for number in part)]) for symbol, *parts in rows]
    return "\n".join([str(len(symbols)), " ".join(header), *lines]) + "\n"


def _joined(numbers: np.ndarray) -> str:
    return " ".join(map(repr, numbers.tolist()))


def _value(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*[_.@-][\w.@-]*", value, re.ASCII):
        return value  # cannot be taken for a number or a boolean
    array = np.asarray(value) if not isinstance(value, str | dict) else np.array("")
    if array.dtype.kind in "iuf" and array.ndim < 2 and array.size:
        text = _joined(array.reshape(-1))
        return text if array.size == 1 else f'"{text}"'
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    escaped = json.dumps(plain).replace("\\", "\\\\").replace('"', '\\"')
    return f'"_JSON {escaped}"'
