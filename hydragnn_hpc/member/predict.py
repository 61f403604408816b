"""The models of one variant applied to new structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.dataset.graphs import Neighbours
from hydragnn_hpc.dataset.read.gathered import offsets_of
from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.member.choose import general_engine, network_sizes, why_not_fused
from hydragnn_hpc.member.device import arithmetic, choose_device
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.losses import mean_and_noise
from hydragnn_hpc.member.engine.resample import Split
from hydragnn_hpc.member.engine.training_data import SampleGraphs, TrainingData, span_of, to_units, vector_limits
from hydragnn_hpc.member.fused.engine import FusedEngine
from hydragnn_hpc.member.training.checkpoint import TrainedModel


@dataclass(frozen=True)
class Graphs:
    """Structures as a network takes them.

    Attributes
    ----------
    neighbours : list of Neighbours
        Of the distinct geometries.
    sample_geometry : numpy.ndarray
        ``[S]`` int32.
    atom_offsets : numpy.ndarray
        ``[S + 1]`` int64.
    inputs : numpy.ndarray
        ``[A, F0]`` float32.
    """

    neighbours: list[Neighbours]
    sample_geometry: np.ndarray
    atom_offsets: np.ndarray
    inputs: np.ndarray

    @classmethod
    def of(cls, structures: UnseenStructures) -> Graphs:
        """Return the graphs of new structures."""
        lists = [geometry.neighbours for geometry in structures.geometries]
        return cls(lists, structures.sample_geometry, structures.atom_offsets, structures.inputs)

    def __len__(self) -> int:
        return len(self.sample_geometry)


class StackedModels:
    """Trained models of one variant, which predict together.

    On a CPU the fused engine predicts, if it can run: with samples as vector lanes where a structure has the neighbour
    list that all training samples shared, with features as lanes everywhere else, so that a structure's values have the
    same bits whatever is predicted with it. With a general engine, the last digits of float32 may depend on the batch.

    Parameters
    ----------
    campaign : Campaign
    variant : str
    models : sequence of TrainedModel
    device : {"auto", "cpu", "cuda", "xpu"} or torch.device

    Raises
    ------
    UserError
        If there is no such device; from `predict` and `scaled`, if the models' weights do not fit the network.
    """

    def __init__(
        self, campaign: Campaign, variant: str, models: Sequence[TrainedModel], device: str | torch.device
    ) -> None:
        self._campaign = campaign.of_variant(campaign.variant(variant))
        self._variant = self._campaign.variants[0]
        self._models, self._facts = models, models[0].facts
        self._device = choose_device(device, 0, setting="device") if isinstance(device, str) else device
        self._parameters = self._buffers = torch.empty(0)

    def predict(self, structures: UnseenStructures) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        """Return every member's values of every task, and their noise, in the task's unit.

        Returns
        -------
        dict
            By task, ``[E, A, d]`` or, at graph level, ``[E, S, d]`` float64; references that training subtracted are
            added back. The noise, a standard deviation, is None for a task whose loss has none.
        """
        scaled, predicted = self.scaled(Graphs.of(structures)), {}
        for task in self._variant.tasks:
            target, fitted = self._facts.tasks[task], self._facts.ready.references.get(task)
            values, noise = mean_and_noise(scaled[task].astype(np.float64), len(target.minimum))
            if fitted:
                values = values * np.array(fitted.scale) + structures.reference(fitted)
                noise = None if noise is None else noise * np.array(fitted.scale)
            predicted[task] = to_units(values, target), None if noise is None else noise * span_of(target)
        return predicted

    def scaled(self, graphs: Graphs) -> dict[str, np.ndarray]:
        """Return the networks' outputs: by task, ``[E, rows, outputs]`` float32 (`TaskSizes`), rows as in `predict`."""
        with arithmetic(self._campaign.launch.threads):
            return self._scaled(graphs)

    def _scaled(self, graphs: Graphs) -> dict[str, np.ndarray]:
        every, model = np.arange(len(graphs)), self._campaign.model
        data = self._data(graphs, every, graphs.neighbours)
        linear, logarithmic = self._facts.average_degree
        sizes = network_sizes(self._campaign, self._variant, data, (linear, logarithmic))
        if self._campaign.training.engine == "torch" or why_not_fused(model, sizes, self._device):
            return self._apply(general_engine(model, sizes, data, self._device), len(graphs))
        rows = {"node": int(graphs.atom_offsets[-1]), "graph": len(graphs)}
        scaled = {t.name: np.empty((len(self._models), rows[t.level], t.outputs), np.float32) for t in sizes.tasks}
        for chosen, lists, shared in self._groups(graphs):
            engine = FusedEngine(sizes, self._data(graphs, chosen, lists), shared=shared)
            places = {"node": atoms_of(graphs.atom_offsets, chosen), "graph": chosen}
            for task, values in self._apply(engine, len(chosen)).items():
                scaled[task][:, places[data.levels[task]]] = values
        return scaled

    def _groups(self, graphs: Graphs) -> Iterator[tuple[np.ndarray, list[Neighbours], bool]]:
        """Group structures by how they are predicted: yield their numbers, their lists, and whether they share one.

        To a network without edge features, all structures with the neighbour list of training share a geometry.
        """
        known, vectors = self._facts.geometry, self._campaign.model.edges is not None
        lists = graphs.neighbours
        alike = np.array([bool(known) and own.key(vectors=vectors) == known for own in lists])
        others = np.flatnonzero(~alike[graphs.sample_geometry])
        if len(others):
            yield others, lists, False
        same = np.flatnonzero(alike)
        for geometries in same[:, None] if vectors else [same]:
            chosen = np.flatnonzero(np.isin(graphs.sample_geometry, geometries))
            if len(chosen):
                yield chosen, [lists[geometries[0]]], True

    def _apply(self, engine: Engine, samples: int) -> dict[str, np.ndarray]:
        if not len(self._parameters):
            layout = engine.layout
            self._parameters = torch.stack([layout.flat(m.weights) for m in self._models]).to(self._device)
            self._buffers = torch.stack([layout.flat_buffers(m.weights) for m in self._models]).to(self._device)
        values = engine.predict(self._parameters, self._buffers, np.arange(samples))
        return {task: value.cpu().numpy() for task, value in values.items()}

    def _data(self, graphs: Graphs, chosen: np.ndarray, lists: list[Neighbours]) -> TrainingData:
        """Return ``chosen`` structures without targets; ``lists`` are of all geometries, or the one they share."""
        sizes = np.diff(graphs.atom_offsets)[chosen]
        chosen_graphs = SampleGraphs(
            offsets_of(sizes),
            graphs.sample_geometry[chosen] if len(lists) > 1 else np.zeros(len(chosen), np.int32),
            offsets_of([len(graph.offsets) - 1 for graph in lists]),
            offsets_of(np.concatenate([np.diff(graph.offsets) for graph in lists])),
            np.concatenate([graph.neighbours for graph in lists]),
            np.concatenate([graph.vectors for graph in lists]),
            self._facts.neighbours.cutoff_bohr,
        )
        levels = {task: self._campaign.tasks[task].level for task in self._variant.tasks}
        rows = {"node": int(sizes.sum()), "graph": len(chosen)}
        # Of targets, only the width is used.
        targets = {
            task: np.zeros((rows[level], len(self._facts.tasks[task].minimum)), np.float32)
            for task, level in levels.items()
        }
        none = np.empty(0, np.int64)
        limits = vector_limits(self._campaign, self._facts.tasks)
        inputs = graphs.inputs[atoms_of(graphs.atom_offsets, chosen)]
        return TrainingData(chosen_graphs, inputs, targets, levels, Split(none, none, none), limits=limits)
