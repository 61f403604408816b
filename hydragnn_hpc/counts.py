"""Numbers of things, in words."""

from __future__ import annotations


def counted(number: int, thing: str, things: str = "") -> str:
    """Return ``1 member``, ``1,200 members``; ``things`` is the plural where it is not formed with an s."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"
