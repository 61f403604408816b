"""The process that writes a BP5 folder: ``python -m hydragnn_hpc.dataset.store.bp5_writer FOLDER``.

It receives arrays on its standard input, chunk by chunk, as `hydragnn_hpc.dataset.store.bp5` sends them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO

import numpy as np

from hydragnn_hpc.dataset.imports import import_adios2
from hydragnn_hpc.dataset.store.bp5 import END
from hydragnn_hpc.dataset.store.spool import ranges

_Chunk = tuple[str, tuple[int, ...], slice, np.ndarray]
"""An array's name and shape, some of its rows, and their values."""


def _received(stream: IO[bytes]) -> Iterator[_Chunk]:
    """Yield the chunks of all arrays."""
    while (header := stream.readline()) != END:
        if not header:
            raise EOFError("the parent process ended")
        name, dtype, *sizes = header.decode().split()
        shape = tuple(map(int, sizes))
        for rows in ranges(shape, np.dtype(dtype).itemsize):
            chunk = np.empty((rows.stop - rows.start, *shape[1:]), dtype)
            if stream.readinto(chunk.data.cast("B")) != chunk.nbytes:  # type: ignore[attr-defined]
                raise EOFError("the parent process ended")
            yield name, shape, rows, chunk


def _write_here(folder: str, received: Iterator[_Chunk]) -> None:
    adios2 = import_adios2()
    io = adios2.Adios().declare_io("write")
    io.set_engine("BP5")
    with adios2.Stream(io, folder, "w") as stream:
        stream.begin_step()
        for name, shape, rows, chunk in received:
            stream.write(name, chunk, list(shape), [rows.start] + [0] * (chunk.ndim - 1), list(chunk.shape))
            # Flushed now: otherwise ADIOS2 keeps everything in memory until the end of the step.
            stream.engine.impl.PerformDataWrite()
        stream.end_step()


if __name__ == "__main__":
    _write_here(sys.argv[1], _received(sys.stdin.buffer))
