"""Numbers as Fortran writes those of double precision: 1.0D+00."""

from __future__ import annotations

import re

# With a decimal point, which Fortran always writes: without one it may be a name, such as 5d10.
FORTRAN_DOUBLE = r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)[dD][+-]?[0-9]+"
_IN_TEXT = re.compile(rf"(?<!\S){FORTRAN_DOUBLE}(?!\S)")


def with_e(text: str) -> str:
    """Return a text in which every such number has an ``e`` in place of its ``d``."""
    if "D" not in text and "d" not in text:
        return text
    return _IN_TEXT.sub(lambda match: match[0].lower().replace("d", "e"), text)


def to_float(word: str) -> float:
    """Return the number that a word is, as Python or as Fortran writes it.

    Raises
    ------
    ValueError
        If it is none.
    """
    return float(with_e(word))
