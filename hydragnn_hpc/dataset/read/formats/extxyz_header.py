"""The comment line of an extended XYZ frame, split into keys and values, each value converted to its type.

ASE's own reader is not used: it renames columns, takes the last of duplicate keys, is case-sensitive, and rejects a
frame because of keys that are not needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hydragnn_hpc.dataset.read.fortran import FORTRAN_DOUBLE, to_float
from hydragnn_hpc.dataset.read.frames import Unreadable
from hydragnn_hpc.errors import UserError

SHOWN = 40  # characters of the file that an error quotes
_CLOSED = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\{(?:\\.|[^}\\])*\}|\[(?:[^\[\]]|\[[^\[\]]*\])*\])(?=\s|$)"""
# A value follows its '=' immediately, or after spaces if it is not itself a key with its own '='.
_ITEM = re.compile(
    rf"""("(?:\\.|[^"\\])*"(?=[\s=]|$)|'(?:\\.|[^'\\])*'(?=[\s=]|$)|[^\s=]+)"""
    rf"""(?:\s*(=)(?:({_CLOSED}|\S+)|\s+({_CLOSED}|[^\s=]+(?=\s|$))(?!\s*=)|))?""",
    re.DOTALL,
)
_INTEGER = re.compile(r"[+-]?[0-9]+")
_MANTISSA = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_FLOAT = re.compile(rf"{_MANTISSA}(?:e[+-]?[0-9]+)?|{FORTRAN_DOUBLE}|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_NUMBERS = re.compile(r"[\s,\[\]0-9eEdD.+-]*")
# Of a value whose type is not declared: 1 and 0 are numbers, t and f text.
_BOOLEANS = {"T": True, "F": False, "true": True, "false": False, "True": True, "False": False, "TRUE": True,
             "FALSE": False}  # fmt: skip
_STRUCTURAL = ("lattice", "pbc", "properties")


@dataclass
class Header:
    """The content of a comment line.

    Attributes
    ----------
    values : dict
        By key: numbers, arrays, booleans, text, any JSON value, or :class:`Unreadable`.
    structural : dict
        Text of ``lattice``, ``pbc`` and ``properties``, which may be written in any letter case.
    name : str or None
        Text of the key ``name``.
    """

    values: dict[str, Any] = field(default_factory=dict)
    structural: dict[str, str] = field(default_factory=dict)
    name: str | None = None


def parse_header(comment: str, where: str) -> Header:
    """Read a comment line.

    Raises
    ------
    UserError
        If ``Lattice``, ``pbc`` or ``Properties`` appear twice, or ``pbc`` is not in quotes.
    """
    header = Header()
    seen: dict[str, str] = {}
    texts: dict[str, str | None] = {}
    last_key = ""
    for key, text in _items(comment):
        folded = key.casefold()
        if last_key and text is None and (key in _BOOLEANS or _FLOAT.fullmatch(key)):
            _refuse_unquoted(header, last_key, key, where)
            continue
        last_key = "" if text is None else key
        entry = f"{key}={text}"[:SHOWN]
        if folded in _STRUCTURAL:
            if folded in header.structural:
                raise UserError(f"{where}: the header holds both {seen[folded]!r} and {entry!r}; remove one of them")
            header.structural[folded], seen[folded] = text or "", entry
        elif key in texts:
            if text != texts[key]:
                header.values[key] = Unreadable(
                    f"appears twice in the header, as {seen[key]!r} and as {entry!r}; remove one of them"
                )
        else:
            texts[key] = text
            header.values[key], seen[key] = True if text is None else _typed(key, text), entry
            if key == "name" and text is not None:
                header.name = json_text(text)
    if isinstance(header.values.pop("name", None), Unreadable):
        header.name = None
    return header


def _refuse_unquoted(header: Header, key: str, word: str, where: str) -> None:
    """Refuse a list of numbers or booleans without quotes: only the first would be read."""
    reason = f"is followed by {word!r} outside of quotes; quote the whole value"
    if key.casefold() not in _STRUCTURAL:
        header.values[key] = Unreadable(reason)
    elif key.casefold() == "pbc" and len(header.structural["pbc"].split()) == 1:
        raise UserError(f"{where}: '{key}' {reason}")


def json_text(text: str) -> str:
    """Return the string that a ``_JSON`` value encodes; any other text is returned unchanged."""
    try:
        plain = json.loads(text.removeprefix("_JSON ")) if text.startswith("_JSON ") else text
    except (ValueError, RecursionError):
        return text
    return plain if isinstance(plain, str) else text


def _items(comment: str) -> Iterator[tuple[str, str | None]]:
    """Yield each key with the text of its value, or with None if it has no value."""
    for match in _ITEM.finditer(comment):
        key, equals, adjacent, separate = match.groups()
        yield _unquoted(key), _unquoted(adjacent or separate or "") if equals else None


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] + text[-1] in ('""', "''", "{}"):
        return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
    if len(text) > 1 and text[0] + text[-1] == "[]":  # a comma in it is not a decimal one
        return text[1:-1].replace(",", " ") if _NUMBERS.fullmatch(text) else text[1:-1]
    return text


def _typed(key: str, text: str) -> Any:
    if text.startswith("_JSON "):
        return _from_json(text.removeprefix("_JSON "))
    if _DECIMAL_COMMA.fullmatch(text):
        return Unreadable(f"is {text!r}, a decimal comma or two numbers; write a point, or a space between the two")
    # Inner brackets delimit the rows of a matrix; only the numbers count.
    words = re.findall(r"[^\s,\[\]]+" if _NUMBERS.fullmatch(text) else r"[^\s,]+", text)
    array = numbers(words)
    if array is not None:
        if key in ("stress", "virial") and array.size == 9:
            return _from_nine(key, array)
        return array[0] if len(array) == 1 else array
    if words and all(word in _BOOLEANS for word in words):
        booleans = [_BOOLEANS[word] for word in words]
        return booleans[0] if len(booleans) == 1 else booleans
    return text


def _from_nine(key: str, array: np.ndarray) -> Any:
    """Return a 3x3 matrix as ASE does: a virial by columns, a stress as its six Voigt components."""
    matrix = array.reshape((3, 3), order="F")
    if key == "virial":
        return matrix
    if not np.allclose(matrix, matrix.T, rtol=1e-4, atol=1e-6, equal_nan=True):
        return Unreadable("is a stress of nine numbers that is not symmetric; write it under another key")
    return matrix[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def _from_json(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"is not valid JSON: {error!s:.80}; correct or remove it")
    try:
        array = np.array(value)
    except (ValueError, RecursionError):  # lists of several lengths
        return value
    return array if array.dtype.kind in "ifb" and array.ndim else value


def numbers(words: list[str]) -> np.ndarray | None:
    """Return words as integers, else as floats; None unless all are numbers. Unlike in Python, ``1_000`` is not one."""
    if not words:
        return None
    if all(map(_INTEGER.fullmatch, words)):
        try:
            return np.array(words, dtype=int)
        except (OverflowError, ValueError):  # more than 64 bits, or more digits than Python converts
            return np.array(words, dtype=float)
    return np.array([to_float(word) for word in words]) if all(map(_FLOAT.fullmatch, words)) else None
