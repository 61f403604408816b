"""The manifest of a data set: written with it, and checked by every reader."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hydragnn_hpc.records.base import Count, FileRecord, Level, NonNegative
from hydragnn_hpc.records.remarks import Remark

Boundary = Literal["open", "periodic", "mixed"]
"""Along the lattice vectors of all geometries; ``mixed`` where they differ."""
ScaledOver = Annotated[str, Field(pattern="^(all|train)$")]
"""The samples that determine the minimum and maximum of targets: all, or the training set."""


class ArrayFacts(FileRecord):
    """The declaration of an array."""

    shape: list[Count]
    dtype: str
    unit: str


class FileFacts(FileRecord):
    """The size and SHA-256 of a file."""

    bytes: Count
    sha256: str


class Target(FileRecord):
    """A target.

    Attributes
    ----------
    width : int
        Number of components.
    minimum, maximum : list of float
        By component, in the unit; they scale the target to 0 to 1.
    missing : int
        Number of missing values.
    """

    level: Level
    unit: str
    label: str
    width: Count
    minimum: list[float]
    maximum: list[float]
    missing: Count


class NumberRange(FileRecord):
    """The smallest and the largest of several proton numbers or counts."""

    minimum: Count
    maximum: Count


class AtomsRange(FileRecord):
    """Number of atoms per sample."""

    minimum: Count
    mean: NonNegative
    maximum: Count


class Moments(FileRecord):
    """Mean, standard deviation (ddof = 0) and number of missing values of a target, by component.

    ``missing`` is None in data sets of earlier versions.
    """

    mean: list[float]
    std: list[float]
    missing: list[Count] | None = None


class Distribution(FileRecord):
    """Distribution of the samples; ``elements`` counts by proton number and bin (`dataset.build.distribution`)."""

    targets: dict[str, Moments]
    atoms: AtomsRange
    elements: dict[str, list[Count]]


class Source(FileRecord):
    """What a data set was made from, and how; fields that earlier versions did not record are None.

    Attributes
    ----------
    read, skipped, repeated, capped, kept : int
        Numbers of samples.
    end_members : dict
        Energy per atom of the pure elements, Ry, by proton number.
    symmetry_classes : int or None
        Number of classes of equivalent samples, where the split determined them.
    split_again_from : str or None
        The content hash of the data set that was split again.
    cell : list of float or None
        The crystal's period where it was given: nine numbers, bohr, rows are vectors.
    """

    path: str
    format: str | None = None
    read: Count
    skipped: Count
    skipped_reasons: list[str]
    repeated: Count
    capped: Count
    kept: Count
    species: list[Count] | None = None
    compositions: Count
    samples_per_composition: NumberRange | None = None
    compositions_too_small_to_split: Count
    end_members: dict[str, float]
    cap: Count
    seed: int
    fractions: list[float]
    symmetry_classes: Count | None = None
    split_by: str | None = None
    split_again_from: str | None = None
    cell: list[float] | None = None


class NeighbourFacts(FileRecord):
    """How neighbours were determined.

    ``fewest`` and ``most``, the numbers of neighbours of a site, are None in data sets of earlier versions and in
    imported models.
    """

    cutoff_bohr: NonNegative
    boundary: Boundary
    fewest: Count | None = None
    most: Count | None = None


class _Contents(FileRecord):
    """The arrays and files of a data set."""

    schema_: Literal[1] = Field(alias="schema")
    sizes: dict[str, Count]
    split: list[Count]
    arrays: dict[str, ArrayFacts]
    files: dict[str, FileFacts]


class DatasetFacts(FileRecord):
    """What the writer of a data set states about it, besides the arrays.

    Attributes
    ----------
    targets : dict
        By name.
    species : NumberRange
        Range of proton numbers.
    distribution : Distribution or None
    remarks : list of Remark or None
        Both are None in data sets of earlier versions.
    """

    targets: dict[str, Target]
    species: NumberRange
    scaled_over: ScaledOver
    distribution: Distribution | None = None
    source: Source
    neighbours: NeighbourFacts
    remarks: list[Remark] | None = None


class Manifest(DatasetFacts, _Contents):
    """``manifest.json``, without its seal.

    Attributes
    ----------
    sizes : dict
        By letter: S samples, A atoms, G geometries, B sites, E edges, N bytes of names.
    split : list of int
        Number of samples in the training, validation and test sets.
    sha256 : str
        Hash of the content: identifies the data set, whatever its folder is called.
    """

    sha256: str

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, without fields that its writer left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


EXPORTED_KEY = "hydragnn_hpc"
"""The key of an exported file's first frame that holds an :class:`ExportedDataset`."""


class ExportedDataset(FileRecord):
    """What an exported file states about the data set that it was made from, so that ``convert`` can restore it.

    Attributes
    ----------
    targets : list of str
        As ``--target`` writes them.
    end_members : dict
        Energy per atom of the pure elements, Ry, by proton number.
    """

    targets: list[str]
    cutoff_bohr: NonNegative
    scaled_over: ScaledOver
    end_members: dict[Annotated[str, Field(pattern="^[0-9]{1,3}$")], float]
