"""Extended XYZ, read as a stream: damage costs one frame, and every column keeps the file's own name."""

from __future__ import annotations

import codecs
import itertools
import re
from collections import deque
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from ase.data import atomic_numbers

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.read.files import RawFile
from hydragnn_hpc.dataset.read.formats.extxyz_header import SHOWN, numbers, parse_header
from hydragnn_hpc.dataset.read.frames import Frame, FrameLabel, Unreadable
from hydragnn_hpc.dataset.read.targets import TargetSpec
from hydragnn_hpc.dataset.read.units import stated_length_unit, units_of_keys
from hydragnn_hpc.errors import UserError

TARGETS: tuple[TargetSpec, ...] = ()

_LONGEST_LINE = 2**24  # bytes; a longer one is not text
_LARGEST_FRAME = 2**29  # bytes in memory; a million atoms of 16 columns take most of it
_LINE_BYTES = 40  # of memory besides a line's text
# Names of the columns that define the structure, the usual one first; where it is present, the others are plain data.
_SPECIES = ("species", "symbols", "z", "numbers")
_POSITIONS = ("pos", "positions")
# Where else other programs state a cell; i-PI also states units there: "# CELL(abcABC): ... positions{atomic_unit}".
OTHER_CELLS = ("cell", "unitcell", "unit_cell", "cell_vectors", "lattice_vectors")
_CELL_OF_IPI = re.compile(r"CELL[(\[{]\w+[)\]}]:?")
# In any letter case, in columns of kind L and in pbc, where 1 and 0 cannot be numbers.
_BOOLEANS = {"t": True, "f": False, "true": True, "false": False, "1": True, "0": False}


def detect(start: bytes, name: str) -> bool:
    """Whether the first line is a number of atoms, or the name ends in .xyz or .extxyz."""
    return _is_count(start.removeprefix(codecs.BOM_UTF8).split(b"\n", 1)[0]) or name.endswith((".xyz", ".extxyz"))


def frames(file: RawFile) -> Iterator[Frame | UserError]:
    """Yield the frames of a file, one in memory at a time."""
    with file.open() as stream:
        for number, chunk in enumerate(_iter_chunks(stream, file.where)):
            if isinstance(chunk, UserError):
                yield chunk
                continue
            try:
                yield _parse(chunk, file.named(f"{number}", f"frame {number}"))
            except UserError as error:
                yield error


def _is_count(line: bytes) -> bool:
    """Whether a line holds a number of atoms and nothing else, as the first line of every frame does."""
    return re.fullmatch(rb"\s*[0-9]{1,9}\s*", line) is not None


class _TooLargeError(Exception):
    """A frame that is not kept in memory."""


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


def _iter_chunks(stream: IO[bytes], where: str) -> Iterator[list[bytes] | UserError]:
    """Yield the lines of every frame; for a damaged one, an error instead.

    A frame counts as whole when the next one, or the end, follows it. After a damaged one, reading continues at the
    next line that holds a single number.
    """
    lines = _Lines(stream)
    start_of_file = lines.next()
    if start_of_file.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield UserError(f"{where}: is UTF-16 text; save it as UTF-8")
        return
    lines.put_back([start_of_file.removeprefix(codecs.BOM_UTF8)])
    for number in itertools.count():
        first = _first_line(lines)
        if first is None:
            return
        yield _next_chunk(lines, first, f"{where}, frame {number}, line {lines.number}")


def _next_chunk(lines: _Lines, first: bytes, where: str) -> list[bytes] | UserError:
    """Return the lines of the frame whose first line is ``first``; an error if it is damaged."""
    if not _is_count(first):
        _resume(lines)
        return UserError(f"{where}: expected the number of atoms, found {_shown(first)}; this is not extended XYZ")
    declared = f"{where}: {int(first)} atoms are declared"
    try:
        chunk = _take(lines, first)
    except _TooLargeError:
        _resume(lines)
        return UserError(
            f"{declared}, and more than {_LARGEST_FRAME:,} bytes follow, too many for one structure; correct the file"
        )
    after = lines.next()
    lines.put_back([after])
    if len(chunk) < int(first) + 2:
        how = "the next frame starts" if after else "the file ends"
        remedy = "correct the number of atoms or the lines" if after else "it is truncated"
        return UserError(f"{declared}, and {how} after {max(len(chunk) - 2, 0)}; {remedy}")
    if after.strip() and not _is_count(after):
        _resume(lines)
        return UserError(
            f"{declared}, then comes {_shown(after)}, which does not start a frame; correct the number or the lines"
        )
    return chunk


