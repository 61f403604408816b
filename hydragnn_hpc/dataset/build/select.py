"""Selection of the samples that a data set keeps, and their split."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.dataset.remarks.samples import parts_cut_short
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.fields import PARTS
from hydragnn_hpc.logs import log


def first_of_repeated(keys: list[bytes], missing: Callable[[int], int]) -> np.ndarray:
    """Return, for every distinct key, the position of the first of its samples that lack the fewest values; ascending.

    ``missing`` returns how many values the sample at a position lacks.
    """
    best: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        other = best.setdefault(key, position)
        if other != position and missing(position) < missing(other):
            best[key] = position
    return np.array(sorted(best.values()), dtype=np.int64)


def _generator(seed: int, purpose: str, composition: np.ndarray) -> np.random.Generator:
    """Return a generator for one composition: what it draws does not depend on the other compositions."""
    text = f"{seed}|{purpose}|{composition.tolist()}"
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def _groups(counts: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (composition, positions of its samples) for every distinct row of ``counts``."""
    compositions, which = np.unique(counts, axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    bounds = np.searchsorted(which.ravel()[order], np.arange(len(compositions) + 1))
    return [(c, order[bounds[k] : bounds[k + 1]]) for k, c in enumerate(compositions)]


def cap_per_composition(counts: np.ndarray, cap: int, seed: int) -> np.ndarray:
    """Return the positions (ascending) of at most ``cap`` samples per composition, chosen at random with ``seed``.

    ``counts`` is ``[S, n_species]``; a ``cap`` of 0 keeps all.
    """
    if cap == 0:
        return np.arange(len(counts))
    kept = []
    for composition, members in _groups(counts):
        if len(members) > cap:
            members = _generator(seed, "cap", composition).choice(members, cap, replace=False)
        kept.append(members)
    return np.sort(np.concatenate(kept))


@dataclass(frozen=True)
class Partition:
    """The part of each sample.

    Attributes
    ----------
    part : numpy.ndarray
        ``[S]`` uint8: 0 training, 1 validation, 2 test.
    too_small : list of tuple
        (species counts, samples) of compositions with too few samples, or too few classes, to reach every part.
    """

    part: np.ndarray
    too_small: list[tuple[list[int], int]]


SPLIT_BY = ("composition", "symmetry", "groups", "random")


def split_by_default(
    counts: np.ndarray, fractions: tuple[float, float, float], seed: int, classes: np.ndarray | None = None
) -> tuple[str, Partition]:
    """Choose a kind of split whose validation and test sets are large enough; return it and the split.

    By composition, unless many compositions have too few samples for those sets; then at random, with equivalent
    samples in one set unless that too makes a set too small. Parameters are those of `split`.

    Raises
    ------
    UserError
        If the fractions do not sum to 1, or a part is empty.
    """
    _check_fractions(fractions)
    by, sizes = "composition", [0, 0, 0]
    with contextlib.suppress(UserError):
        made = split(by, counts, fractions, seed)
        sizes = np.bincount(made.part, minlength=3).tolist()
        if not parts_cut_short(sizes, fractions):
            return by, made
    by = "random"
    if classes is not None and len(np.unique(classes)) < len(classes):
        with contextlib.suppress(UserError):
            made = split("groups", counts, fractions, seed, classes)
            by = "groups" if not parts_cut_short(np.bincount(made.part, minlength=3).tolist(), fractions) else by
    if by == "random":
        made = split(by, counts, fractions, seed)
    how = "at random" if by == "random" else "at random, equivalents together"
    log(
        f"split {how}: by composition, only {sizes[1]:,} and {sizes[2]:,} of {len(counts):,} samples would be in the"
        " validation and test sets"
    )
    return by, made


def split(
    by: str,
    counts: np.ndarray,
    fractions: tuple[float, float, float],
    seed: int,
    classes: np.ndarray | None = None,
) -> Partition:
    """Split samples into training, validation and test sets.

    Parameters
    ----------
    by : {"composition", "symmetry", "groups", "random"}
        ``composition`` splits every composition in the same proportion; ``symmetry`` does so and keeps each class in
        one set; ``random`` ignores the composition; ``groups`` too, and keeps each class in one set.
    counts : numpy.ndarray
        ``[S, n_species]``.
    fractions : tuple of float
        Of the training, validation and test sets; they sum to 1.
    seed : int
        Seed of the random choice.
    classes : numpy.ndarray or None
        ``[S]``, symmetry class of each sample; required for ``symmetry`` and ``groups``.

    Raises
    ------
    UserError
        If ``by`` is unknown, the fractions do not sum to 1, or a part is empty.
    """
    if by not in SPLIT_BY:
        raise UserError(f"--split-by {by}{nearest(by, SPLIT_BY)}")
    if by in ("random", "groups"):
        counts = np.zeros((len(counts), 1), np.int64)  # whatever their composition, all samples are split together
    if by in ("composition", "random"):
        return _split_samples(by, counts, fractions, seed)
    assert classes is not None
    return _split_classes(by, counts, fractions, seed, classes)


def _split_classes(
    by: str, counts: np.ndarray, fractions: tuple[float, float, float], seed: int, classes: np.ndarray
) -> Partition:
    """Split every composition in about the same proportion, and keep every class in one part.

    Whole classes of a composition are assigned, the largest first, each to the part that lacks the most samples;
    classes of equal size come in random order. A composition of fewer than three classes, or too small, goes entirely
    into the training set.
    """
    _check_fractions(fractions)
    part = np.zeros(len(counts), dtype=np.uint8)
    too_small = []
    for composition, members in _groups(counts):
        _, first, which = np.unique(classes[members], return_index=True, return_inverse=True)
        sizes = np.bincount(which)
        part_sizes = _part_sizes(len(members), fractions)
        if part_sizes is None or len(sizes) < 3:
            too_small.append((composition.tolist(), len(members)))
            continue
        # A class is identified by its first sample, so that its number has no influence.
        chance = _generator(seed, "split", composition).permutation(len(sizes))[np.argsort(np.argsort(first))]
        dealt = _deal(sizes, chance, np.array(part_sizes))
        part[members] = dealt[which]
    _refuse_empty(part, counts, by)
    return Partition(part, too_small)


def _deal(sizes: np.ndarray, chance: np.ndarray, part_sizes: np.ndarray) -> np.ndarray:
    """Return the part of each of three or more classes of these ``sizes``; ``part_sizes`` are those of the parts.

    Of classes of one size, the one with the lowest ``chance`` comes first.
    """
    dealt = np.zeros(len(sizes), np.uint8)
    lacking = part_sizes.astype(float)
    for k in np.lexsort((chance, -sizes)).tolist():
        dealt[k] = np.argmax(lacking)
        lacking[dealt[k]] -= sizes[k]
    for empty in set(range(3)) - set(dealt.tolist()):
        # Few large classes: the part with the most of them gives up its smallest.
        giver = int(np.bincount(dealt, minlength=3).argmax())
        mine = np.flatnonzero(dealt == giver)
        dealt[mine[np.lexsort((chance[mine], sizes[mine]))[0]]] = empty
    return dealt


def _part_sizes(n: int, fractions: tuple[float, float, float]) -> tuple[int, int, int] | None:
    """Return how many of n samples each part gets; None if a part would get none."""
    n_validation, n_test = (int(np.floor(f * n + 0.5)) for f in fractions[1:])
    n_train = n - n_validation - n_test
    return None if min(n_train, n_validation, n_test) < 1 else (n_train, n_validation, n_test)


def _check_fractions(fractions: tuple[float, float, float]) -> None:
    # Phrased so that NaN is refused too.
    if not (all(f > 0 for f in fractions) and abs(sum(fractions) - 1) <= 1e-9):
        shown = ",".join(f"{f:g}" for f in fractions)
        raise UserError(f"--fractions {shown}: expected three positive numbers that sum to 1, such as 0.70,0.15,0.15")


def _refuse_empty(part: np.ndarray, counts: np.ndarray, by: str) -> None:
    for value, name in enumerate(PARTS):
        if not (part == value).any():
            how, remedy = f"by {by}", "more samples, other --fractions, or --split-by random"
            if by == "random":
                how, remedy = "at random", "more samples or other --fractions"
            among = f", compositions: {len(_groups(counts))}" if by in ("composition", "symmetry") else ""
            raise UserError(
                f"the {name} set is empty: too few samples to split {how} (samples: {len(counts)}{among}); give"
                f" {remedy}"
            )


def _split_samples(by: str, counts: np.ndarray, fractions: tuple[float, float, float], seed: int) -> Partition:
    """Split every composition in the same proportion, at random.

    A composition too small to give each part a sample goes entirely into the training set.
    """
    _check_fractions(fractions)
    part = np.zeros(len(counts), dtype=np.uint8)
    too_small = []
    for composition, members in _groups(counts):
        part_sizes = _part_sizes(len(members), fractions)
        if part_sizes is None:
            too_small.append((composition.tolist(), len(members)))
            continue
        _, n_validation, n_test = part_sizes
        shuffled = _generator(seed, "split", composition).permutation(members)
        part[shuffled[:n_test]] = 2
        part[shuffled[n_test : n_test + n_validation]] = 1
    _refuse_empty(part, counts, by)
    return Partition(part, too_small)
