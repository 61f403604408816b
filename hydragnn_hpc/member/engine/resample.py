"""The samples of each replica: the same for all, all folds but one, or a draw with replacement.

Samples that are equivalent by symmetry stay together. The test set is the same for all replicas, and so is everything
that is fitted to the data: the scaling, references, and PNA's mean degree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.dataset.staged.copies import atoms_of

Parts = tuple[np.ndarray, np.ndarray]
"""Sample numbers of a training and a validation set, ascending; a draw with replacement repeats some."""


@dataclass(frozen=True)
class Resampled:
    """The training and validation sets of replicas.

    Attributes
    ----------
    of : callable
        Returns those of a replica.
    length : int
        Training samples in an epoch. Folds differ by a few samples: an epoch takes as many as the smallest training
        set has, different ones each time, so that all replicas take the same steps.
    """

    of: Callable[[int], Parts]
    length: int


def in_folds(folds: list[np.ndarray], chosen: Callable[[np.ndarray], np.ndarray]) -> Resampled:
    """Validate replica r on fold ``r % len(folds)``, and train it on what ``chosen`` takes of all others."""
    parts = [(chosen(np.sort(np.concatenate([other for other in folds if other is not fold]))), fold) for fold in folds]
    return Resampled(lambda replica: parts[replica % len(parts)], min(len(train) for train, _ in parts))


def by_bootstrap(parts: Parts, classes: np.ndarray, seed: int) -> Resampled:
    """Train each replica on its own draw of the training set (`draw`), and validate all on the same set."""
    train, validation = parts
    return Resampled(lambda r: (draw(train, classes, np.random.default_rng([seed, r])), validation), len(train))


def split_in_folds(
    pool: np.ndarray, number: int, classes: np.ndarray, compositions: np.ndarray, seed: int
) -> list[np.ndarray]:
    """Divide samples into folds, each composition as evenly as whole classes allow.

    The classes of a composition are assigned, the largest first, each to the fold with the fewest of its samples, then
    with the fewest of all; ties are broken at random.

    Parameters
    ----------
    pool : numpy.ndarray
        Sample numbers, of at least ``number`` classes.
    number : int
        How many folds.
    classes : numpy.ndarray
        ``[S]``, equal for samples that stay together; they are of one composition.
    compositions : numpy.ndarray
        ``[S, K]``, atoms of each element.
    seed : int

    Returns
    -------
    list of numpy.ndarray
        Sample numbers, ascending; no fold is empty.
    """
    group, first = _by_first_sample(classes[pool])
    sizes = np.bincount(group)
    kind = np.unique(compositions[pool[first]], axis=0, return_inverse=True)[1].ravel()
    chance = np.random.default_rng([seed, number]).permutation(len(sizes))
    dealt = np.empty(len(sizes), np.int64)
    total, here, current = [0] * number, [0] * number, -1
    for k in np.lexsort((chance, -sizes, kind)).tolist():
        if kind[k] != current:
            here, current = [0] * number, kind[k]
        to = min(range(number), key=lambda fold, here=here: (here[fold], total[fold]))  # type: ignore[misc]
        dealt[k] = to
        here[to] += sizes[k]
        total[to] += sizes[k]
    return [np.sort(pool[dealt[group] == fold]) for fold in range(number)]


def draw(part: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw classes with replacement until there are as many samples as before; the last may be cut short.

    Returns
    -------
    numpy.ndarray
        ``len(part)`` sample numbers, ascending, some of them repeated.
    """
    group, _ = _by_first_sample(classes[part])
    sizes = np.bincount(group)
    order, offsets = np.argsort(group, kind="stable"), np.concatenate([[0], np.cumsum(sizes)])
    drawn = rng.integers(len(sizes), size=len(part))  # enough, since no class is empty
    positions = atoms_of(offsets, drawn)
    samples: np.ndarray = np.sort(part[order[positions[: len(part)]]])
    return samples


def _by_first_sample(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number classes in the order of their first samples, whatever their labels; also return those samples."""
    _, first, which = np.unique(classes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[order] = np.arange(len(first))
    return number[which.ravel()], first[order]
