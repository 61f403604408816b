"""The process that writes a BP5 folder: ``python -m hydragnn_hpc.dataset.store.bp5_writer FOLDER``.

Arrays come in on its standard input, piece by piece, as `hydragnn_hpc.dataset.store.bp5` sends them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import IO

import numpy as np

from hydragnn_hpc.dataset.imports import import_adios2
from hydragnn_hpc.dataset.store.bp5 import END
from hydragnn_hpc.dataset.store.spool import ranges


def _received(stream: IO[bytes]) -> Iterator[tuple[str, tuple[int, ...], slice, np.ndarray]]:
    """Yield (name, shape, rows, their content)."""
    while (header := stream.readline()) != END:
        if not header:
            raise EOFError("the parent process ended")
        name, dtype, *sizes = header.decode().split()
        shape = tuple(map(int, sizes))
        for rows in ranges(shape, np.dtype(dtype).itemsize):
            piece = np.empty((rows.stop - rows.start, *shape[1:]), dtype)
            if stream.readinto(piece.data.cast("B")) != piece.nbytes:  # type: ignore[attr-defined]
                raise EOFError("the parent process ended")
            yield name, shape, rows, piece


def _write_here(folder: str, received: Iterator[tuple[str, tuple[int, ...], slice, np.ndarray]]) -> None:
    adios2 = import_adios2()
    io = adios2.Adios().declare_io("write")
    io.set_engine("BP5")
    with adios2.Stream(io, folder, "w") as stream:
        stream.begin_step()
        for name, shape, rows, piece in received:
            stream.write(name, piece, list(shape), [rows.start] + [0] * (piece.ndim - 1), list(piece.shape))
            # To the disk now: else ADIOS2 holds all until the step's end.
            stream.engine.impl.PerformDataWrite()
        stream.end_step()


if __name__ == "__main__":
    _write_here(sys.argv[1], _received(sys.stdin.buffer))
