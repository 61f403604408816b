"""Extended XYZ: frames cut from a stream so that damage costs one frame, parsed by ASE, written to the last digit."""

from __future__ import annotations

import io
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from hydragnn_hpc.dataset.read.units import to_angstrom
from hydragnn_hpc.errors import UserError

_LONGEST_LINE = 2**24  # bytes; a longer one is no line of text
_SHOWN = 40
_PROPERTIES = re.compile(rb'(?:^|\s)Properties="?([^\s"]+)')

_PBC = re.compile(rb'(?:^|\s)pbc=(?:"([^"]*)"|\'([^\']*)\'|(\[[^\]]*\]|\S+))', re.IGNORECASE)


def is_count(line: bytes) -> bool:
    """Whether a line holds a number of atoms and nothing else, as every frame's first does."""
    return re.fullmatch(rb"\s*[0-9]{1,9}\s*", line) is not None


class _Lines:
    """The lines of a stream, which can be put back."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._back: deque[bytes] = deque()
        self.number = 0

    def next(self) -> bytes:
        """Return the next line, empty at the end."""
        self.number += 1
        return self._back.popleft() if self._back else self._stream.readline(_LONGEST_LINE)

    def put_back(self, lines: list[bytes]) -> None:
        """Make these lines the next ones."""
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)


def iter_chunks(stream: IO[bytes], where: str) -> Iterator[tuple[int, list[bytes] | UserError]]:
    """Yield (number from 0, lines) of every frame; in place of lines the reason where one is damaged.

    A frame counts as whole when the next one, or the end, follows it. After a damaged one, reading goes on at the next
    line that holds a single number.
    """
    lines, number = _Lines(stream), 0
    while (first := _first_line(lines)) is not None:
        start = lines.number
        if not is_count(first):
            found = first.strip()[:_SHOWN].decode("utf-8", "backslashreplace")
            yield (
                number,
                UserError(
                    f"{where}, frame {number}, line {start}: expected the number of atoms, found {found!r}; this is no"
                    " extended XYZ"
                ),
            )
            number += 1
            _resume(lines)
            continue
        chunk = _take(lines, first)
        after = lines.next()
        lines.put_back([after])
        found_atoms = max(len(chunk) - 2, 0)
        announced = f"{where}, frame {number}, line {start}: {int(first)} atoms are announced"
        if len(chunk) < int(first) + 2:
            how = "the next frame starts" if after else "the file ends"
            reason = "mend the number of atoms or the lines" if after else "it is truncated"
            yield number, UserError(f"{announced}, and {how} after {found_atoms}; {reason}")
        elif after.strip() and not is_count(after):
            found = after.strip()[:_SHOWN].decode("utf-8", "backslashreplace")
            yield (
                number,
                UserError(
                    f"{announced}, and then comes {found!r}, which starts no frame; mend the number or the lines"
                ),
            )
            _resume(lines)
        else:
            yield number, chunk
        number += 1


def _first_line(lines: _Lines) -> bytes | None:
    """Return the next line that is not blank; None at the end."""
    while line := lines.next():
        if line.strip():
            return line
    return None


def _take(lines: _Lines, first: bytes) -> list[bytes]:
    """Return a frame's lines, as many as it announces and there are before the next frame."""
    chunk = [first]
    while len(chunk) < int(first) + 2 and (line := lines.next()):
        if len(chunk) > 1 and is_count(line):
            lines.put_back([line])
            break
        chunk.append(line)
    return chunk


def _resume(lines: _Lines) -> None:
    while (line := lines.next()) and not is_count(line):
        continue
    lines.put_back([line])


def column_names(comment: bytes) -> set[str]:
    """Return the names of the columns that a frame's comment line announces."""
    found = _PROPERTIES.search(comment)
    return {name.decode("utf-8", "replace") for name in found[1].split(b":")[::3]} if found else set()


def parse(chunk: list[bytes], where: str) -> Any:
    """Return a frame's lines as an ``ase.Atoms``, its numbers in ``info``, ``arrays`` and the calculator's results.

    Raises
    ------
    UserError
        If ASE cannot read it, or an atom's line has another number of columns than ``Properties`` says.
    """
    import ase.io

    try:
        text = b"".join(chunk).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte 0x{error.object[error.start]:02x} is not UTF-8 text; mend the file") from error
    _check_boundary(chunk[1], where)
    columns = _PROPERTIES.search(chunk[1])
    parts = columns[1].split(b":") if columns else []
    if len(parts) % 3 or not all(n.isdigit() for n in parts[2::3]):
        raise UserError(f"{where}: Properties={b':'.join(parts).decode()} is not NAME:KIND:COLUMNS:...; mend it")
    expected, symbols = sum(map(int, parts[2::3])), _symbol_column(parts)
    for number, line in enumerate(text.rstrip("\n").split("\n")[2:]):
        words = line.split()
        count = len(words)
        if (columns and count != expected) or count < 4:
            raise UserError(
                f"{where}, atom {number}: {count} columns, expected {expected or '4 or more'}; mend the line or"
                " Properties"
            )
        if symbols is not None and words[symbols].capitalize() not in atomic_numbers:
            raise UserError(f"{where}, atom {number}: {words[symbols][:_SHOWN]!r} is no element's symbol; mend it")
    try:
        return ase.io.read(io.StringIO(text), index=0, format="extxyz")
    except Exception as error:  # on damaged text ASE raises whatever its parser runs into
        raise UserError(f"{where}: ASE cannot read it as extended XYZ: {error!s:.160}; mend the frame") from error


def _check_boundary(comment: bytes, where: str) -> None:
    """Refuse a ``pbc`` that is not three truth values: ASE would take any word for a true one."""
    found = _PBC.search(comment)
    if found is None:
        return
    shown = (found[1] or found[2] or found[3]).decode("utf-8", "replace")
    words = re.split(r"[\s,\[\]]+", shown.strip(" \t[]{}"))
    if len(words) not in (1, 3) or any(word.casefold() not in ("t", "f", "true", "false", "0", "1") for word in words):
        raise UserError(f"{where}: pbc={shown[:_SHOWN]!r} is not three of T and F; mend it")


def _symbol_column(parts: list[bytes]) -> int | None:
    """Return the column that holds the symbols, by the parts of ``Properties``; None where none does."""
    place = 0
    for name, count in zip(parts[::3], parts[2::3], strict=True):
        if name == b"species":
            return place
        place += int(count)
    return None if parts else 0


def format_frame(
    atomic_numbers: np.ndarray,
    pos: np.ndarray,
    cell: np.ndarray,
    periodic: tuple[bool, bool, bool],
    values: Mapping[str, Any],
    columns: Mapping[str, np.ndarray],
) -> str:
    """Return a structure as extended XYZ, every number with all its digits (ASE would keep 8 decimals of positions).

    Parameters
    ----------
    atomic_numbers, pos, cell, periodic
        ``[n]``, ``[n, 3]`` and ``[3, 3]`` in bohr, written in ångström; a cell of zeros is left out.
    values : mapping
        Of the structure: numbers, arrays of one dimension, text; anything else is written as JSON.
    columns : mapping
        Of every atom, numbers ``[n]`` or ``[n, d]``.
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
        return value  # cannot be taken for a number or a truth value
    array = np.asarray(value) if not isinstance(value, str | dict) else np.array("")
    if array.dtype.kind in "iuf" and array.ndim < 2 and array.size:
        text = _joined(array.reshape(-1))
        return text if array.size == 1 else f'"{text}"'
    escaped = json.dumps(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"_JSON {escaped}"'
