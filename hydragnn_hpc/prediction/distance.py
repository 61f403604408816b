"""How far structures are from those that an ensemble was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.member.features import FeatureDistribution, Trunk
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
        ``[S]``: the share of the training set (of a sample of it, if it is large) that is nearer to its mean; 1 for
        what is farther than all of these.
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
        The largest distance within the training set, or that sample of it.
    atoms : tuple of int, or None
        The smallest and the largest number of atoms of a structure of the training set; not known in earlier versions.

    Raises
    ------
    UserError
        If the distribution was not saved, or cannot be read.
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
            reasons = "trained by an earlier version, imported, or memory was lacking"
            raise UserError(f"{member.name} has no {path.name} ({reasons})")
        try:
            self._known = FeatureDistribution(arrays["mean"], arrays["whitening"], arrays["distances"])
        except KeyError as error:
            raise UserError(f"{path} lacks {error}; remove the member's folder and run again") from error
        self.largest = float(self._known.distances[-1])
        low, high = arrays.get("atoms", (0, 0))
        self.atoms = (int(low), int(high)) if high else None
        self._trunk = Trunk(campaign, member.variant, model, device)

    def of(self, structures: UnseenStructures) -> Distances:
        """Return the distances of some structures."""
        features = self._known.whitened(self._trunk.features(Graphs.of(structures)))
        distance = np.sqrt(np.einsum("sf,sf->s", features, features, optimize=False))
        return Distances(distance, self._known.quantile(distance), features)
