"""How far structures are from those that an ensemble was trained on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.member.features import QUANTILES, FeatureDistribution, Trunk
from hydragnn_hpc.member.predict import Graphs
from hydragnn_hpc.member.training.checkpoint import TrainedModel
from hydragnn_hpc.paths import CampaignFolder, read_arrays


@dataclass(frozen=True)
class Distances:
    """Distances of some structures from the training set.

    Attributes
    ----------
    distance : numpy.ndarray
        ``[S]``: the Mahalanobis distance of the features (:mod:`hydragnn_hpc.member.features`).
    quantile : numpy.ndarray
        ``[S]``: the share of the training set (of a sample of it, if it is large) that is nearer to the mean; 1 for a
        structure that is farther than all of these.
    features : numpy.ndarray
        ``[S, F]``: the features in coordinates in which the distance is Euclidean, from the mean or from one another.
    """

    distance: np.ndarray
    quantile: np.ndarray
    features: np.ndarray


class DistanceFromTraining:
    """Distances in one member's features, whose distribution over the training set its worker has saved.

    Parameters
    ----------
    folder : CampaignFolder
    campaign : Campaign
    member : Member
    model : TrainedModel
    device : {"auto", "cpu", "cuda", "xpu"}

    Attributes
    ----------
    largest : float
        The largest distance in the training set, or in that sample of it.
    atoms : tuple of int
        The smallest and the largest number of atoms of a structure of the training set.

    Raises
    ------
    UserError
        If the distribution was not saved, cannot be read, or does not fit the model.
    """

    def __init__(
        self,
        folder: CampaignFolder,
        campaign: Campaign,
        member: Member,
        model: TrainedModel,
        device: str,
    ) -> None:
        path = folder.member(member.variant, member.replica).features
        arrays = read_arrays(path)
        if arrays is None:
            raise UserError(f"{member.name} has no {path.name} (imported, or memory was lacking)")
        _check(path, arrays, model.facts.model["channels"])
        self._known = FeatureDistribution(**{field.name: arrays[field.name] for field in fields(FeatureDistribution)})
        self.largest = float(self._known.distances[-1])
        low, high = self._known.atoms
        self.atoms = (int(low), int(high))
        self._trunk = Trunk(campaign, member.variant, model, device)

    def of(self, structures: UnseenStructures) -> Distances:
        """Return the distances of some structures."""
        features = self._known.whitened(self._trunk.features(Graphs.of(structures)))
        distance = np.sqrt(np.einsum("sf,sf->s", features, features, optimize=False))
        return Distances(distance, self._known.quantile(distance), features)


def _check(path: Path, arrays: dict[str, np.ndarray], width: int) -> None:
    """Refuse a file of features with other arrays than those of a trunk whose last layer has this width."""
    remedy = "remove the member's folder and run again"
    shapes = {"mean": (width,), "whitening": (width, width), "distances": (QUANTILES,), "atoms": (2,)}
    for name, shape in shapes.items():
        if name not in arrays:
            raise UserError(f"{path} lacks '{name}'; {remedy}")
        array = arrays[name]
        if array.shape != shape or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            expected = f"finite numbers of shape {list(shape)}"
            raise UserError(f"{path}: '{name}' is {array.dtype} of shape {list(array.shape)}, not {expected}; {remedy}")
