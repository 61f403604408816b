"""Samples as decorations of geometries: their elements, counts of atoms, and iteration over them in blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hydragnn_hpc.dataset.graphs import Geometry

_BLOCK = 100_000  # atoms processed at once: tens of megabytes with the widest inputs


def blocks(atom_offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield ranges of samples (first, last + 1), each of at most 100,000 atoms or of one sample."""
    first, n = 0, len(atom_offsets) - 1
    while first < n:
        stop = int(np.searchsorted(atom_offsets, atom_offsets[first] + _BLOCK, side="right")) - 1
        stop = min(max(stop, first + 1), n)
        yield first, stop
        first = stop


def elements_of(numbers: np.ndarray) -> np.ndarray:
    """Return the proton numbers that occur, ascending, int64; ``numbers`` may be a memory map."""
    seen = np.zeros(int(numbers.max(initial=0)) + 1, bool)
    for start in range(0, len(numbers), _BLOCK):
        seen[numbers[start : start + _BLOCK]] = True
    return np.flatnonzero(seen)


def counts_of(numbers: np.ndarray, atom_offsets: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """Return how many atoms of each element every sample has, ``[S, K]`` int64."""
    counts = np.zeros((len(atom_offsets) - 1, len(elements)), np.int64)
    for first, stop in blocks(atom_offsets):
        atoms = slice(atom_offsets[first], atom_offsets[stop])
        sample = np.repeat(np.arange(stop - first), np.diff(atom_offsets[first : stop + 1]))
        which = np.searchsorted(elements, numbers[atoms])
        block = np.bincount(sample * len(elements) + which, minlength=(stop - first) * len(elements))
        counts[first:stop] = block.reshape(-1, len(elements))
    return counts


def shares_of(counts: np.ndarray) -> np.ndarray:
    """Return compositions ``[S, K]`` float64 from counts of atoms; zeros for a sample without atoms."""
    shares: np.ndarray = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def geometry(arrays: Mapping[str, np.ndarray], number: int) -> Geometry:
    """Return one geometry of a data set's arrays."""
    sites = slice(*arrays["geometry_atom_offsets"][number : number + 2])
    periodic = tuple(bool(p) for p in arrays["periodic"][number])
    return Geometry(np.array(arrays["pos"][sites]), np.array(arrays["cell"][number]), periodic)  # type: ignore[arg-type]


def new_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Make a float32 ``.npy`` file, mapped for writing, with all of its space allocated at once.

    Without that, a disk that fills up later would kill the process by a signal (SIGBUS).

    Raises
    ------
    OSError
        If the storage is full.
    """
    with path.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.flush()
        size = 4 * int(np.prod(shape))
        if size:
            os.posix_fallocate(stream.fileno(), stream.tell(), size)
    mapped: np.ndarray = np.load(path, mmap_mode="r+") if size else np.load(path)
    return mapped
