"""The models of one variant applied to new structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.build.unseen import Site, UnseenStructures
from hydragnn_hpc.dataset.read.gathered import offsets_of
from hydragnn_hpc.dataset.staged.copies import atoms_of
from hydragnn_hpc.member.choose import general, network_sizes, why_not_fused
from hydragnn_hpc.member.device import choose_device, threads
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.training_data import Structure, TrainingData, vector_limits
from hydragnn_hpc.member.fused.engine import FusedEngine
from hydragnn_hpc.member.training.checkpoint import TrainedModel


class StackedModels:
    """Trained models of one variant, which predict together.

    On a CPU the fused engine takes structures geometry by geometry, if it can run; there a structure's values have the
    same bits whatever is predicted with it. Else one of the general engines takes a whole batch, and the last digits of
    float32 may depend on the batch.

    Parameters
    ----------
    campaign : Campaign
    variant : str
    models : sequence of TrainedModel
    device : {"auto", "cpu", "cuda", "xpu"}

    Raises
    ------
    UserError
        If there is no such device.
    """

    def __init__(self, campaign: Campaign, variant: str, models: Sequence[TrainedModel], device: str) -> None:
        self._campaign = campaign.of_variant(campaign.variant(variant))
        self._variant = self._campaign.variants[0]
        self._models, self._facts = models, models[0].facts
        self._device = choose_device(device, 0)
        self._parameters = self._buffers = torch.empty(0)

    def predict(self, structures: UnseenStructures) -> dict[str, np.ndarray]:
        """Return every member's values of every task, in the task's unit.

        Returns
        -------
        dict
            By task, ``[E, A, d]`` or, at graph level, ``[E, S, d]`` float64; what was taken off a target in training
            is put back.
        """
        with threads(self._campaign.launch.threads):
            found = self._scaled(structures)
        for task in self._variant.tasks:
            target, fitted = self._facts.tasks[task], self._facts.ready.references.get(task)
            values = found[task].astype(np.float64)
            if fitted:
                values = values * np.array(fitted.scale) + structures.reference(fitted)
            low, high = np.array(target.minimum), np.array(target.maximum)
            found[task] = values * (high - low) + low
        return found

    def _scaled(self, structures: UnseenStructures) -> dict[str, np.ndarray]:
        """Return what the networks give: ``[E, rows, d]`` float32."""
        data = next(self._by_site(structures))[1]
        sizes = network_sizes(self._campaign, self._variant, data, self._average_degree())
        if self._campaign.training.engine == "torch" or why_not_fused(self._campaign.model, sizes, data, self._device):
            data = self._data(structures, np.arange(len(structures)), structures.sites)
            return self._apply(general(self._campaign.model, sizes, data, self._device), len(structures))
        shapes = {
            task.name: (len(self._models), structures.atom_offsets[-1] if task.level == "node" else len(structures))
            for task in sizes.tasks
        }
        found = {task.name: np.empty((*shapes[task.name], task.width), np.float32) for task in sizes.tasks}
        for chosen, data in self._by_site(structures):
            values = self._apply(FusedEngine(sizes, data), len(chosen))
            atoms = atoms_of(structures.atom_offsets, chosen)
            for task in sizes.tasks:
                found[task.name][:, atoms if task.level == "node" else chosen] = values[task.name]
        return found

    def _apply(self, engine: Engine, samples: int) -> dict[str, np.ndarray]:
        if not len(self._parameters):
            layout = engine.layout
            self._parameters = torch.stack([layout.flat(m.weights) for m in self._models]).to(self._device)
            self._buffers = torch.stack([layout.flat_buffers(m.weights) for m in self._models]).to(self._device)
        values = engine.predict(self._parameters, self._buffers, np.arange(samples))
        return {task: value.cpu().numpy() for task, value in values.items()}

    def _average_degree(self) -> tuple[float, float]:
        linear, logarithmic = self._facts.average_degree
        return linear, logarithmic

    def _by_site(self, structures: UnseenStructures) -> Iterator[tuple[np.ndarray, TrainingData]]:
        """Yield the structures on each site, and what an engine takes of them."""
        order = np.argsort(structures.sample_geometry, kind="stable")
        ends = np.cumsum(np.bincount(structures.sample_geometry))
        for site, chosen in zip(structures.sites, np.split(order, ends[:-1]), strict=True):
            yield chosen, self._data(structures, chosen, [site])

    def _data(self, structures: UnseenStructures, chosen: np.ndarray, sites: list[Site]) -> TrainingData:
        """Return structures without targets as what an engine takes; ``sites`` are theirs."""
        sizes = np.diff(structures.atom_offsets)[chosen]
        lists = [site.neighbours for site in sites]
        structure = Structure(
            offsets_of(sizes),
            structures.sample_geometry[chosen] if len(sites) > 1 else np.zeros(len(chosen), np.int32),
            offsets_of([len(found.offsets) - 1 for found in lists]),
            offsets_of(np.concatenate([np.diff(found.offsets) for found in lists])),
            np.concatenate([found.neighbours for found in lists]),
            np.concatenate([found.vectors for found in lists]),
            self._facts.neighbours.cutoff_bohr,
        )
        levels = {task: self._campaign.tasks[task].level for task in self._variant.tasks}
        rows = {"node": int(sizes.sum()), "graph": len(chosen)}
        # No target is ever looked at; its width is.
        nothing = {
            task: np.zeros((rows[level], len(self._facts.tasks[task].minimum)), np.float32)
            for task, level in levels.items()
        }
        none = np.empty(0, np.int64)
        inputs = structures.inputs[atoms_of(structures.atom_offsets, chosen)]
        limits = vector_limits(self._campaign, self._facts.tasks)
        return TrainingData(structure, inputs, nothing, levels, (none, none, none), limits=limits)
