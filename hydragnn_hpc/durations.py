"""Durations: one grammar for every option and setting that takes one, and how they are shown."""

from __future__ import annotations

import re

from hydragnn_hpc.errors import UserError

EXPECTED = "expected minutes, 90s, 45m, 1h30m, 1.5h, 2d, 1:30:00 (hours first) or 1-12:00:00 (days first)"

SAVE_SECONDS = 5.0
"""Seconds of a run's time limit that are reserved for saving, in addition to the time of one epoch."""

_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_UNITS = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?:in)?)?(?:{_NUMBER}s)?", re.ASCII | re.IGNORECASE)
_MINUTES = re.compile(_NUMBER, re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,9}):)?(\d{1,9}):([0-5]?\d)", re.ASCII)
_DAYS = re.compile(r"(\d{1,9})-(\d{1,9})(?::([0-5]?\d)(?::([0-5]?\d))?)?", re.ASCII)


def seconds_of(text: str, option: str) -> float:
    """Read a duration in any of Slurm's forms or with units; return seconds.

    Slurm's forms are ``minutes``, ``minutes:seconds``, ``hours:minutes:seconds``, ``days-hours``,
    ``days-hours:minutes`` and ``days-hours:minutes:seconds``; with units, the largest first: ``1h30m``, ``1.5h``,
    ``2d``, ``90s``.

    Parameters
    ----------
    text : str
        The duration.
    option : str
        The option or setting, named in the error.

    Raises
    ------
    UserError
        If it has none of these forms, or is not positive.
    """
    given = text.strip()
    seconds = 0.0
    if match := _MINUTES.fullmatch(given):
        seconds = _sum(("0", "0", match[1], "0"))
    elif (match := _CLOCK.fullmatch(given)) and (match[1] is None or int(match[2]) < 60):
        seconds = _sum(("0", *match.groups()))
    elif match := (_DAYS.fullmatch(given) or _UNITS.fullmatch(given)):
        seconds = _sum(match.groups())
    if not seconds:
        raise UserError(f"{option} '{text}': {EXPECTED}")
    return seconds


def clock(seconds: float) -> str:
    """Return ``H:MM:SS``."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def with_units(seconds: float) -> str:
    """Return ``24h``, ``1h30m`` or ``1m30s``, as `seconds_of` reads it; at least ``1s``, since it refuses zero."""
    whole = int(seconds)
    parts = ((whole // 3600, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "1s"


def in_words(seconds: float) -> str:
    """Return ``42 s``, ``3 min 20 s``, ``2 h 05 min`` or ``3 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _sum(parts: tuple[str | None, ...]) -> float:
    """Add up days, hours, minutes and seconds."""
    return sum(float(part or 0) * factor for part, factor in zip(parts, (86400, 3600, 60, 1), strict=True))
