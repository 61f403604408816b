"""A part of the training set to train on; a smaller part is contained in every larger one."""

from __future__ import annotations

import numpy as np

from hydragnn_hpc.compositions import species_counts


def nested(train: np.ndarray, n: int, atomic_numbers: np.ndarray, atom_offsets: np.ndarray, seed: int) -> np.ndarray:
    """Choose samples of the training set, each composition in proportion.

    Parameters
    ----------
    train : numpy.ndarray
        Indices of the training set's samples.
    n : int
        How many to choose, at most ``len(train)``.
    atomic_numbers, atom_offsets : numpy.ndarray
        ``[A]`` and ``[S + 1]``, as in a data set.
    seed : int
        The same seed and training set give nested choices.

    Returns
    -------
    numpy.ndarray
        Indices of the chosen samples, ascending.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(train)
    counts = species_counts(atomic_numbers, atom_offsets)[1][shuffled]
    composition = np.unique(counts, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(composition, kind="stable")
    sizes = np.bincount(composition)
    rank = np.empty(len(shuffled), np.int64)
    rank[order] = np.arange(len(shuffled)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # Sample k of a composition with n samples is placed at (k + u) / n, with a random u for each composition: any share
    # of the whole contains that share of every composition, and rare compositions do not all come first or last.
    place = (rank + rng.random(len(sizes))[composition]) / sizes[composition]
    chosen: np.ndarray = np.sort(shuffled[np.argsort(place, kind="stable")[:n]])
    return chosen
