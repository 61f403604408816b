"""Arrays larger than memory: on disk in unnamed files, processed in chunks."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hydragnn_hpc.atomic import place_of_temporary_files, storage_errors

CHUNK = 16_000_000
"""Bytes processed at once."""


class Spool:
    """An array that grows by rows, kept on disk rather than in memory; it vanishes with the process.

    Parameters
    ----------
    dtype : str
    width : tuple of int
        Shape of a row; empty for scalars.
    folder : Path, optional
        Folder of the file; by default that for temporary files.
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
            If the storage is full.
        """
        self._file.write(np.ascontiguousarray(rows, self._dtype).data.cast("B") if rows.size else b"")
        self._rows += len(rows)

    def array(self) -> np.ndarray:
        """Return the whole array as a read-only map of the file, which exists as long as the array.

        Raises
        ------
        OSError
            If the storage is full.
        """
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
        If the storage is full.
    """
    spool = Spool(dtype, width, folder)
    for rows in arrays:
        spool.add(rows)
    return spool.array()


class ScratchSpace:
    """Disk space for many small arrays, which can be read at any time; it vanishes with the process.

    Parameters
    ----------
    folder : Path, optional
        Folder of the files; by default that for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._buffer = np.zeros(0, np.uint8)
        self._used = self._total = 0

    def keep(self, array: np.ndarray) -> np.ndarray:
        """Return a copy of the array in a mapped file.

        Raises
        ------
        StorageError
            If the storage is full.
        """
        if not array.size:
            return array
        if self._used + array.nbytes > len(self._buffer):
            # Ever larger buffers, because each takes a file descriptor.
            self._buffer, self._used = self._reserve(max(array.nbytes, CHUNK, self._total // 4)), 0
        kept: np.ndarray = self._buffer[self._used : self._used + array.nbytes].view(array.dtype).reshape(array.shape)
        kept[...] = array
        self._used += -(-array.nbytes // 8) * 8
        return kept

    def _reserve(self, size: int) -> np.ndarray:
        folder = self._folder or place_of_temporary_files()
        with storage_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
            # Written, not only sized: writing to a map without disk space behind it kills the process (SIGBUS).
            for first in range(0, size, CHUNK):
                file.write(bytes(min(CHUNK, size - first)))
            file.flush()
            self._total += size
            return np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)


def ranges(shape: tuple[int, ...], itemsize: int) -> Iterator[slice]:
    """Yield slices that cover an array's rows, each of at most :data:`CHUNK` bytes or one row."""
    rows = max(1, CHUNK // max(1, itemsize * math.prod(shape[1:])))
    return (slice(first, min(first + rows, shape[0])) for first in range(0, shape[0], rows))


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array's rows in chunks (`ranges`)."""
    return (array[rows] for rows in ranges(array.shape, array.itemsize))


def save(path: Path, shape: tuple[int, ...], dtype: Any, content: Iterator[np.ndarray]) -> None:
    """Write chunks of rows, one after the other, as one ``.npy`` file.

    Raises
    ------
    OSError
        If the storage is full.
    """
    with path.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for chunk in content:
            stream.write(np.ascontiguousarray(chunk, dtype).data.cast("B") if chunk.size else b"")