def _shown(line: bytes) -> str:
    return repr(line.strip()[:SHOWN].decode("utf-8", "backslashreplace"))


def _first_line(lines: _Lines) -> bytes | None:
    """Return the next line that is not blank; None at the end."""
    while line := lines.next():
        if line.strip():
            return line
    return None


def _take(lines: _Lines, first: bytes) -> list[bytes]:
    """Return a frame's lines: as many as it declares, or fewer if the next frame starts earlier."""
    chunk, size = [first], 0
    n_lines = int(first) + 2
    while len(chunk) < n_lines and (line := lines.next()):
        if len(chunk) > 1 and _is_count(line):
            lines.put_back([line])
            break
        size += len(line) + _LINE_BYTES
        if size > _LARGEST_FRAME:
            raise _TooLargeError
        chunk.append(line)
    return chunk


def _resume(lines: _Lines) -> None:
    while (line := lines.next()) and not _is_count(line):
        continue
    lines.put_back([line])


def _parse(chunk: list[bytes], label: FrameLabel) -> Frame:
    """Parse the lines of a frame.

    Raises
    ------
    UserError
        If species, positions, cell or boundary are malformed, or a line's number of columns differs from that
        in ``Properties``; if the cell is stated in another form than ``Lattice``.
    """
    name, origin, where = label
    try:
        comment, *rows = (line.decode("utf-8").rstrip("\r\n") for line in [*chunk[1:], b""][: int(chunk[0]) + 1])
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: byte 0x{error.object[error.start]:02x} is not UTF-8 text; correct the file"
        ) from error
    header = parse_header(comment, where)
    words = [row.split() for row in rows]
    columns, z, pos = _columns(header.structural.get("properties"), words, where)
    cell = _cell(header.structural.get("lattice"), where)
    if cell is None:
        _refuse_other_cells(header.values, where)
    units = units_of_keys(header.values)
    length = stated_length_unit(units, where)
    periodic = _periodic(header.structural.get("pbc"), cell is not None, where)
    return Frame(
        name if header.name is None else header.name,
        origin,
        where,
        z,
        length.to_bohr(pos),
        length.to_bohr(np.zeros((3, 3)) if cell is None else cell),
        periodic,
        header.values,
        columns,
        units,
    )


def _refuse_other_cells(values: dict[str, Any], where: str) -> None:
    """Refuse a cell that would be lost, since it is not in ``Lattice``."""
    for key, value in values.items():
        if _CELL_OF_IPI.fullmatch(key):
            raise UserError(
                f"{where}: the header states the cell and units as i-PI does, with {key!r}; convert the file to"
                " extended XYZ, with Lattice and lengths in ångström"
            )
        numeric = isinstance(value, np.ndarray) and value.dtype.kind in "if"
        if numeric and key.casefold() in OTHER_CELLS and value.size in (3, 6, 9):
            raise UserError(
                f"{where}: the header has '{key}' but no Lattice, which states the cell; rename or remove it"
            )


