"""Imports of libraries that would load torch as well, though it is not used here."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEAVY = ("torch", "cupy")


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Hide torch from imports inside the block, unless it is loaded already.

    ADIOS2 and vesin accept torch tensors too, so they import torch where it is installed: this costs seconds, and
    hundreds of megabytes in a process that has no use for it. Both work without it.
    """
    hidden: dict[str, Any] = {name: None for name in _HEAVY if name not in sys.modules}
    sys.modules.update(hidden)  # None makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def import_adios2() -> Any:
    """Import ADIOS2 and return it.

    It looks for its settings in ``$HOME``, and crashes where that is not set (``env -i``, a container's clean
    environment).
    """
    if "HOME" not in os.environ:
        try:
            os.environ["HOME"] = str(Path.home())
        except RuntimeError:  # a user without an entry in the password database
            os.environ["HOME"] = "/"
    with without_torch():
        import adios2
    return adios2
