"""Training on part of the training set: a smaller part is contained in every larger one."""

from __future__ import annotations

import numpy as np

from hydragnn_hpc.compositions import species_counts


def nested(part: np.ndarray, number: int, numbers: np.ndarray, atom_offsets: np.ndarray, seed: int) -> np.ndarray:
    """Choose some samples of the training set, of each composition in proportion.

    Parameters
    ----------
    part : numpy.ndarray
        Sample numbers of the training set.
    number : int
        How many are chosen, at most ``len(part)``.
    numbers, atom_offsets : numpy.ndarray
        ``[A]`` and ``[S + 1]``, as in a data set.
    seed : int
        The same seed and training set give nested choices.

    Returns
    -------
    numpy.ndarray
        Sample numbers, ascending.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(part)
    counts = species_counts(numbers, atom_offsets)[1][shuffled]
    which = np.unique(counts, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(which, kind="stable")
    sizes = np.bincount(which)
    rank = np.empty(len(shuffled), np.int64)
    rank[order] = np.arange(len(shuffled)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # Sample k of a composition with n samples is placed at (k + u) / n, with a random u for each composition: any share
    # of the whole contains that share of every composition, and rare compositions do not all come first or last.
    place = (rank + rng.random(len(sizes))[which]) / sizes[which]
    chosen: np.ndarray = np.sort(shuffled[np.argsort(place, kind="stable")[:number]])
    return chosen
