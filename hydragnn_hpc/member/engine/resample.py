"""The split of each replica: the same for all, all folds but one to train, or a draw with replacement.

Samples that are equivalent by symmetry stay together. The test set is the same for all replicas, and so is everything
that is fitted to the data: the scaling, references, and PNA's mean degree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hydragnn_hpc.dataset.staged.copies import atoms_of


class Split(NamedTuple):
    """Sample numbers of the training, validation and test sets, ascending; a draw with replacement repeats some."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Resampled:
    """The splits of replicas that have their own.

    Attributes
    ----------
    of : callable
        Returns the split of a replica.
    length : int
        Training samples in an epoch. Folds differ by a few samples: an epoch takes as many as the smallest training
        set has, different ones each time, so that all replicas take the same number of steps.
    """

    of: Callable[[int], Split]
    length: int


def in_folds(folds: list[np.ndarray], test: np.ndarray, chosen: Callable[[np.ndarray], np.ndarray]) -> Resampled:
    """Validate replica r on fold ``r % len(folds)``, and train it on what ``chosen`` takes from the others."""
    others = [np.sort(np.concatenate([other for other in folds if other is not fold])) for fold in folds]
    splits = [Split(chosen(train), fold, test) for train, fold in zip(others, folds, strict=True)]
    return Resampled(lambda replica: splits[replica % len(splits)], min(len(split.train) for split in splits))


def by_bootstrap(split: Split, classes: np.ndarray, seed: int) -> Resampled:
    """Train each replica on its own draw of the training set (`draw`), and validate all on the same set."""

    def of(replica: int) -> Split:
        return split._replace(train=draw(split.train, classes, np.random.default_rng([seed, replica])))

    return Resampled(of, len(split.train))


def split_in_folds(
    pool: np.ndarray, number: int, classes: np.ndarray, compositions: np.ndarray, seed: int
) -> list[np.ndarray]:
    """Divide samples into folds, each composition as evenly as whole classes allow.

    The classes of a composition are assigned, the largest first, each to the fold with the fewest of its samples, then
    with the fewest of all; classes of equal size come in random order.

    Parameters
    ----------
    pool : numpy.ndarray
        Sample numbers, of at least ``number`` classes.
    number : int
        Number of folds.
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
    composition = np.unique(compositions[pool[first]], axis=0, return_inverse=True)[1].ravel()
    tie_breaker = np.random.default_rng([seed, number]).permutation(len(sizes))
    fold_of = np.empty(len(sizes), np.int64)
    samples = np.zeros((composition.max() + 1, number), np.int64)  # of each composition in each fold
    total = np.zeros(number, np.int64)
    for k in np.lexsort((tie_breaker, -sizes, composition)):
        own = samples[composition[k]]
        fold_of[k] = fold = np.lexsort((total, own))[0]
        own[fold] += sizes[k]
        total[fold] += sizes[k]
    return [np.sort(pool[fold_of[group] == fold]) for fold in range(number)]


def draw(train: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw classes with replacement until there are as many samples as in ``train``; the last may be cut short.

    Parameters
    ----------
    train : numpy.ndarray
        Sample numbers.
    classes : numpy.ndarray
        ``[S]``, as for `split_in_folds`.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        ``len(train)`` sample numbers, ascending, some of them repeated.
    """
    group, _ = _by_first_sample(classes[train])
    sizes = np.bincount(group)
    order, offsets = np.argsort(group, kind="stable"), np.concatenate([[0], np.cumsum(sizes)])
    drawn = rng.integers(len(sizes), size=len(train))  # enough, since no class is empty
    positions = atoms_of(offsets, drawn)
    samples: np.ndarray = np.sort(train[order[positions[: len(train)]]])
    return samples


def _by_first_sample(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number classes in the order of their first samples, whatever their labels; also return the positions of these."""
    _, first, which = np.unique(classes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(first), np.int64)
    number[order] = np.arange(len(first))
    return number[which.ravel()], first[order]
