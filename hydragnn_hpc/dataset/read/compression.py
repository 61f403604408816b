"""Compressed files: recognised by their first bytes, and decompressed as a stream."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hydragnn_hpc.errors import UserError

_KINDS: tuple[tuple[bytes, Callable[[IO[bytes]], Any]], ...] = (
    (rb"\x1f\x8b\x08", gzip.open),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", bz2.open),
    (rb"\xfd7zXZ\x00", lzma.open),
    (rb"\]\x00\x00", lzma.open),  # the older .lzma
)
_SUFFIXES = (".gz", ".bz2", ".xz", ".lzma")
_ZSTD = b"\x28\xb5\x2f\xfd"


def without_suffix(name: str) -> str:
    """Return a file name without its compression suffix, if it has one."""
    return name[: -len(PurePosixPath(name).suffix)] if name.casefold().endswith(_SUFFIXES) else name


def start_of(file: Path) -> bytes:
    """Return the first 16 bytes of a file.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(16)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; make it readable") from error


def is_compressed(file: Path) -> bool:
    """Return whether a file starts like a gzip, bzip2, xz, lzma or zstd stream."""
    start = start_of(file)
    return start.startswith(_ZSTD) or any(re.match(magic, start) for magic, _ in _KINDS)


def decompressing(stream: Any, where: str) -> Any:
    """Return ``stream``, or if it is compressed a stream of its decompressed content; closing that closes both.

    Raises
    ------
    UserError
        If it is compressed with zstd.
    """
    start = stream.peek(16)[:16]
    if start.startswith(_ZSTD):
        stream.close()
        raise UserError(f"{where} is compressed with zstd, which is not read here; decompress it: zstd -d {where}")
    for magic, opener in _KINDS:
        if re.match(magic, start):
            return _Closing(opener(stream), stream)
    return stream


class _Closing(contextlib.AbstractContextManager[Any]):
    """A decompressed stream that also closes the compressed one."""

    def __init__(self, inner: IO[bytes], outer: IO[bytes]) -> None:
        self._inner, self._outer = inner, outer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __exit__(self, *_: object) -> None:
        self._inner.close()
        self._outer.close()
