"""Remarks on the samples, and on their split."""

from __future__ import annotations

import math

import numpy as np

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.remarks.view import DataView, Lines
from hydragnn_hpc.fields import PARTS

_FEW = 30  # samples; their RMSE is uncertain by 13 %
_SHORT = 0.5  # of the requested share
_LEAK = 0.01  # of the test set


def parts_cut_short(sizes: list[int], fractions: tuple[float, ...]) -> list[str]:
    """Return which of the validation and test sets hold less than half of their requested share."""
    total = sum(sizes)
    return [part for part, n, f in zip(PARTS[1:], sizes[1:], fractions[1:], strict=True) if n < _SHORT * f * total]


def small_parts(data: DataView) -> Lines:
    """A validation or test set that is too small to judge a model by."""
    sizes, fractions = data.part_sizes(), data.source.fractions
    short = parts_cut_short(sizes, tuple(fractions))
    for part, n, fraction in zip(PARTS[1:], sizes[1:], fractions[1:], strict=True):
        if part not in short and n >= _FEW:
            continue
        split_by = data.source.split_by
        remedy = "--split-by random" if part in short and split_by != "random" else "more samples"
        asked = f" ({fraction:.0%} of {sum(sizes):,} were requested)" if part in short else ""
        effect = f"errors on it are uncertain by about {1 / math.sqrt(2 * n):.0%}" if n else "it measures no error"
        yield f"the {part} set has {counted(n, 'sample')}{asked}: {effect}; use {remedy}", None


def small_compositions(data: DataView) -> Lines:
    """Compositions with too few samples for every part of the split."""
    from ase.data import chemical_symbols

    if data.source.split_by not in ("composition", "symmetry") or not data.source.compositions_too_small_to_split:
        return
    part = data.arrays["split"]
    kinds, which, sizes = np.unique(data.counts, axis=0, return_inverse=True, return_counts=True)
    reached = np.stack([np.bincount(which.ravel(), part == k, minlength=len(kinds)) > 0 for k in range(3)])
    few = np.flatnonzero(~reached.all(axis=0))

    def formula(counts: np.ndarray) -> str:
        pairs = zip(data.source.species or [], counts.tolist(), strict=False)
        return "".join(f"{chemical_symbols[z]}{n}" for z, n in pairs if n)

    shown = ", ".join(f"{formula(kinds[k])} ({sizes[k]})" for k in few[:5].tolist()) + (", ..." if len(few) > 5 else "")
    have = "composition has" if len(few) == 1 else "compositions have"
    text = f"{len(few):,} {have} too few samples for validation and test sets, used for training only: {shown}"
    yield text, None


def capped(data: DataView) -> Lines:
    """A cap that dropped a share of the only composition."""
    source = data.source
    if source.compositions == 1 and source.capped:
        before = source.kept + source.capped
        line = (
            f"--cap {source.cap} dropped {source.capped:,} of {before:,} samples, all of one composition"
            f" ({source.capped / before:.0%}): a cap balances compositions, and here there is only one; leave it out"
        )
        yield line, None


def equivalents(data: DataView) -> Lines:
    """Test samples that are equivalent, by a symmetry of the lattice, to samples of the training set."""
    from hydragnn_hpc.dataset.symmetry import leaked

    if data.classes is None or data.source.split_by == "symmetry":
        return
    part = data.arrays["split"]
    n_leaked, n_test = leaked(data.classes, part), int((part == 2).sum())
    if n_leaked <= _LEAK * n_test:
        return
    unknown = not data.arrays["cell"].any() and data.source.format == "lsms"
    more = "; the data do not state the lattice: with --cell, more may be recognised" if unknown else ""
    line = (
        f"{'at least ' if unknown else ''}{n_leaked:,} of {n_test:,} test samples have an equivalent, by a symmetry of"
        f" the sites, in the training set: test errors are lower than those of new structures; --split-by symmetry"
        f" keeps equivalents together{more}"
    )
    yield line, None
