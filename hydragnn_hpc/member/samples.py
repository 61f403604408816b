"""A node-local copy of the data set as what an engine trains on: inputs, targets, neighbours, parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.stage import StagedData, atoms_of
from hydragnn_hpc.dataset.store import Manifest


@dataclass(frozen=True)
class Structure:
    """Sizes and neighbours; the letters are those of :mod:`hydragnn_hpc.fields`.

    Attributes
    ----------
    atom_offsets : numpy.ndarray
        ``[S + 1]`` int64.
    sample_geometry : numpy.ndarray
        ``[S]`` int32.
    site_offsets : numpy.ndarray
        ``[G + 1]`` int64.
    neighbour_offsets, neighbours : numpy.ndarray
        ``[B + 1]`` int64, ``[E]`` int32.
    """

    atom_offsets: np.ndarray
    sample_geometry: np.ndarray
    site_offsets: np.ndarray
    neighbour_offsets: np.ndarray
    neighbours: np.ndarray

    @property
    def shared_geometry(self) -> bool:
        """Whether all samples decorate one geometry."""
        return len(self.site_offsets) == 2

    def degrees(self) -> np.ndarray:
        """``[B]`` int64: neighbours of every site."""
        return np.diff(self.neighbour_offsets)


@dataclass(frozen=True)
class Samples:
    """What an engine trains on.

    Attributes
    ----------
    structure : Structure
    inputs : numpy.ndarray
        ``[A, F0]`` float, scaled node inputs.
    targets : dict
        By task, scaled: ``[A, d]`` at node level, ``[S, d]`` at graph level; NaN where missing.
    levels : dict
        By task, ``node`` or ``graph``.
    parts : tuple of numpy.ndarray
        Sample numbers of the training, validation and test part, ascending.
    """

    structure: Structure
    inputs: np.ndarray
    targets: Mapping[str, np.ndarray]
    levels: Mapping[str, str]
    parts: tuple[np.ndarray, np.ndarray, np.ndarray]

    def average_degree(self) -> tuple[float, float]:
        """Return PNA's mean degree and mean log(degree + 1) over the atoms of the training part."""
        s = self.structure
        uses = np.bincount(s.sample_geometry[self.parts[0]], minlength=len(s.site_offsets) - 1)
        weight = np.repeat(uses, np.diff(s.site_offsets)).astype(np.float64)
        degrees = s.degrees().astype(np.float64)
        linear = float((weight * degrees).sum() / weight.sum())
        logarithmic = float((weight * np.log(degrees + 1)).sum() / weight.sum())
        # Without any edge the scalers are never used; 1 keeps them finite.
        return linear or 1.0, logarithmic or 1.0

    def missing(self) -> bool:
        """Whether any target value is missing."""
        return any(bool(np.isnan(values).any()) for values in self.targets.values())


def from_staged(staged: StagedData, campaign: Campaign) -> Samples:
    """Take what a campaign's tasks need from a node-local copy; nothing is copied, arrays stay mapped."""
    a = staged.arrays
    structure = Structure(
        a["atom_offsets"], a["sample_geometry"], a["geometry_atom_offsets"], a["neighbour_offsets"], a["neighbours"]
    )
    parts = tuple(np.flatnonzero(a["split"] == k) for k in range(3))
    return Samples(
        structure,
        a["node_inputs"],
        {name: a[f"scaled_{task.field}"] for name, task in campaign.tasks.items()},
        {name: task.level for name, task in campaign.tasks.items()},
        (parts[0], parts[1], parts[2]),
    )


def to_units(values: np.ndarray, manifest: Manifest, field: str) -> np.ndarray:
    """Undo a target's scaling: ``[..., d]`` scaled to float64 in its unit."""
    target = manifest.targets[field]
    low, high = np.array(target["minimum"]), np.array(target["maximum"])
    unscaled: np.ndarray = values.astype(np.float64) * (high - low) + low
    return unscaled


def values_of(samples: Samples, task: str, chosen: np.ndarray) -> np.ndarray:
    """Return a task's scaled truth for ``chosen`` samples: rows of their atoms in order, or one row a sample."""
    values = samples.targets[task]
    if samples.levels[task] == "graph":
        return np.asarray(values[chosen])
    return np.asarray(values[atoms_of(samples.structure.atom_offsets, chosen)])
