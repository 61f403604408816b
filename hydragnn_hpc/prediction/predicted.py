"""What an ensemble predicts for structures, and how far they are from its training set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.prediction.distance import DistanceFromTraining, Distances
from hydragnn_hpc.prediction.ensemble import Ensemble, TaskPrediction

DISTANCES = ("distance", "distance_quantile")


@dataclass(frozen=True)
class Predicted:
    """What one ensemble predicts for a batch; ``distances`` is None where they are not known."""

    tasks: Mapping[str, TaskPrediction]
    distances: Distances | None

    def distance_of(self, number: int) -> tuple[float, ...]:
        """Return the values of :data:`DISTANCES` for a structure; empty where they are not known."""
        if self.distances is None:
            return ()
        return float(self.distances.distance[number]), float(self.distances.quantile[number])


class Predictor:
    """Applies an ensemble to batch after batch, and counts what lies beyond its training set."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        self._distance: DistanceFromTraining | None = None
        self._why_no_distance = ""
        try:
            self._distance = ensemble.distance_from_training
        except UserError as error:
            self._why_no_distance = str(error)
        self._count = self._beyond = self._other_size = 0

    def __call__(self, structures: UnseenStructures) -> Predicted:
        """Predict a batch."""
        distances = None
        if self._distance is not None:
            distances = self._distance.of(structures)
            low, high = self._distance.atoms
            atoms = np.diff(structures.atom_offsets)
            self._other_size += int(np.count_nonzero((atoms < low) | (atoms > high)))
            self._count += len(structures)
            self._beyond += int(np.count_nonzero(distances.quantile == 1.0))
        return Predicted(self.ensemble.apply(structures), distances)

    def remarks(self) -> Iterator[str]:
        """Yield lines: why intervals or distances could not be computed, how many predictions are extrapolations."""
        name = self.ensemble.variant
        if line := self.ensemble.calibration.remark(self.ensemble.level):
            yield f"{name}: {line}"
        if self._distance is None:
            yield f"{name}: no distances from the training set: {self._why_no_distance}"
            return
        if self._beyond:
            yield (
                f"{name}: {self._beyond:,} of {self._count:,} structures are farther from the training set's mean than"
                f" all that were sampled from it (distance above {self._distance.largest:.3g}); their predictions are"
                " extrapolations"
            )
        if self._other_size:
            low, high = self._distance.atoms
            yield (
                f"{name}: {self._other_size:,} of {self._count:,} structures have fewer or more atoms than those of the"
                f" training set ({low}{f' to {high}' if high > low else ''}); distances compare only structures of"
                " like size"
            )
