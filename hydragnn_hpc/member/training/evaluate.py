"""Evaluation: the validation losses of a stack while it trains, and a member's errors and predictions at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from hydragnn_hpc.member.engine.interface import Engine
from hydragnn_hpc.member.engine.losses import mean_and_noise
from hydragnn_hpc.member.engine.sizes import TaskSizes
from hydragnn_hpc.member.engine.training_data import TrainingData, span_of, to_units, values_of, with_reference
from hydragnn_hpc.paths import noise_of
from hydragnn_hpc.records.dataset import Target
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


@dataclass(frozen=True)
class MemberEvaluation:
    """One member's errors, and its predictions for the test and the validation set.

    Attributes
    ----------
    errors : dict
        By task; for a task with a reference, errors are those of the whole property.
    test, validation : dict
        ``sample``, the numbers ``[n]`` of the set's samples, and for each task, under its name, ``[rows, d]`` float64
        in its unit. The noise of a task, a standard deviation, is under the name that `paths.noise_of` gives.
    """

    errors: dict[str, TaskErrors] = field(default_factory=dict)
    test: dict[str, np.ndarray] = field(default_factory=dict)
    validation: dict[str, np.ndarray] = field(default_factory=dict)


def evaluate_member(
    engine: Engine,
    data: TrainingData,
    targets: Mapping[str, Target],
    state: tuple[torch.Tensor, torch.Tensor],
    validation: np.ndarray,
) -> MemberEvaluation:
    """Evaluate one member.

    Parameters
    ----------
    engine : Engine
    data : TrainingData
    targets : mapping of str to Target
        By task.
    state : tuple of torch.Tensor
        The member's parameters ``[P]`` and buffers ``[Q]``.
    validation : numpy.ndarray
        Sample numbers of the member's validation set.
    """
    of_test = _predict(engine, data, targets, state, data.split.test)
    of_validation = _predict(engine, data, targets, state, validation)
    errors = {}
    for name, target in targets.items():
        truth, in_units = of_test.truth[name], of_test.in_units[name]
        difference, unit_difference = of_test.difference(name), in_units - to_units(truth, target)
        errors[name] = TaskErrors(
            level=data.levels[name],
            unit=target.unit,
            n=int(np.count_nonzero(~np.isnan(truth))),
            rmse=_rmse(difference),
            mae=_mae(difference),
            rmse_unit=_rmse(unit_difference),
            mae_unit=_mae(unit_difference),
            rmse_validation=_rmse(of_validation.difference(name)),
        )
    return MemberEvaluation(errors, of_test.in_units, of_validation.in_units)


@dataclass(frozen=True)
class _Predictions:
    """One member's predictions for a set: scaled, with their true values, references added to both; and in units."""

    scaled: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    in_units: dict[str, np.ndarray]

    def difference(self, task: str) -> np.ndarray:
        difference: np.ndarray = self.scaled[task].astype(np.float64) - self.truth[task]
        return difference


def _predict(
    engine: Engine,
    data: TrainingData,
    targets: Mapping[str, Target],
    state: tuple[torch.Tensor, torch.Tensor],
    samples: np.ndarray,
) -> _Predictions:
    """Predict these ``samples``; other parameters are as for `evaluate_member`."""
    outputs = engine.predict(state[0][None], state[1][None], samples)
    predictions = _Predictions({}, {}, {"sample": samples.astype(np.int64)})
    for task in engine.sizes.tasks:
        name, target = task.name, targets[task.name]
        mean, noise = mean_and_noise(outputs[name][0].cpu().numpy(), task.width)
        predictions.scaled[name] = with_reference(data, name, samples, mean)
        predictions.truth[name] = with_reference(data, name, samples, values_of(data, name, samples))
        predictions.in_units[name] = to_units(predictions.scaled[name], target)
        if noise is not None:
            scale = data.references[name].scale if name in data.references else 1.0
            predictions.in_units[noise_of(name)] = noise * scale * span_of(target)
    return predictions


def _rmse(difference: np.ndarray) -> float | None:
    return None if np.isnan(difference).all() else float(np.sqrt(np.nanmean(difference**2)))


def _mae(difference: np.ndarray) -> float | None:
    return None if np.isnan(difference).all() else float(np.nanmean(np.abs(difference)))


def weights_hash(parameters: torch.Tensor, buffers: torch.Tensor) -> str:
    """Return the SHA-256 of a member's parameters ``[P]`` and buffers ``[Q]``, in hexadecimal."""
    digest = hashlib.sha256(parameters.cpu().numpy().tobytes())
    digest.update(buffers.cpu().numpy().tobytes())
    return digest.hexdigest()
