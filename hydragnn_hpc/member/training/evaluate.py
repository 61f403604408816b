"""Evaluation: the validation losses of a stack while it trains, and a member's errors and predictions at the end."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.store import Manifest
from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.losses import mean_and_noise
from hydragnn_hpc.member.engine.sizes import TaskSizes
from hydragnn_hpc.member.engine.training_data import TrainingData, span_of, to_units, values_of, with_reference
from hydragnn_hpc.paths import noise_of
from hydragnn_hpc.records.member import TaskErrors


class ValidationSet:
    """Samples, with their true values on the engine's device, for the losses after each epoch.

    Parameters
    ----------
    engine : Engine
    data : TrainingData
    samples : numpy.ndarray
        ``[n]`` int64 sample numbers.
    """

    def __init__(self, engine: Engine, data: TrainingData, samples: np.ndarray) -> None:
        self._engine, self._samples = engine, samples
        self._truth = {
            t.name: torch.tensor(values_of(data, t.name, samples), device=engine.device) for t in engine.sizes.tasks
        }
        self._known = {n: None if not t.isnan().any() else ~t.isnan() for n, t in self._truth.items()}
        self._weights = torch.tensor([t.weight for t in engine.sizes.tasks], dtype=torch.float64, device=engine.device)

    @torch.no_grad()
    def losses(self, parameters: torch.Tensor, buffers: torch.Tensor) -> np.ndarray:
        """Return every member's weighted loss on these samples, ``[E]`` float64.

        ``parameters`` are ``[E, P]``, ``buffers`` ``[E, Q]``. Losses are computed one member after the other: where a
        member's predictions have the same bits in any stack, so has its loss.
        """
        predicted = self._engine.predict(parameters, buffers, self._samples)
        weighted = []
        for e in range(len(parameters)):
            per_task = [self._loss(t, predicted[t.name][e]) for t in self._engine.sizes.tasks]
            weighted.append((torch.stack(per_task) * self._weights).sum())
        losses: np.ndarray = torch.stack(weighted).cpu().numpy()
        return losses

    def _loss(self, task: TaskSizes, predicted: torch.Tensor) -> torch.Tensor:
        """Return a task's mean loss over the values that are not missing."""
        truth, known = self._truth[task.name], self._known[task.name]
        mean, *noise = task.loss.split(predicted)
        if known is None:
            return task.loss.total(mean - truth, *noise) / truth.numel()
        difference, count = torch.where(known, mean - truth, 0.0), known.sum().clamp(min=1)
        return task.loss.total(difference, *(torch.where(known, n, 1.0) for n in noise)) / count


def evaluate_member(
    engine: Engine,
    data: TrainingData,
    manifest: Manifest,
    campaign: Campaign,
    state: tuple[torch.Tensor, torch.Tensor],
    validation: np.ndarray,
) -> tuple[dict[str, TaskErrors], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Return one member's errors, and its predictions for the test and the validation set.

    Parameters
    ----------
    engine : Engine
    data : TrainingData
    manifest : Manifest
    campaign : Campaign
        The variant's own (`Campaign.of_variant`).
    state : tuple of torch.Tensor
        The member's parameters ``[P]`` and buffers ``[Q]``.
    validation : numpy.ndarray
        Sample numbers of the member's validation set.

    Returns
    -------
    errors : dict
        By task; for a task with a reference, errors are those of the whole property.
    predictions : tuple of dict
        For the test and the validation set: ``sample``, the numbers ``[n]`` of its samples, and for each task, under
        its name, ``[rows, d]`` float64 in its unit. The noise of a task, a standard deviation, is under
        `paths.noise_of` its name.
    """
    sets = (data.split.test, validation)
    test_outputs, validation_outputs = (engine.predict(state[0][None], state[1][None], s) for s in sets)
    errors = {}
    of_test, of_validation = ({"sample": samples.astype(np.int64)} for samples in sets)
    for task in engine.sizes.tasks:
        target = manifest.targets[campaign.tasks[task.name].field]
        predicted, truth, noise = _scaled(data, task, sets[0], test_outputs)
        validated, known, validated_noise = _scaled(data, task, sets[1], validation_outputs)
        in_units = to_units(predicted, target)
        of_test[task.name], of_validation[task.name] = in_units, to_units(validated, target)
        if noise is not None and validated_noise is not None:
            span = span_of(target)
            of_test[noise_of(task.name)], of_validation[noise_of(task.name)] = noise * span, validated_noise * span
        difference = predicted.astype(np.float64) - truth
        unit_difference = in_units - to_units(truth, target)
        errors[task.name] = TaskErrors(
            level=campaign.tasks[task.name].level,
            unit=target.unit,
            n=int(np.count_nonzero(~np.isnan(truth))),
            rmse=_rmse(difference),
            mae=_mae(difference),
            rmse_unit=_rmse(unit_difference),
            mae_unit=_mae(unit_difference),
            rmse_validation=_rmse(validated.astype(np.float64) - known),
        )
    return errors, (of_test, of_validation)


def _rmse(difference: np.ndarray) -> float | None:
    return None if np.isnan(difference).all() else float(np.sqrt(np.nanmean(difference**2)))


def _mae(difference: np.ndarray) -> float | None:
    return None if np.isnan(difference).all() else float(np.nanmean(np.abs(difference)))


def _scaled(
    data: TrainingData, task: TaskSizes, samples: np.ndarray, outputs: dict[str, torch.Tensor]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return one member's predictions for these samples, the true values, and the predicted noise, all scaled.

    References are included. The noise is None for a task whose loss has none.
    """
    mean, noise = mean_and_noise(outputs[task.name][0].cpu().numpy(), task.width)
    if noise is not None and task.name in data.references:
        noise = noise * data.references[task.name].scale
    truth = values_of(data, task.name, samples)
    return with_reference(data, task.name, samples, mean), with_reference(data, task.name, samples, truth), noise


def weights_hash(parameters: torch.Tensor, buffers: torch.Tensor) -> str:
    """Return the SHA-256 of a member's parameters ``[P]`` and buffers ``[Q]``, in hexadecimal."""
    digest = hashlib.sha256(parameters.cpu().numpy().tobytes())
    digest.update(buffers.cpu().numpy().tobytes())
    return digest.hexdigest()
