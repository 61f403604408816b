"""Arrays larger than memory: grown in nameless files, walked through in pieces."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PIECE = 16_000_000
"""Bytes worked on at once."""


class Spool:
    """An array that grows by rows. Its room is disk, not memory, and nothing is left of it when its process ends.

    Parameters
    ----------
    dtype : str
    width : tuple of int
        Shape of a row; empty for numbers.
    folder : Path, optional
        Where the file is; the default for temporary files where there is none.
    """

    def __init__(self, dtype: str, width: tuple[int, ...] = (), folder: Path | None = None) -> None:
        self._dtype, self._width = np.dtype(dtype), width
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the array is used
        self._rows = 0

    def add(self, rows: np.ndarray) -> None:
        """Append ``rows``.

        Raises
        ------
        OSError
            If there is no room.
        """
        self._file.write(np.ascontiguousarray(rows, self._dtype).data.cast("B") if rows.size else b"")
        self._rows += len(rows)

    def array(self) -> np.ndarray:
        """Return the whole as a read-only map of the file, which stays as long as the array does."""
        self._file.flush()
        shape = (self._rows, *self._width)
        if 0 in shape:
            return np.zeros(shape, self._dtype)
        mapped: np.ndarray = np.memmap(self._file, self._dtype, "r", shape=shape)
        return mapped


def ranges(shape: tuple[int, ...], itemsize: int) -> Iterator[slice]:
    """Yield slices of rows of at most 16 MB (or one row) each, that make up an array."""
    rows = max(1, PIECE // max(1, itemsize * math.prod(shape[1:])))
    return (slice(first, min(first + rows, shape[0])) for first in range(0, shape[0], rows))


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array's rows in pieces (`ranges`)."""
    return (array[rows] for rows in ranges(array.shape, array.itemsize))


def save(path: Path, shape: tuple[int, ...], dtype: Any, content: Iterator[np.ndarray]) -> None:
    """Write pieces of rows, one after the other, as one ``.npy`` file.

    Raises
    ------
    OSError
        If there is no room.
    """
    with path.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for piece in content:
            stream.write(np.ascontiguousarray(piece, dtype).data.cast("B") if piece.size else b"")
