"""``dataset.json`` of a campaign's folder: properties of its data, and the errors of the baselines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hydragnn_hpc.records.base import Count, FileRecord, Level, NonNegative
from hydragnn_hpc.records.dataset import NumberRange

ENOUGH_VALUES = 10
"""R² of fewer values says little."""
ALIKE = 1e-9
"""Values with a smaller scaled standard deviation are all alike."""


class BaselineErrors(FileRecord):
    """Errors of a baseline, scaled and in the unit; None where there is no value, R² also where all are alike."""

    rmse: NonNegative | None
    mae: NonNegative | None
    rmse_unit: NonNegative | None
    mae_unit: NonNegative | None
    r2: float | None


class PartSummary(FileRecord):
    """A target in the validation or the test set.

    Attributes
    ----------
    n : int
        Known values.
    std, std_unit : float or None
        Their standard deviation about each component's mean (ddof = 0), scaled and in the unit.
    mean, composition : BaselineErrors
        Of the baselines that `TargetSummary` describes.
    """

    n: Count
    std: NonNegative | None
    std_unit: NonNegative | None
    mean: BaselineErrors
    composition: BaselineErrors

    @property
    def better(self) -> Literal["mean", "composition"]:
        """The baseline with the lower RMSE."""
        mean, composition = self.mean.rmse, self.composition.rmse
        return "mean" if composition is None or (mean is not None and mean <= composition) else "composition"

    def r2(self, rmse_unit: float | None) -> float | None:
        """Return R² of predictions with this RMSE, in the unit; None where it is undefined."""
        return None if rmse_unit is None or not self.std_unit else 1 - (rmse_unit / self.std_unit) ** 2

    def is_beaten_by(self, rmse: float) -> bool:
        """Whether a scaled RMSE is below both baselines', and its R² positive where there are enough values for it."""
        # Where all values are alike, there is no R².
        varies = self.std is not None and self.std > ALIKE and self.n >= ENOUGH_VALUES
        bars = [b.rmse for b in (self.mean, self.composition)] + [self.std if varies else None]
        return all(rmse < bar for bar in bars if bar is not None)


class TargetSummary(FileRecord):
    """A target of the data set, and its baselines: predictions without a network.

    ``mean`` is the mean over the training set, by component. ``composition`` is, at graph level, a linear function of
    the composition, by least squares; at node level the mean per element.

    Attributes
    ----------
    minimum, maximum : list of float
        By component, as in the manifest.
    central_range : float
        The share of the scaled range that the central 90 % of the training values span; the smallest of all components.
    form : str
        Of ``composition``: ``per cell`` (in numbers of atoms), ``per atom`` (in fractions) or ``species`` (node level).
    """

    level: Level
    unit: str
    minimum: list[float]
    maximum: list[float]
    central_range: NonNegative
    form: Literal["per cell", "per atom", "species"]
    validation: PartSummary
    test: PartSummary


class DatasetSummary(FileRecord):
    """What reports and remarks need to know about a data set, so that they need not read it.

    Attributes
    ----------
    samples, geometries : int
    distances_differ : bool or None
        Whether geometries differ in the distances between atoms, as the data set's remarks state; None where it has
        none.
    atoms : NumberRange
        Per sample.
    elements : list of int
        Proton numbers, ascending.
    targets : dict
        By field.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    dataset_sha256: str
    samples: Count
    geometries: Count
    distances_differ: bool | None = None
    atoms: NumberRange
    elements: list[Count]
    targets: dict[str, TargetSummary]
