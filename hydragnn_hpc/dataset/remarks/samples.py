"""Remarks on which samples there are, and on their split."""

from __future__ import annotations

import math

import numpy as np

from hydragnn_hpc.dataset.remarks.values import Found
from hydragnn_hpc.dataset.remarks.view import DataView
from hydragnn_hpc.fields import SPLITS

_FEW = 30  # samples; their RMSE is uncertain by 13 %
_HALF = 0.5  # of the share that was asked for
_LEAK = 0.01  # of the test set


def cannot_judge(sizes: list[int], fractions: tuple[float, ...]) -> list[str]:
    """Return the parts of a split that hold less than half of what was asked for."""
    total = sum(sizes)
    return [
        part for part, n, f in zip(SPLITS, sizes, fractions, strict=True) if part != "train" and n < _HALF * f * total
    ]


def small_parts(data: DataView) -> Found:
    """A validation or test set that is too small to judge a model by."""
    sizes, fractions = data.part_sizes(), data.source.fractions
    lacking = cannot_judge(sizes, tuple(fractions))
    for part, n, fraction in zip(SPLITS[1:], sizes[1:], fractions[1:], strict=True):
        if part not in lacking and n >= _FEW:
            continue
        split_by = data.source.split_by
        cure = "--split-by random" if part in lacking and split_by != "random" else "more samples"
        asked = f" ({fraction:.0%} of {sum(sizes):,} were asked for)" if part in lacking else ""
        unsure = f"uncertain by about {1 / math.sqrt(2 * n):.0%}" if n else "not possible"
        yield f"the {part} set has {n:,} samples{asked}: an error measured on it is {unsure}; use {cure}", None


def small_compositions(data: DataView) -> Found:
    """Compositions that do not reach every part of the split."""
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
    line = (
        f"{len(few)} compositions have too few samples to reach every part of the split, and are trained on only:"
        f" {shown}"
    )
    yield line, None


def capped(data: DataView) -> Found:
    """A cap that dropped a share of the only composition."""
    source = data.source
    if source.compositions == 1 and source.capped:
        before = source.kept + source.capped
        line = (
            f"--cap {source.cap} dropped {source.capped:,} of {before:,} samples, all of one composition"
            f" ({source.capped / before:.0%}): a cap balances compositions, and there is one; leave it out"
        )
        yield line, None


def equivalents(data: DataView) -> Found:
    """Test samples that a symmetry of the lattice makes equal to samples of the training set."""
    if data.classes is None or data.source.split_by == "symmetry":
        return
    part = data.arrays["split"]
    leaked = int(np.isin(data.classes[part == 2], data.classes[part == 0]).sum())
    n_test = int((part == 2).sum())
    if leaked <= _LEAK * n_test:
        return
    unknown = not data.arrays["cell"].any() and data.source.format == "lsms"
    more = "; the data state no period, with which there may be more: --cell gives it" if unknown else ""
    line = (
        f"{'at least ' if unknown else ''}{leaked:,} of {n_test:,} test samples have an equivalent, by a symmetry of"
        f" the sites, in the training set: test errors are too small for new structures; --split-by symmetry keeps"
        f" equivalents together{more}"
    )
    yield line, None
