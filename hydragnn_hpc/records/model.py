"""The contents of a member's checkpoints and of its model, except for the tensors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from hydragnn_hpc.records.base import Count, FileRecord, NonNegative
from hydragnn_hpc.records.dataset import NeighbourFacts, NumberRange, Target
from hydragnn_hpc.records.member import Identity, Session
from hydragnn_hpc.records.recipe import Recipe


class ScheduleState(FileRecord):
    """A member's learning rate and early stopping after an epoch (`member.training.schedule.Schedule`)."""

    model_config = ConfigDict(allow_inf_nan=True)

    rate: NonNegative
    best: float
    best_epoch: Count
    plateau_best: float
    num_bad_epochs: Count


class CheckpointFacts(FileRecord):
    """A checkpoint without its tensors; ``history`` has a row per epoch, in the columns of `HISTORY`."""

    model_config = ConfigDict(allow_inf_nan=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    identity: Identity
    schedule: ScheduleState
    history: list[list[int | float]]
    sessions: list[Session]


class ModelTask(Target):
    """A task: its target, and that target's field in the data set."""

    field: str


class ModelSpecies(NumberRange):
    """Proton numbers: the range that was scaled, and those in the data set (None where it does not state them)."""

    elements: list[Count] | None


class ModelFacts(FileRecord):
    """``model.pt`` without its weights: all that is needed to apply them to other structures.

    Attributes
    ----------
    model : dict
        The campaign's section of that name.
    inputs : int
        Width of the node inputs.
    average_degree : list of float
        Over the atoms of the training set: the mean degree, and the mean of log(degree + 1).
    tasks : dict
        By name.
    ready : Recipe
        How inputs and references are computed.
    geometry : str
        Key of the neighbour list (`dataset.graphs.Neighbours.key`) where all training samples shared one; empty where
        they did not.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    model: dict[str, Any]
    inputs: Count
    average_degree: list[float]
    tasks: dict[str, ModelTask]
    species: ModelSpecies
    neighbours: NeighbourFacts
    ready: Recipe = Recipe()
    geometry: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, without facts on neighbours that the data set does not state."""
        return {**self.model_dump(by_alias=True), "neighbours": self.neighbours.model_dump(exclude_unset=True)}
