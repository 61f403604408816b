"""Arrays larger than memory: on disk in nameless files, walked through in pieces."""

from __future__ import annotations

import contextlib
import math
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.errors import UserError

PIECE = 16_000_000
"""Bytes worked on at once."""


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell a failure of the storage while ``path`` is made."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error


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


def joined(arrays: Iterable[np.ndarray], dtype: str, width: tuple[int, ...], folder: Path | None = None) -> np.ndarray:
    """Return the rows of all arrays as one, on disk (`Spool`).

    Raises
    ------
    OSError
        If there is no room.
    """
    spool = Spool(dtype, width, folder)
    for rows in arrays:
        spool.add(rows)
    return spool.array()


class Shelf:
    """Room on disk for many small arrays, each there at once. Nothing is left of it when its process ends.

    Parameters
    ----------
    folder : Path, optional
        Where the files are; the default for temporary files where there is none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._room = np.zeros(0, np.uint8)
        self._used = self._total = 0

    def keep(self, array: np.ndarray) -> np.ndarray:
        """Return an equal array whose values are in a mapped file.

        Raises
        ------
        UserError
            If there is no room.
        """
        if not array.size:
            return array
        if self._used + array.nbytes > len(self._room):
            # Ever larger pieces: each takes a file handle.
            self._room, self._used = self._reserve(max(array.nbytes, PIECE, self._total // 4)), 0
        kept: np.ndarray = self._room[self._used : self._used + array.nbytes].view(array.dtype).reshape(array.shape)
        kept[...] = array
        self._used += -(-array.nbytes // 8) * 8
        return kept

    def _reserve(self, size: int) -> np.ndarray:
        folder = self._folder or Path(tempfile.gettempdir())
        with told(folder), tempfile.TemporaryFile(dir=folder) as file:
            # Written, not only sized: a process that writes to a map without room behind it is ended (SIGBUS).
            for first in range(0, size, PIECE):
                file.write(bytes(min(PIECE, size - first)))
            file.flush()
            self._total += size
            return np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)


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