def _columns(
    properties: str | None, words: list[list[str]], where: str
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return the columns by name, the proton numbers and the positions (ångström)."""
    layout = _layout(properties, where)
    width = sum(count for _, _, count in layout)
    for atom, line in enumerate(words):
        if (properties is not None and len(line) != width) or len(line) < width:
            found, expected = counted(len(line), "column"), width if properties is not None else "4 or more"
            raise UserError(f"{where}, atom {atom}: {found}, expected {expected}; correct the line or Properties")
    species, positions = (_place(layout, names, where) for names in (_SPECIES, _POSITIONS))
    columns: dict[str, Any] = {}
    widths = {species: 1, positions: 3}
    z, pos, start = np.zeros(0, np.int32), np.zeros((0, 3)), 0
    for number, (name, kind, count) in enumerate(layout):
        cells = [line[start : start + count] for line in words]
        start += count
        if count != widths.get(number, count):
            raise UserError(f"{where}: the column '{name}' is {count} wide, not {widths[number]}; correct Properties")
        if number == species:
            as_numbers = name.casefold() in _SPECIES[2:]
            z = np.array(
                [_proton_number(line[0], as_numbers, f"{where}, atom {k}") for k, line in enumerate(cells)], np.int32
            )
        elif number == positions:
            made = _array(kind if kind in "RI" else "R", cells)
            if isinstance(made, Unreadable):
                raise UserError(f"{where}: the column '{name}' {made.reason}")
            pos = np.asarray(made, np.float64).reshape(-1, 3)
        elif name in columns:
            columns[name] = Unreadable("is the name of two columns in Properties; rename one of them")
        else:
            columns[name] = _array(kind, cells)
    return columns, z, pos


def _layout(properties: str | None, where: str) -> list[tuple[str, str, int]]:
    """Return (name, kind, number of columns) of every entry of ``Properties``."""
    parts = (properties or "species:S:1:pos:R:3").split(":")
    if len(parts) % 3 or not all(re.fullmatch("[1-9][0-9]{0,5}", n) for n in parts[2::3]):
        raise UserError(f"{where}: Properties={properties} is not NAME:KIND:COLUMNS:...; correct it")
    return [(n, k, int(c)) for n, k, c in zip(parts[::3], parts[1::3], parts[2::3], strict=True)]


def _place(layout: list[tuple[str, str, int]], names: tuple[str, ...], where: str) -> int:
    """Return the index of the entry that holds the species or positions, whose column has one of ``names``."""
    plain = [name.casefold() for name, _, _ in layout]
    for name in names:
        if plain.count(name) > 1:
            raise UserError(f"{where}: Properties has two columns '{name}'; rename one of them")
        if name in plain:
            return plain.index(name)
    raise UserError(
        f"{where}: Properties has no column '{names[0]}', only {', '.join(n for n, _, _ in layout)}; add it"
    )


def _proton_number(word: str, as_number: bool, where: str) -> int:
    if as_number and word.isdecimal():
        return int(word[:9])
    symbol = word.capitalize()
    if symbol not in atomic_numbers:
        raise UserError(f"{where}: {word[:SHOWN]!r} is not an element's symbol; correct it")
    return int(atomic_numbers[symbol])


def _array(kind: str, cells: list[list[str]]) -> Any:
    """Return a column ``[n]`` or ``[n, count]``; :class:`Unreadable` if a word does not fit its kind."""
    flat = [word for line in cells for word in line]
    if kind == "S":
        made: Any = np.array(flat, dtype=object)
    elif kind == "L":
        bad = next((k for k, word in enumerate(flat) if word.casefold() not in _BOOLEANS), None)
        if bad is not None:
            return Unreadable(f"holds {flat[bad][:SHOWN]!r}, which is neither T nor F; correct it")
        made = np.array([_BOOLEANS[word.casefold()] for word in flat], dtype=bool)
    elif kind in ("R", "I"):
        made = numbers(flat)
        if made is None and flat:
            bad_word = next(word for word in flat if numbers([word]) is None)
            return Unreadable(f"holds {bad_word[:SHOWN]!r}, which is not a number; correct it")
        if kind == "I" and made is not None and made.dtype.kind != "i":
            return Unreadable("is declared as integers (I) in Properties but holds others; declare it as R")
        made = np.zeros(0) if made is None else made.astype(float) if kind == "R" else made
    else:
        return Unreadable(f"is of kind {kind!r} in Properties; expected S, I, R or L; correct it")
    return made if not cells or len(cells[0]) == 1 else made.reshape(len(cells), -1)


def _cell(lattice: str | None, where: str) -> np.ndarray | None:
    if lattice is None:
        return None
    values = numbers(re.findall(r"[^\s,\[\]]+", lattice))
    if values is None or len(values) != 9:
        raise UserError(f"{where}: Lattice={lattice[:SHOWN]!r} is not nine numbers; correct it")
    return values.astype(float).reshape(3, 3)


def _periodic(pbc: str | None, has_cell: bool, where: str) -> tuple[bool, bool, bool]:
    """Return the boundary: as ``pbc`` says, else periodic where there is a cell."""
    if pbc is None:
        return (has_cell,) * 3
    words = [word.casefold() for word in re.split(r"[\s,\[\]]+", pbc.strip(" \t[]{}"))]
    if len(words) not in (1, 3) or any(word not in _BOOLEANS for word in words):
        raise UserError(f"{where}: pbc={pbc[:SHOWN]!r} is not three values of T or F; correct it")
    a, b, c = (_BOOLEANS[word] for word in (words * 3 if len(words) == 1 else words))
    return a, b, c
