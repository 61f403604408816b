"""The features that a trained trunk computes, averaged over a structure's atoms, and their distribution.

The trunk is applied with a single graph-level head, the identity, in place of its own, so that every engine computes
its features. The distance of a structure from the training set is the Mahalanobis distance of its features,

    d^2 = (x - mean)^T C^-1 (x - mean),

with the covariance C of the training set, shrunk towards the multiple of the identity of the same trace, by as much as
Ledoit and Wolf (J. Multivar. Anal. 88, 365 (2004)) estimate. C is then regular even where features are always zero or
depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.graphs import Neighbours
from hydragnn_hpc.dataset.read.gathered import offsets_of
from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.member.engine.training_data import TrainingData
from hydragnn_hpc.member.predict import Graphs, StackedModels
from hydragnn_hpc.member.training.checkpoint import TrainedModel
from hydragnn_hpc.records.model import ModelTask
from hydragnn_hpc.sections import Task, Variant

MOST_SAMPLES, MOST_ATOMS = 20_000, 250_000
"""At most this much of the training set, evenly spaced in its order, is used for the distribution: a bound on time."""
BATCH_ATOMS = 65_536
"""Atoms whose features are computed at once: a bound on memory."""
QUANTILES = 1001
"""Number of quantiles that describe the distances within the training set."""
LEAST_SHRINKAGE = 1e-4
"""Keeps the covariance regular in float64 where the estimated shrinkage is zero."""
_NAME = "features"


@dataclass(frozen=True)
class FeatureDistribution:
    """The distribution of features over the training set, and its range of sizes; the arrays of ``features.npz``.

    Attributes
    ----------
    mean : numpy.ndarray
        ``[F]``.
    whitening : numpy.ndarray
        ``[F, F]``: the norm of ``whitening @ (x - mean)`` is the distance of x.
    distances : numpy.ndarray
        ``[QUANTILES]``: quantiles of the training set's own distances at equal steps, from the smallest to the largest.
    atoms : numpy.ndarray
        ``[2]``: the smallest and the largest number of atoms of a structure.
    """

    mean: np.ndarray
    whitening: np.ndarray
    distances: np.ndarray
    atoms: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, atoms: np.ndarray) -> FeatureDistribution:
        """Estimate the distribution from features ``[S, F]``, and take the range of numbers of ``atoms``."""
        values = features.astype(np.float64)
        mean = values.mean(axis=0)
        whitening = np.linalg.inv(np.linalg.cholesky(_shrunk_covariance(values - mean)))
        without_distances = cls(mean, whitening, np.zeros(0), np.array([atoms.min(), atoms.max()]))
        distances = np.linalg.norm(without_distances.whitened(values), axis=1)
        return replace(without_distances, distances=np.quantile(distances, np.linspace(0, 1, QUANTILES)))

    def whitened(self, features: np.ndarray) -> np.ndarray:
        """Return coordinates ``[S, F]`` in which the training set has about unit covariance, row by row."""
        centred = features.astype(np.float64) - self.mean
        return np.asarray(np.einsum("sf,gf->sg", centred, self.whitening, optimize=False))

    def quantile(self, distance: np.ndarray) -> np.ndarray:
        """Return the share of the training set that is nearer than each ``distance``, ``[S]``; 1 beyond all of it."""
        return np.asarray(np.interp(distance, self.distances, np.linspace(0, 1, len(self.distances))))


class Trunk:
    """The trunk of one trained model.

    Parameters
    ----------
    campaign : Campaign
    variant : str
        Of the model.
    model : TrainedModel
    device : str or torch.device
        As for :class:`StackedModels`.
    """

    def __init__(self, campaign: Campaign, variant: str, model: TrainedModel, device: str | torch.device) -> None:
        own = campaign.of_variant(campaign.variant(variant))
        width = own.model.channels
        changes = {
            "tasks": {_NAME: Task(level="graph", field=_NAME)},
            "variants": (Variant(name=_NAME, tasks=(_NAME,)),),
            "model": own.model.model_copy(update={"pooling": "mean", "graph_head": ()}),
        }
        limits = {"minimum": [0.0] * width, "maximum": [1.0] * width}
        task = ModelTask(level="graph", unit="", label=_NAME, width=width, missing=0, field=_NAME, **limits)
        facts = model.facts.model_copy(update={"tasks": {_NAME: task}})
        weights = {name: value for name, value in model.weights.items() if not name.startswith("heads.")}
        weights |= {f"heads.{_NAME}.0.weight": torch.eye(width), f"heads.{_NAME}.0.bias": torch.zeros(width)}
        trunk = TrainedModel(facts, weights)
        self._models = StackedModels(own.model_copy(update=changes), _NAME, [trunk], device)

    def features(self, graphs: Graphs) -> np.ndarray:
        """Return the mean over atoms of the last layer's features, ``[S, F]`` float32."""
        features: np.ndarray = self._models.scaled(graphs)[_NAME][0]
        return features


def training_features(
    trunk: Trunk, data: TrainingData, alive: Callable[[], None] = lambda: None
) -> FeatureDistribution:
    """Return the distribution of a trunk's features over the training set, or over a part of a large one.

    ``alive`` is called after each batch.
    """
    train, atoms = data.split.train, np.diff(data.graphs.atom_offsets)
    most = min(MOST_SAMPLES, int(MOST_ATOMS // atoms[train].mean()) + 1)
    chosen = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), most)).astype(np.int64))]
    ends = np.cumsum(atoms[chosen])
    batches = np.split(chosen, np.flatnonzero(np.diff(ends // BATCH_ATOMS)) + 1)
    features = []
    for batch in batches:
        features.append(trunk.features(_graphs(data, batch)))
        alive()
    return FeatureDistribution.of(np.concatenate(features), atoms[train])


def _graphs(data: TrainingData, chosen: np.ndarray) -> Graphs:
    """Return the graphs of ``chosen`` samples."""
    s = data.graphs
    geometries, sample_geometry = np.unique(s.sample_geometry[chosen], return_inverse=True)
    return Graphs(
        [_neighbours(data, int(geometry)) for geometry in geometries],
        sample_geometry.astype(np.int32),
        offsets_of(np.diff(s.atom_offsets)[chosen]),
        np.asarray(data.inputs[atoms_of(s.atom_offsets, chosen)]),
    )


def _neighbours(data: TrainingData, geometry: int) -> Neighbours:
    s = data.graphs
    first, end = s.site_offsets[geometry : geometry + 2].tolist()
    edges = slice(int(s.neighbour_offsets[first]), int(s.neighbour_offsets[end]))
    offsets = np.asarray(s.neighbour_offsets[first : end + 1]) - edges.start
    return Neighbours(offsets, np.asarray(s.neighbours[edges]), np.asarray(s.edge_vectors[edges]))


def _shrunk_covariance(centred: np.ndarray) -> np.ndarray:
    """Return the covariance of ``[S, F]``, shrunk towards a multiple of the identity."""
    samples, width = centred.shape
    covariance = np.einsum("sf,sg->fg", centred, centred) / samples
    scale = np.trace(covariance) / width
    target = (scale or 1.0) * np.eye(width)
    squared_distance = ((covariance - target) ** 2).sum()
    noise = ((centred**2).sum(axis=1) ** 2).sum() / samples**2 - (covariance**2).sum() / samples
    shrinkage = min(1.0, max(LEAST_SHRINKAGE, noise / squared_distance if squared_distance else 1.0))
    return np.asarray((1 - shrinkage) * covariance + shrinkage * target)
