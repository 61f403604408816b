"""Inputs and references that a campaign requires besides scaled values, and how they were computed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from hydragnn_hpc.records.base import Count, FileRecord, Level

ReferenceKind = Literal["composition", "species", "linear", "range"]
"""Those that a campaign may set, and ``range``: the least value, with the residual divided by the range of values."""


class RequiredInput(FileRecord):
    """A node input.

    Attributes
    ----------
    name : str
    number : int or None
        Number of shells; None for other inputs.
    powers : int or None
        ``ewald``: highest power of the electrostatic potential; None for other inputs.
    """

    name: str
    number: Count | None = None
    powers: Count | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in plain(self).items() if value is not None}


class ReferencedTask(FileRecord):
    """A task that has a reference, or is scaled by the range of the samples that it is fitted to."""

    name: str
    field: str
    level: Level
    reference: ReferenceKind


class FittedSamples(FileRecord):
    """The part of the training set that is trained on, and that everything is fitted to.

    Attributes
    ----------
    number : int or None
        How many samples; None for the whole training set.
    seed : int
        The campaign's; it decides which samples a smaller part has.
    """

    number: Count | None
    seed: int


class Requirements(FileRecord):
    """What is computed for a campaign when its data set is staged.

    Attributes
    ----------
    tasks : tuple of ReferencedTask
        Those that have a reference; with ``fitted_to``, all that are not vectors.
    classes : int
        The fewest classes of samples equivalent by symmetry that the training and validation sets may have together;
        0 where classes are not needed.
    fitted_to : FittedSamples or None
        None where inputs and references are fitted to the training set, and tasks without a reference keep the data
        set's scaling.
    """

    inputs: tuple[RequiredInput, ...] = (RequiredInput(name="species"),)
    tasks: tuple[ReferencedTask, ...] = ()
    classes: Count = 0
    fitted_to: FittedSamples | None = None


class Shells(FileRecord):
    """Distances from a site, grouped into shells or bins.

    Attributes
    ----------
    kind : str
    radii : list of float
        Mean distance of each shell, or centre of each bin, bohr.
    bounds : list of float
        ``shells``: where each begins, and where the last ends. ``radial``: the Gaussians' width and the end, bohr.
    """

    kind: Literal["shells", "radial"]
    radii: list[float]
    bounds: list[float]


class InputRecipe(FileRecord):
    """How node inputs are computed: fitted to one data set, stored with the models trained on it.

    Attributes
    ----------
    names : list of str
        The inputs required, in order.
    elements : list of int
        Proton numbers, ascending.
    species : list of float
        Lowest and highest proton number, scaled to 0 and 1.
    shells : Shells or None
    columns : list of str
        Names of the columns kept.
    kept : list of int
        Their indices among all columns.
    mean, scale : list of float
        Each kept column has its mean subtracted, and is divided by its scale.
    powers : int
        ``ewald``: highest power of the electrostatic potential.
    """

    names: list[str]
    elements: list[Count]
    species: list[float]
    shells: Shells | None = None
    columns: list[str] = Field(default_factory=list)
    kept: list[Count] = Field(default_factory=list)
    mean: list[float] = Field(default_factory=list)
    scale: list[float] = Field(default_factory=list)
    powers: Count = 1

    @property
    def species_only(self) -> bool:
        """Whether there is nothing to compute: the scaled proton number is the only input."""
        return self.names == ["species"]


class FittedReference(FileRecord):
    """A reference as fitted to the training set, or to the part of it that is trained on.

    Shapes are in terms of n compositions, K elements, F inputs, and d components of the target.

    Attributes
    ----------
    kind, level : str
        ``composition``, ``species``, ``linear`` or ``range``; ``graph`` or ``node``.
    elements : list of int
        Proton numbers, ascending.
    compositions : list of list of float
        ``composition`` and ``linear``: compositions of the training set, ``[n, K]``.
    values : list
        ``composition``: means ``[n, K or 1, d]``, NaN where no value is known; ``linear``: intercepts of the same
        shape; ``species``: means ``[K, d]`` at node level, at graph level ``[1 + K, d]``: a constant, and the
        contribution of an atom of each element; ``range``: the least value ``[1, d]``.
    scale : list of float
        ``[d]``, standard deviation of the residual; ``range``: the difference of the greatest and the least value.
    slopes : list
        ``linear``: at node level ``[n, K, F, d]``, one per element and input; at graph level ``[n, 1, K F, d]``.
    """

    model_config = ConfigDict(allow_inf_nan=True)

    kind: ReferenceKind
    level: Level
    elements: list[Count]
    compositions: list[list[float]]
    values: list[list[list[float]]] | list[list[float]]
    scale: list[float]
    slopes: list[list[list[list[float]]]] = Field(default_factory=list)


class Recipe(FileRecord):
    """How inputs, and references by task, were computed.

    ``inputs`` is None where nothing beyond scaled values was required.
    """

    inputs: InputRecipe | None = None
    references: dict[str, FittedReference] = Field(default_factory=dict)

    @property
    def computed_inputs(self) -> InputRecipe | None:
        """How inputs are computed; None where the species is the only one."""
        return None if self.inputs is None or self.inputs.species_only else self.inputs

    @model_serializer(mode="wrap")
    def _without_empty(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in plain(self).items() if value}


class StagedRecipe(FileRecord):
    """``ready.json`` of a node-local copy: what was required, and how it was computed."""

    wanted: Requirements
    inputs: InputRecipe
    references: dict[str, FittedReference]
