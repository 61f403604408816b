"""Imports of libraries that would also load torch, which is not used here, or that need a home directory."""

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


def provide_home() -> None:
    """Set ``$HOME`` where it is not set (``env -i``, a container's clean environment).

    ADIOS2 looks for its settings there, and would crash; ASE fails for a user without an entry in the password
    database.
    """
    if "HOME" not in os.environ:
        try:
            os.environ["HOME"] = str(Path.home())
        except RuntimeError:  # such a user
            os.environ["HOME"] = "/"


def import_adios2() -> Any:
    """Import ADIOS2 and return it."""
    provide_home()
    with without_torch():
        import adios2
    return adios2
