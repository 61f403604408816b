"""How the samples of a data set are distributed: over compositions, sizes and target values."""

from __future__ import annotations

from typing import Any

import numpy as np

from hydragnn_hpc.dataset.build.select import species_counts

EDGES = (0.2, 0.4, 0.6, 0.8)
"""Upper ends of the buckets, as fractions of an element; 0 and 1 are buckets of their own."""
BUCKETS = ("0 %", "≤ 20 %", "≤ 40 %", "≤ 60 %", "≤ 80 %", "< 100 %", "100 %")


def describe(arrays: dict[str, np.ndarray], targets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the distribution as the manifest stores it, as plain data.

    Returns
    -------
    dict
        ``targets`` {name: mean, std, missing} per component, NaN ignored, std over all values (ddof = 0); ``atoms``
        {minimum, mean, maximum} per sample; ``elements`` {proton number: samples in each of :data:`BUCKETS`}.
    """
    species, fractions = composition(arrays)
    n_atoms = np.diff(arrays["atom_offsets"])
    return {
        "targets": {name: _moments(arrays[f"target_{name}"]) for name in targets},
        "atoms": {"minimum": int(n_atoms.min()), "mean": float(n_atoms.mean()), "maximum": int(n_atoms.max())},
        "elements": {
            str(z): np.bincount(_bucket(fractions[:, k]), minlength=len(BUCKETS)).tolist()
            for k, z in enumerate(species.tolist())
        },
    }


def composition(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the species ``[n_species]`` and every sample's fraction of each, ``[S, n_species]``."""
    species, counts = species_counts(arrays["atomic_numbers"], arrays["atom_offsets"])
    return species, counts / counts.sum(axis=1, keepdims=True)


def _bucket(fraction: np.ndarray) -> np.ndarray:
    """Return the bucket of each fraction; buckets include their upper end."""
    inner = 1 + np.searchsorted(EDGES, fraction, side="left")
    return np.where(fraction == 0, 0, np.where(fraction == 1, len(BUCKETS) - 1, inner))


def _moments(values: np.ndarray) -> dict[str, list[float]]:
    missing = np.isnan(values).sum(axis=0).tolist()
    return {"mean": np.nanmean(values, axis=0).tolist(), "std": np.nanstd(values, axis=0).tolist(), "missing": missing}
