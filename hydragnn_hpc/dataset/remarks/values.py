"""Remarks on the values of targets."""

from __future__ import annotations

import numpy as np

from hydragnn_hpc.compositions import fractions_of
from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.read.units import is_energy
from hydragnn_hpc.dataset.remarks import outliers
from hydragnn_hpc.dataset.remarks.view import DataView, Lines
from hydragnn_hpc.fields import RYDBERG_IN_EV

_SIZES_DIFFER = 1.25  # the largest structure has at least this many times the atoms of the smallest
_BETTER = 0.5  # the residual of the right form is less than this share of the other's
_COHESIVE = -0.5 / RYDBERG_IN_EV  # Ry per atom; enthalpies of alloy formation are a few tenths of an eV per atom


def missing(data: DataView) -> Lines:
    """Missing values, which losses and errors leave out."""
    for name, target in data.targets.items():
        if target.missing:
            total = data.arrays[f"target_{name}"].size
            line = (
                f"target '{name}': {target.missing:,} of {total:,} values are missing (NaN, or absent in the source);"
                " losses and errors leave them out"
            )
            yield line, name


def constant(data: DataView) -> Lines:
    """A component with the same value everywhere."""
    for name, target in data.targets.items():
        for k, (low, high) in enumerate(zip(target.minimum, target.maximum, strict=True)):
            if low == high:
                component = f"component {k} of " if target.width > 1 else ""
                line = (
                    f"{component}target '{name}' is constant ({f'{low:g} {target.unit}'.rstrip()}): no campaign can"
                    " be trained on it; leave it out"
                )
                yield line, name
                break


def hidden_by_outliers(data: DataView) -> Lines:
    """Values that min-max scaling hides behind a few others."""
    for name, target in data.targets.items():
        values = data.arrays[f"target_{name}"]
        for d in range(target.width):
            column = np.asarray(values[:, d])
            far = outliers.outlying(column)
            if not far.any():
                continue
            known = column[np.isfinite(column) & ~far]
            samples = np.unique(data.sample_of_rows(name)[far])
            share = np.ptp(known) / (np.nanmax(column) - np.nanmin(column))
            shown = name if target.width == 1 else f"{name}[{d}]"
            line = (
                f"target '{shown}': {np.count_nonzero(far):,} of {len(column):,} values are far from all others, which"
                f" lie between {known.min():.4g} and {known.max():.4g} {target.unit}, {share:.1%} of the scaled range"
                f" ({np.nanmin(column):.4g} to {np.nanmax(column):.4g}), so that scaled errors look small: check"
                f" {data.listed(samples)}, or leave such samples out with --on-outlier skip"
            )
            yield line, name


def per_atom_or_per_cell(data: DataView) -> Lines:
    """An energy per atom declared as one per cell, or the other way round, judged by how it scales with the size."""
    n_atoms = data.counts.sum(axis=1)
    if n_atoms.max() < _SIZES_DIFFER * n_atoms.min():
        return
    for name, target in data.targets.items():
        values, per_atom = data.arrays[f"target_{name}"], target.unit.endswith("/atom")
        if data.read is not None and name == data.read.mixing:
            values = data.read.energies[:, None]
        energy = is_energy(target.unit.removesuffix("/atom"))
        if target.level != "graph" or target.width != 1 or not energy:
            continue
        known = np.isfinite(values[:, 0])
        if np.count_nonzero(known) < 5 * data.counts.shape[1]:
            continue
        grows, stays = (_residual(terms[known], values[known, 0]) for terms in (data.counts, fractions_of(data.counts)))
        if not per_atom and stays < _BETTER * grows:
            line = (
                f"target '{name}': its energies are declared per structure, but do not grow with the number of atoms: a"
                f" linear fit in fractions leaves {stays:.3g} {target.unit}, one in numbers of atoms {grows:.3g}"
                f" {target.unit}; if these are energies per atom, add /atom to the unit in --target"
            )
            yield line, name
        elif per_atom and grows < _BETTER * stays:
            line = (
                f"target '{name}': its energies are declared per atom, but grow with the number of atoms: a linear fit"
                f" in numbers of atoms leaves {grows:.3g} {target.unit}, one in fractions {stays:.3g} {target.unit}; if"
                " these are energies of whole structures, remove /atom from the unit in --target"
            )
            yield line, name


def _residual(terms: np.ndarray, values: np.ndarray) -> float:
    """Return the standard deviation of what a linear fit leaves."""
    coefficients = np.linalg.lstsq(terms.astype(np.float64), values, rcond=None)[0]
    return float(np.std(values - terms @ coefficients))


def end_members(data: DataView) -> Lines:
    """End members that are isolated atoms or clusters, which make mixing enthalpies cohesive energies."""
    if data.read is None or not data.read.mixing:
        return
    name = data.read.mixing
    if data.read.pure_clusters:
        line = (
            f"target '{name}': the end members of {', '.join(data.read.pure_clusters)} come from structures that are"
            " not periodic in three directions, hence not bulk; give the bulk's energy per atom with --end-member"
        )
        yield line, name
        return
    mixed = (data.counts > 0).sum(axis=1) > 1
    per_atom = (data.arrays[f"target_{name}"][:, 0] / data.counts.sum(axis=1))[mixed]
    per_atom = per_atom[np.isfinite(per_atom)]
    if not len(per_atom):
        return
    median = float(np.median(per_atom))
    if median < 2 * _COHESIVE and np.quantile(per_atom, 0.95) < _COHESIVE:
        line = (
            f"the median of target '{name}' is {median * RYDBERG_IN_EV:.3g} eV per atom, as large as a cohesive energy:"
            " the end members look like isolated atoms; give the bulk's energy per atom with --end-member"
        )
        yield line, name


def contradictions(data: DataView) -> Lines:
    """Samples of one structure whose target values differ."""
    pairs = data.read.contradictions if data.read else []
    if pairs:
        line = (
            f"{counted(len(pairs), 'sample')} with the species and sites of another sample, but different target values"
            f" (for example, {pairs[0][0]} repeats {pairs[0][1]}): only one of each is kept; check which is right"
        )
        yield line, None
