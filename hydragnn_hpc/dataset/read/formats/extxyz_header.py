"""The comment line of an extended XYZ frame: words and quotes taken apart, values by their type.

ASE's own reader is not used: it renames columns, takes the last of two keys, needs one letter case, and gives up a
frame for a key that nobody asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hydragnn_hpc.dataset.read.frames import Unreadable
from hydragnn_hpc.errors import UserError

SHOWN = 40  # characters of a file in an error
_CLOSED = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\{(?:\\.|[^}\\])*\}|\[(?:[^\[\]]|\[[^\[\]]*\])*\])(?=\s|$)"""
# A value follows its '=' at once, or after blanks if it is not itself the key of another '='.
_ITEM = re.compile(
    rf"""("(?:\\.|[^"\\])*"(?=[\s=]|$)|'(?:\\.|[^'\\])*'(?=[\s=]|$)|[^\s=]+)"""
    rf"""(?:\s*(=)(?:({_CLOSED}|\S+)|\s+({_CLOSED}|[^\s=]+(?=\s|$))(?!\s*=)|))?""",
    re.DOTALL,
)
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE)
_TRUTH = {"T": True, "F": False, "true": True, "false": False, "True": True, "False": False, "TRUE": True,
          "FALSE": False}  # fmt: skip
_STRUCTURAL = ("lattice", "pbc", "properties")


@dataclass
class Header:
    """What a comment line states.

    Attributes
    ----------
    values : dict
        By key: numbers, arrays, truth values, text, whatever JSON holds, or :class:`Unreadable`.
    structural : dict
        Text of ``lattice``, ``pbc`` and ``properties``, which stand there in any letter case.
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
        If ``Lattice``, ``pbc`` or ``Properties`` stand there twice, or ``pbc`` is not in quotes.
    """
    header = Header()
    shown: dict[str, str] = {}
    last = ""
    for key, text in _items(comment):
        plain = key.casefold()
        if last and text is None and (key in _TRUTH or _FLOAT.fullmatch(key)):
            _refuse_unquoted(header, last, key, where)
            continue
        last = "" if text is None else key
        mine = f"{key}={text}"[:SHOWN]
        if plain in _STRUCTURAL:
            if plain in header.structural:
                raise UserError(f"{where}: the header holds both {shown[plain]!r} and {mine!r}; remove one of them")
            header.structural[plain], shown[plain] = text or "", mine
        elif key in shown:
            header.values[key] = Unreadable(
                f"stands twice in the header, as {shown[key]!r} and as {mine!r}; remove one of them"
            )
        else:
            header.values[key], shown[key] = True if text is None else _typed(key, text), mine
            if key == "name" and text is not None:
                header.name = json_text(text)
    if isinstance(header.values.pop("name", None), Unreadable):
        header.name = None
    return header


def _refuse_unquoted(header: Header, key: str, word: str, where: str) -> None:
    """Refuse one of several numbers or truth values that are not in quotes: the first would pass for all."""
    reason = f"is followed by {word!r} outside of quotes; quote all that belongs to it"
    if key.casefold() not in _STRUCTURAL:
        header.values[key] = Unreadable(reason)
    elif key.casefold() == "pbc" and len(header.structural["pbc"].split()) == 1:
        raise UserError(f"{where}: '{key}' {reason}")


def json_text(text: str) -> str:
    """Return text as it was before it was written as JSON, where it was."""
    try:
        plain = json.loads(text.removeprefix("_JSON ")) if text.startswith("_JSON ") else text
    except (ValueError, RecursionError):
        return text
    return plain if isinstance(plain, str) else text


def _items(comment: str) -> Iterator[tuple[str, str | None]]:
    """Yield (key, text of its value); None for a word without value."""
    for match in _ITEM.finditer(comment):
        key, equals, close, apart = match.groups()
        yield _unquoted(key), _unquoted(close or apart or "") if equals else None


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] + text[-1] in ('""', "''", "{}"):
        return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
    return text[1:-1] if len(text) > 1 and text[0] + text[-1] == "[]" else text


def _typed(key: str, text: str) -> Any:
    if text.startswith("_JSON "):
        return _of_json(text.removeprefix("_JSON "))
    # Brackets within: rows of a table, of which the numbers count.
    words = re.findall(r"[^\s,\[\]]+" if re.fullmatch(r"[\s,\[\]0-9eE.+-]*", text) else r"[^\s,]+", text)
    array = numbers(words)
    if array is not None:
        if key in ("stress", "virial") and array.size == 9:
            return _of_nine(key, array)
        return array[0] if len(array) == 1 else array
    if words and all(word in _TRUTH for word in words):
        truths = [_TRUTH[word] for word in words]
        return truths[0] if len(truths) == 1 else truths
    return text


def _of_nine(key: str, array: np.ndarray) -> Any:
    """Return a 3x3 matrix as ASE does: a virial by columns, a stress as its six Voigt components."""
    matrix = array.reshape((3, 3), order="F")
    if key == "virial":
        return matrix
    if not np.allclose(matrix, matrix.T, rtol=1e-4, atol=1e-6, equal_nan=True):
        return Unreadable("is a stress of nine numbers that is not symmetric; write it under another key")
    return matrix[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def _of_json(text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"is no JSON: {error!s:.80}; correct or remove it")
    try:
        array = np.array(found)
    except (ValueError, RecursionError):  # lists of several lengths
        return found
    return array if array.dtype.kind in "ifb" and array.ndim else found


def numbers(words: list[str]) -> np.ndarray | None:
    """Return words as integers, else as real numbers; None where they are none. Python's ``1_000`` is none."""
    if not words:
        return None
    if all(map(_INTEGER.fullmatch, words)):
        try:
            return np.array(words, dtype=int)
        except OverflowError:
            return np.array(words, dtype=float)
    return np.array([float(word) for word in words]) if all(map(_FLOAT.fullmatch, words)) else None
