"""How this stage imports libraries that would import torch along, though it is not used here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

_HEAVY = ("torch", "cupy")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let imports inside go without torch, where it is not loaded yet.

    ADIOS2 and vesin take torch's arrays too, so they import it where it is installed: seconds, and hundreds of
    megabytes in a process that has no use for it. Both are prepared for its absence.
    """
    hidden: dict[str, Any] = {name: None for name in _HEAVY if name not in sys.modules}
    sys.modules.update(hidden)  # None makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
