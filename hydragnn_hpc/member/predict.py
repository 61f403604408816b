"""An ensemble applied to new structures: mean and spread of its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Member, State
from hydragnn_hpc.member.choose import general, network_sizes
from hydragnn_hpc.member.engine.training_data import Structure, TrainingData
from hydragnn_hpc.member.training.checkpoint import TrainedModel, read_model
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.model import ModelFacts


@dataclass(frozen=True)
class Prediction:
    """One task of one variant.

    Attributes
    ----------
    variant, task, level, unit : str
    mean, std : numpy.ndarray
        ``[A, d]`` or, at graph level, ``[S, d]`` float64, in the unit; std (ddof = 1) is NaN for a single member.
    members : int
    """

    variant: str
    task: str
    level: str
    unit: str
    mean: np.ndarray
    std: np.ndarray
    members: int


def read_models(
    folder: CampaignFolder, members: Sequence[Member], variants: Sequence[str]
) -> dict[str, list[TrainedModel]]:
    """Read the models of all finished members by variant; if ``variants`` are named, of those alone.

    Raises
    ------
    UserError
        If there is none, or one is damaged.
    """
    found: dict[str, list[TrainedModel]] = {}
    for member in members:
        if member.state is State.FINISHED and (not variants or member.variant in variants):
            model = read_model(folder.member(member.variant, member.replica))
            found.setdefault(member.variant, []).append(model)
    for variant in variants or [""]:
        if variant not in found and (variant or not found):
            of = f" of variant '{variant}'" if variant else ""
            raise UserError(f"{folder.root}: no member{of} has finished; see 'hydragnn-hpc status {folder.root}'")
    return found


def predict(
    campaign: Campaign,
    variant: str,
    models: Sequence[TrainedModel],
    structures: UnseenStructures,
    device: torch.device,
) -> list[Prediction]:
    """Apply all models of one variant.

    Returns
    -------
    list of Prediction
        In the variant's order of tasks; references that were subtracted in training are added again.
    """
    of = campaign.variant(variant)
    facts = models[0].facts
    data = _data(campaign, of.tasks, facts, structures)
    linear, logarithmic = facts.average_degree
    sizes = network_sizes(campaign, of, data, (linear, logarithmic))
    engine = general(campaign.model, sizes, data, device)
    parameters = torch.stack([engine.layout.flat(m.weights) for m in models]).to(device)
    buffers = torch.stack([engine.layout.flat_buffers(m.weights) for m in models]).to(device)
    values = engine.predict(parameters, buffers, np.arange(len(structures.names)))
    found = []
    for task in of.tasks:
        target, fitted = facts.tasks[task], facts.ready.references.get(task)
        scaled = values[task].cpu().numpy().astype(np.float64)
        if fitted:
            scaled = scaled * np.array(fitted.scale) + structures.reference(fitted)
        low, high = np.array(target.minimum), np.array(target.maximum)
        in_units = scaled * (high - low) + low
        std = in_units.std(axis=0, ddof=1) if len(models) > 1 else np.full(in_units.shape[1:], np.nan)
        level = campaign.tasks[task].level
        found.append(Prediction(variant, task, level, target.unit, in_units.mean(axis=0), std, len(models)))
    return found


def _data(campaign: Campaign, tasks: Sequence[str], facts: ModelFacts, structures: UnseenStructures) -> TrainingData:
    """Return structures without targets as an engine's data."""
    a = structures.arrays
    structure = Structure.of(a, facts.neighbours.cutoff_bohr)
    rows = {"node": len(a["atomic_numbers"]), "graph": len(structures.names)}
    levels = {task: campaign.tasks[task].level for task in tasks}
    nothing = {
        t: np.full((rows[level], len(facts.tasks[t].minimum)), np.nan, np.float32) for t, level in levels.items()
    }
    none = np.empty(0, np.int64)
    return TrainingData(structure, structures.inputs, nothing, levels, (none, none, none))
