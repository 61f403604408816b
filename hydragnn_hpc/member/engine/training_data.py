"""Training data of an engine, from the node-local copy of a data set: inputs, targets, neighbours, split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hydragnn_hpc.compositions import species_counts
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.graphs import Neighbours
from hydragnn_hpc.dataset.staged import requirements
from hydragnn_hpc.dataset.staged.copies import CLASSES, StagedData, atoms_of
from hydragnn_hpc.dataset.staged.subset import nested
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.member.engine.resample import Resampled, Split, by_bootstrap, in_folds, split_in_folds
from hydragnn_hpc.records.base import Level
from hydragnn_hpc.records.dataset import Target
from hydragnn_hpc.records.recipe import Recipe
from hydragnn_hpc.sections import Folds


@dataclass(frozen=True)
class SampleGraphs:
    """The graphs of all samples: sizes and neighbours; the letters are those of :mod:`hydragnn_hpc.fields`.

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
    edge_vectors : numpy.ndarray
        ``[E, 3]`` float64, bohr; empty where they are not needed.
    cutoff : float
        Bohr; 0 where it is not needed.
    """

    atom_offsets: np.ndarray
    sample_geometry: np.ndarray
    site_offsets: np.ndarray
    neighbour_offsets: np.ndarray
    neighbours: np.ndarray
    edge_vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    cutoff: float = 0.0

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], cutoff: float) -> SampleGraphs:
        """Return the graphs of a data set's arrays, by name (:mod:`hydragnn_hpc.fields`); ``cutoff`` in bohr."""
        return cls(
            arrays["atom_offsets"],
            arrays["sample_geometry"],
            arrays["geometry_atom_offsets"],
            arrays["neighbour_offsets"],
            arrays["neighbours"],
            arrays["edge_vectors"],
            float(cutoff),
        )

    @property
    def shared_geometry(self) -> bool:
        """Whether all samples decorate one geometry."""
        return len(self.site_offsets) == 2

    def neighbours_key(self, *, vectors: bool) -> str:
        """Return the key (`Neighbours.key`) of the neighbour list that all samples share; empty if they share none."""
        if not self.shared_geometry:
            return ""
        return Neighbours(self.neighbour_offsets, self.neighbours, self.edge_vectors).key(vectors=vectors)

    def degrees(self) -> np.ndarray:
        """Return the number of neighbours of every site, ``[B]`` int64."""
        return np.diff(self.neighbour_offsets)

    def lengths(self, edges: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the lengths of ``edges``, by default all, float64, bohr."""
        lengths: np.ndarray = np.linalg.norm(self.edge_vectors[edges], axis=1)
        return lengths


@dataclass(frozen=True)
class TargetReference:
    """The reference that was subtracted from a task's target, and the scale that divided the residual.

    Attributes
    ----------
    values : numpy.ndarray
        ``[A, d]`` or ``[S, d]`` float32, scaled.
    scale : numpy.ndarray
        ``[d]`` float64.
    """

    values: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class TrainingData:
    """The data that an engine trains on.

    Attributes
    ----------
    graphs : SampleGraphs
    inputs : numpy.ndarray
        ``[A, F0]`` float, scaled node inputs.
    targets : dict
        By task, scaled: ``[A, d]`` at node level, ``[S, d]`` at graph level; NaN where missing. With a reference, the
        residual.
    levels : dict
        By task, ``node`` or ``graph``.
    split : Split
        Of the data set; unless it is divided into folds, the training set is the part that the campaign uses.
    references : dict
        By task, for tasks that have one.
    recipe : Recipe
        How inputs and references were computed: what a trained model needs to be used elsewhere.
    limits : dict
        By task, for vector tasks: the minimum and maximum by which each component was scaled.
    resampled : Resampled or None
        The splits of replicas, where they have their own.
    source_degree : (float, float) or None
        The average degree of the members whose trunk is taken over; None where there are none.
    """

    graphs: SampleGraphs
    inputs: np.ndarray
    targets: Mapping[str, np.ndarray]
    levels: Mapping[str, Level]
    split: Split
    references: Mapping[str, TargetReference] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    limits: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    resampled: Resampled | None = None
    source_degree: tuple[float, float] | None = None

    def split_of(self, replica: int) -> Split:
        """Return the split of a replica."""
        return self.resampled.of(replica) if self.resampled else self.split

    @property
    def epoch_length(self) -> int:
        """Number of training samples in an epoch."""
        return self.resampled.length if self.resampled else len(self.split.train)

    def average_degree(self) -> tuple[float, float]:
        """Return PNA's mean degree and mean log(degree + 1): the source's, or over the atoms of the training set."""
        if self.source_degree is not None:
            return self.source_degree
        s = self.graphs
        uses = np.bincount(s.sample_geometry[self.split.train], minlength=len(s.site_offsets) - 1)
        weight = np.repeat(uses, np.diff(s.site_offsets)).astype(np.float64)
        degrees = s.degrees().astype(np.float64)
        linear = float((weight * degrees).sum() / weight.sum())
        logarithmic = float((weight * np.log(degrees + 1)).sum() / weight.sum())
        # Without any edge the scalers are never used; 1 keeps them finite.
        return linear or 1.0, logarithmic or 1.0


def from_staged(staged: StagedData, campaign: Campaign) -> TrainingData:
    """Make a campaign's training data from a node-local copy; arrays stay memory-mapped.

    Where variants differ in settings, the campaign must be a variant's own (`Campaign.of_variant`).

    Raises
    ------
    UserError
        If the copy was made for other inputs or references.
    """
    required = requirements.of(campaign)
    suitable = staged.meeting(required)
    if suitable is None:
        given = (staged.ready.wanted if staged.ready else requirements.PLAIN).model_dump(mode="json")
        raise UserError(f"the node-local copy was made for other inputs or references ({given}); run the command again")
    arrays, ready, recipe = suitable.arrays, suitable.ready, Recipe()
    if ready:
        referenced = {task.name: ready.references[task.name] for task in required.tasks}
        recipe = Recipe(inputs=ready.inputs, references=referenced)
    graphs = SampleGraphs.of(arrays, staged.manifest.neighbours.cutoff_bohr)
    split, resampled = _split(arrays, campaign)
    references = {
        name: TargetReference(arrays[f"reference_{name}"], np.array(fitted.scale))
        for name, fitted in recipe.references.items()
    }
    return TrainingData(
        graphs,
        arrays["node_inputs"],
        {
            name: arrays[f"residual_{name}" if name in references else f"scaled_{task.field}"]
            for name, task in campaign.tasks.items()
        },
        {name: task.level for name, task in campaign.tasks.items()},
        split,
        references,
        recipe,
        vector_limits(campaign, {name: staged.manifest.targets[t.field] for name, t in campaign.tasks.items()}),
        resampled,
    )


def _split(arrays: Mapping[str, np.ndarray], campaign: Campaign) -> tuple[Split, Resampled | None]:
    """Return the split that a campaign's variant uses, and those of its replicas, if they have their own."""
    training, seed = campaign.training, campaign.seed
    numbers, atom_offsets = arrays["atomic_numbers"], arrays["atom_offsets"]
    split = Split(*(np.flatnonzero(arrays["split"] == k) for k in range(3)))

    def chosen(train: np.ndarray) -> np.ndarray:
        return train if training.samples == "all" else nested(train, training.samples, numbers, atom_offsets, seed)

    if isinstance(training.resample, Folds):
        counts = species_counts(numbers, atom_offsets)[1]
        pool = np.sort(np.concatenate([split.train, split.validation]))
        folds = split_in_folds(pool, training.resample.folds, arrays[CLASSES], counts, seed)
        return split, in_folds(folds, split.test, chosen)
    split = split._replace(train=chosen(split.train))
    return split, by_bootstrap(split, arrays[CLASSES], seed) if training.resample == "bootstrap" else None


def vector_limits(campaign: Campaign, targets: Mapping[str, Target]) -> dict[str, tuple[tuple[float, float], ...]]:
    """Return the minimum and maximum of each component of the vector tasks; ``targets`` by task."""
    return {
        name: tuple(zip(targets[name].minimum, targets[name].maximum, strict=True))
        for name, task in campaign.tasks.items()
        if task.vector
    }


def span_of(target: Target) -> np.ndarray:
    """Return the difference between a target's maximum and minimum, ``[d]`` float64 in its unit."""
    span: np.ndarray = np.array(target.maximum) - np.array(target.minimum)
    return span


def to_units(values: np.ndarray, target: Target) -> np.ndarray:
    """Undo a target's scaling: ``[..., d]`` scaled to float64 in its unit."""
    unscaled: np.ndarray = values.astype(np.float64) * span_of(target) + np.array(target.minimum)
    return unscaled


def rows_of(data: TrainingData, task: str, samples: np.ndarray) -> np.ndarray:
    """Return a task's rows for these ``samples``: their atoms in order, or the samples themselves."""
    if data.levels[task] == "graph":
        return samples
    return atoms_of(data.graphs.atom_offsets, samples)


def values_of(data: TrainingData, task: str, samples: np.ndarray) -> np.ndarray:
    """Return a task's targets for these ``samples``: rows of their atoms in order, or one row per sample."""
    return np.asarray(data.targets[task][rows_of(data, task, samples)])


def with_reference(data: TrainingData, task: str, samples: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Add a task's reference to a network's output for these ``samples``; return scaled values of the property."""
    reference = data.references.get(task)
    if reference is None:
        return values
    scaled: np.ndarray = values * reference.scale + reference.values[rows_of(data, task, samples)]
    return scaled
