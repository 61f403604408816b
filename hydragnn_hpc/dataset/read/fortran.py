"""Numbers in double precision as Fortran writes them: 1.0D+00."""

from __future__ import annotations

import re

# With a decimal point, which Fortran always writes: without one it may be a name, such as 5d10.
FORTRAN_DOUBLE = r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)[dD][+-]?[0-9]+"
_IN_TEXT = re.compile(rf"(?<!\S){FORTRAN_DOUBLE}(?!\S)")


def with_e(text: str) -> str:
    """Return the text with an ``e`` in place of the ``d`` of every such number."""
    if "D" not in text and "d" not in text:
        return text
    return _IN_TEXT.sub(lambda match: match[0].lower().replace("d", "e"), text)


def to_float(word: str) -> float:
    """Return the value of a number as Python or Fortran writes it.

    Raises
    ------
    ValueError
        If it is not a number.
    """
    return float(with_e(word))
