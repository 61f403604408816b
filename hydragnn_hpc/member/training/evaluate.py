"""Evaluation: a member's validation loss while it trains, and its test errors at the end."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.store import Manifest
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.losses import mean_and_noise
from hydragnn_hpc.member.engine.sizes import TaskSizes
from hydragnn_hpc.member.engine.training_data import TrainingData, to_units, values_of, with_reference
from hydragnn_hpc.paths import noise_of
from hydragnn_hpc.records.member import TaskErrors


class ValidationSet:
    """Samples with their true values on the engine's device, for the loss after each epoch.

    Parameters
    ----------
    engine : Engine
    data : TrainingData
    chosen : numpy.ndarray
        ``[T]`` int64 sample numbers.
    """

    def __init__(self, engine: Engine, data: TrainingData, chosen: np.ndarray) -> None:
        self._engine, self.chosen = engine, chosen
        self._truth = {
            t.name: torch.tensor(values_of(data, t.name, chosen), device=engine.device) for t in engine.sizes.tasks
        }
        self._known = {n: None if not t.isnan().any() else ~t.isnan() for n, t in self._truth.items()}
        self._weights = torch.tensor([t.weight for t in engine.sizes.tasks], dtype=torch.float64, device=engine.device)

    @torch.no_grad()
    def losses(self, parameters: torch.Tensor, buffers: torch.Tensor) -> np.ndarray:
        """Return every member's weighted loss on these samples, ``[E]`` float64.

        One member after the other, so that a member's loss has the same bits in any stack where its predictions have.
        """
        predicted = self._engine.predict(parameters, buffers, self.chosen)
        weighted = []
        for e in range(len(parameters)):
            per_task = [self._loss(t, predicted[t.name][e]) for t in self._engine.sizes.tasks]
            weighted.append((torch.stack(per_task) * self._weights).sum())
        losses: np.ndarray = torch.stack(weighted).cpu().numpy()
        return losses

    def _loss(self, task: TaskSizes, predicted: torch.Tensor) -> torch.Tensor:
        """Mean loss over the values that are not missing."""
        truth, known = self._truth[task.name], self._known[task.name]
        mean, *noise = task.loss.split(predicted)
        if known is None:
            return task.loss.total(mean - truth, *noise) / truth.numel()
        difference, count = torch.where(known, mean - truth, 0.0), known.sum().clamp(min=1)
        return task.loss.total(difference, *(torch.where(known, n, 1.0) for n in noise)) / count


def test_errors(
    engine: Engine,
    data: TrainingData,
    manifest: Manifest,
    campaign: Campaign,
    state: tuple[torch.Tensor, torch.Tensor],
    validation: np.ndarray,
) -> tuple[dict[str, TaskErrors], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Return one member's test errors, and its predictions for the test and the validation set.

    Parameters
    ----------
    state : tuple of torch.Tensor
        Its parameters ``[P]`` and buffers ``[Q]``.
    validation : numpy.ndarray
        Sample numbers of its validation set.

    Returns
    -------
    tasks : dict
        By task; for a task with a reference, errors are those of the whole property.
    predictions : tuple of dict
        ``sample`` ``[T]`` and by task, in its unit, ``[rows, d]`` float64; of the test and the validation set. For a
        task with noise, its standard deviation under `paths.noise_of` the task.
    """
    chosen = data.parts[2]
    predicted, of_validation = (engine.predict(state[0][None], state[1][None], k) for k in (chosen, validation))
    tasks = {}
    predictions, validated = ({"sample": k.astype(np.int64)} for k in (chosen, validation))
    for task in engine.sizes.tasks:
        field = campaign.tasks[task.name].field
        (scaled, truth, noise), (seen, known, seen_noise) = (
            _scaled(data, task, *part) for part in ((chosen, predicted), (validation, of_validation))
        )
        in_units = to_units(scaled, manifest, field)
        predictions[task.name], validated[task.name] = in_units, to_units(seen, manifest, field)
        if noise is not None and seen_noise is not None:
            span = np.array(manifest.targets[field].maximum) - np.array(manifest.targets[field].minimum)
            predictions[noise_of(task.name)], validated[noise_of(task.name)] = noise * span, seen_noise * span
        difference = scaled.astype(np.float64) - truth
        unit_difference = in_units - to_units(truth, manifest, field)
        tasks[task.name] = TaskErrors(
            level=campaign.tasks[task.name].level,
            unit=manifest.targets[field].unit,
            n=int(np.count_nonzero(~np.isnan(truth))),
            rmse=_rmse(difference),
            mae=_mae(difference),
            rmse_unit=_rmse(unit_difference),
            mae_unit=_mae(unit_difference),
            rmse_validation=_rmse(seen.astype(np.float64) - known),
        )
    return tasks, (predictions, validated)


def _rmse(difference: np.ndarray) -> float | None:
    return None if np.isnan(difference).all() else float(np.sqrt(np.nanmean(difference**2)))


def _mae(difference: np.ndarray) -> float | None:
    return None if np.isnan(difference).all() else float(np.nanmean(np.abs(difference)))


def _scaled(
    data: TrainingData, task: TaskSizes, chosen: np.ndarray, predicted: dict[str, torch.Tensor]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return one member's predictions, the true values and the noise of ``chosen`` samples, scaled.

    References are included. The noise is None for a task without.
    """
    mean, noise = mean_and_noise(predicted[task.name][0].cpu().numpy(), task.width)
    if noise is not None and task.name in data.references:
        noise = noise * data.references[task.name].scale
    truth = values_of(data, task.name, chosen)
    return with_reference(data, task.name, chosen, mean), with_reference(data, task.name, chosen, truth), noise


def weights_hash(parameters: torch.Tensor, buffers: torch.Tensor) -> str:
    """Return the SHA-256 of a member's numbers."""
    digest = hashlib.sha256(parameters.cpu().numpy().tobytes())
    digest.update(buffers.cpu().numpy().tobytes())
    return digest.hexdigest()
