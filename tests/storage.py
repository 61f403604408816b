"""Faulty storage: a disk that is soon full, and files that are damaged."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of ``size`` (such as ``64k``) on the new ``folder``; skip the test if that is impossible."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and the right to mount")
    try:
        yield folder
    finally:
        while folder.is_mount():  # a failed test may leave a view mounted over it
            subprocess.run(["umount", "-l", str(folder)], check=True)


def damage(path: Path, rng: random.Random) -> str:
    """Damage one file in one way; return a description of the damage, which ends with the file's name."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "cut", "remove", "insert", "invert", "append", "empty", "delete", "swap for a folder"])
    place, length = rng.randrange(len(content)), rng.randrange(1, 64)
    if kind == "flip":
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "remove":
        del content[place : place + length]
    elif kind == "insert":
        content[place:place] = rng.randbytes(length)
    elif kind == "invert":
        content[place : place + length] = bytes(255 - byte for byte in content[place : place + length])
    elif kind == "append":
        content += rng.randbytes(length)
    elif kind == "empty":
        content.clear()
    path.unlink()
    if kind == "swap for a folder":
        path.mkdir()
    elif kind != "delete":
        path.write_bytes(content)
    return f"{kind} at {place} of {path.name}"
