"""Numbers of atoms of each element in samples; large arrays, which may be memory maps, are processed in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 100_000  # atoms processed at once: tens of megabytes with the widest inputs


def blocks(atom_offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield ranges of samples (first, last + 1), each of at most `BLOCK` atoms or of one sample."""
    first, n = 0, len(atom_offsets) - 1
    while first < n:
        stop = int(np.searchsorted(atom_offsets, atom_offsets[first] + BLOCK, side="right")) - 1
        stop = min(max(stop, first + 1), n)
        yield first, stop
        first = stop


def elements_of(numbers: np.ndarray) -> np.ndarray:
    """Return the proton numbers that occur in ``[A]``, ascending, int64."""
    seen = np.zeros(int(numbers.max(initial=0)) + 1, bool)
    for start in range(0, len(numbers), BLOCK):
        seen[numbers[start : start + BLOCK]] = True
    return np.flatnonzero(seen)


def counts_of(numbers: np.ndarray, atom_offsets: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """Count every sample's atoms by element.

    Parameters
    ----------
    numbers : numpy.ndarray
        ``[A]``, proton numbers.
    atom_offsets : numpy.ndarray
        ``[S + 1]`` int64.
    elements : numpy.ndarray
        ``[K]``, ascending: all that occur, at least.

    Returns
    -------
    numpy.ndarray
        ``[S, K]`` int64.
    """
    counts = np.zeros((len(atom_offsets) - 1, len(elements)), np.int64)
    for first, stop in blocks(atom_offsets):
        atoms = slice(atom_offsets[first], atom_offsets[stop])
        sample = np.repeat(np.arange(stop - first), np.diff(atom_offsets[first : stop + 1]))
        which = np.searchsorted(elements, numbers[atoms])
        block = np.bincount(sample * len(elements) + which, minlength=(stop - first) * len(elements))
        counts[first:stop] = block.reshape(-1, len(elements))
    return counts


def species_counts(numbers: np.ndarray, atom_offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the elements that occur, ``[K]``, and `counts_of` them."""
    elements = elements_of(numbers)
    return elements, counts_of(numbers, atom_offsets, elements)


def fractions_of(counts: np.ndarray) -> np.ndarray:
    """Return atomic fractions ``[S, K]`` float64 from counts of atoms; zeros for a sample without atoms."""
    fractions: np.ndarray = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return fractions
