"""Numbers and names as text: for readers, for Markdown, for LaTeX, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

MISSING = "–"
"""Shown in place of a missing value."""

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "μ": r"\ensuremath{\mu}", "±": r"\ensuremath{\pm}", "×": r"\ensuremath{\times}", "–": "--",
    "²": r"\textsuperscript{2}", "→": r"\ensuremath{\to}",
}  # fmt: skip


def scientific(value: float | None, digits: int = 3) -> str:
    """Return a number as ``7.54e-3``, the way the paper prints scaled errors."""
    if value is None or not math.isfinite(value):
        return MISSING
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def plain(value: float | None, digits: int = 4) -> str:
    """Return a number of ``digits`` significant digits, a large one to the unit, a very small one with an exponent."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if places > digits + 3:
        return scientific(value, digits)
    return f"{value:,.{max(places, 0)}f}"


def r_squared(value: float | None) -> str:
    """Return R² as ``0.9871``; at -10 and below, where only its size matters, as ``-2.3e4``."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{round(value, 4) + 0.0:.4f}" if value > -10 else scientific(value, 2)  # + 0.0: no negative zero


def percent(value: float | None) -> str:
    """Return a fraction as ``+4.2 %``."""
    return MISSING if value is None else f"{100 * value:+.1f} %"


def utc(stamp: str | None) -> str:
    """Return a time, ISO 8601 in UTC, to the second: ``2026-08-01 09:30:12``."""
    return line(stamp)[:19].replace("T", " ") if stamp else MISSING


def plus_minus(mean: float | None, std: float | None) -> str:
    """Return ``7.54e-3 ± 8.70e-4``, with a dash for a missing value."""
    return MISSING if mean is None else f"{scientific(mean)} ± {scientific(std)}"


def mean_count(value: float | None) -> str:
    """Return a mean of whole numbers: ``20``, or ``17.5``."""
    return MISSING if value is None else f"{value:,.1f}".removesuffix(".0")


def interval(value: tuple[float, float] | None, form: Callable[[float], str]) -> str:
    """Return ``[low, high]``, each as ``form`` returns it; a dash where there is none."""
    return MISSING if value is None else f"[{', '.join(form(v) for v in value)}]"


def two_decimals(value: float) -> str:
    """Return a number as ``2.20``."""
    return f"{value:.2f}"


def with_spread(mean: float | None, std: float | None) -> str:
    """Return ``1.629 ± 0.014``: no more digits than the spread warrants; the mean alone where there is no spread."""
    if mean is None or not std or not math.isfinite(std):
        return plain(mean)
    places = 1 - math.floor(math.log10(std))
    if places > 7:
        return f"{scientific(mean)} ± {scientific(std, 2)}"
    return f"{round(mean, places):,.{max(places, 0)}f} ± {round(std, places):,.{max(places, 0)}f}"


def latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(c, c) for c in line(text))


def markdown(text: str) -> str:
    """Escape text for Markdown, also within a table."""
    escaped = "".join(f"\\{c}" if c in "\\|`*_<>[]#" else c for c in line(text))
    return escaped.replace("&", "&amp;")


def line(text: Any) -> str:
    """Fold text into one line without control characters: the output of a failed program may contain anything."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def last_line(lines: Sequence[str]) -> str:
    """Return the last of some lines of output that is not blank; empty if all are."""
    return next((shown for text in reversed(lines) if (shown := line(text))), "")
