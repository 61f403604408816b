"""A new ``.npy`` file, mapped for writing."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np


def new_array(path: Path, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Make a ``.npy`` file, mapped for writing, with all of its space allocated at once.

    Without that, a disk that fills up later would kill the process by a signal (SIGBUS).

    Raises
    ------
    OSError
        If the storage is full.
    """
    with path.open("wb") as stream:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.flush()
        size = np.dtype(dtype).itemsize * math.prod(shape)
        if size:
            os.posix_fallocate(stream.fileno(), stream.tell(), size)
    mapped: np.ndarray = np.load(path, mmap_mode="r+") if size else np.load(path)
    return mapped
