"""Distribution of a data set's samples over compositions, sizes and target values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hydragnn_hpc.compositions import fractions_of, species_counts
from hydragnn_hpc.records.dataset import AtomsRange, Distribution, Moments

EDGES = (0.2, 0.4, 0.6, 0.8)
"""Upper bounds of the inner bins but the last, as fractions of an element."""
BINS = ("0 %", "≤ 20 %", "≤ 40 %", "≤ 60 %", "≤ 80 %", "< 100 %", "100 %")
"""Fractions of an element, by bin; 0 and 1 themselves have their own."""


def describe(arrays: dict[str, np.ndarray], targets: Iterable[str]) -> Distribution:
    """Return the distribution of a data set; ``targets`` are the names of its targets.

    Means and standard deviations ignore NaN; ``elements`` counts samples in :data:`BINS`.
    """
    species, fractions = composition(arrays)
    n_atoms = np.diff(arrays["atom_offsets"])
    return Distribution(
        targets={name: _moments(arrays[f"target_{name}"]) for name in targets},
        atoms=AtomsRange(minimum=int(n_atoms.min()), mean=float(n_atoms.mean()), maximum=int(n_atoms.max())),
        elements={
            str(z): np.bincount(_bin(fractions[:, k]), minlength=len(BINS)).tolist()
            for k, z in enumerate(species.tolist())
        },
    )


def composition(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the species ``[n_species]`` and every sample's fraction of each, ``[S, n_species]``."""
    species, counts = species_counts(arrays["atomic_numbers"], arrays["atom_offsets"])
    return species, fractions_of(counts)


def _bin(fraction: np.ndarray) -> np.ndarray:
    """Return the bin of each fraction; bins include their upper bound."""
    inner = 1 + np.searchsorted(EDGES, fraction, side="left")
    return np.where(fraction == 0, 0, np.where(fraction == 1, len(BINS) - 1, inner))


def _moments(values: np.ndarray) -> Moments:
    missing = np.isnan(values).sum(axis=0).tolist()
    mean, std = np.nanmean(values, axis=0).tolist(), np.nanstd(values, axis=0).tolist()
    return Moments(mean=mean, std=std, missing=missing)
