"""Predictions compared with the values that the structures' source holds, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.special import ndtri

from hydragnn_hpc.counts import counted
from hydragnn_hpc.dataset.build.unseen import UnseenStructures
from hydragnn_hpc.dataset.read import formats
from hydragnn_hpc.dataset.read.targets import TargetExtractor, TargetSpec, parse_targets
from hydragnn_hpc.dataset.read.units import parse_unit
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.fields import Property
from hydragnn_hpc.prediction.ensemble import Ensemble, TaskPrediction
from hydragnn_hpc.records.model import ModelTask


class Labels:
    """The true values of structures, by the data set's names of the targets, in the models' units.

    Parameters
    ----------
    targets : mapping
        The models' targets by name.
    form : str
        The format of the source.
    given : sequence of str
        Where the values are, ``NAME=LEVEL:KEY:UNIT`` as for ``data prepare``; otherwise under the targets' own names,
        in their units, as ``data convert`` writes them. LSMS text has them in fixed places.

    Raises
    ------
    UserError
        If one of ``given`` is none of the targets, or has another level, or a unit that cannot be converted.

    Attributes
    ----------
    underived : list of str
        Mixing enthalpies: the source holds total energies, and the energies of the pure elements are not known.
    """

    def __init__(self, targets: Mapping[str, ModelTask], form: str, given: Sequence[str]) -> None:
        self._targets = targets
        stated = parse_targets(given) if given else formats.reader(form).TARGETS
        specs = {spec.property.name: spec for spec in stated if given or spec.property.name in targets}
        for name, spec in specs.items():
            self._check(name, spec)
        if not specs:
            specs = {name: _under_own_name(name, target) for name, target in targets.items()}
        self.underived = sorted(name for name, spec in specs.items() if spec.mixing)
        self._extract = TargetExtractor([spec for spec in specs.values() if not spec.mixing])
        self._scale = {name: self._factor(name, spec) for name, spec in specs.items() if not spec.mixing}

    def of(self, structures: UnseenStructures) -> dict[str, np.ndarray]:
        """Return the true values of a batch by target, ``[A, d]`` or ``[S, d]``; NaN where they are missing.

        Raises
        ------
        UserError
            If a structure's values are malformed, or have another number of components than the predictions.
        """
        labels: dict[str, list[np.ndarray]] = {name: [] for name in self._scale}
        for frame in structures.frames:
            values, _ = self._extract(frame)
            for name, scale in self._scale.items():
                of_frame, target = values[name], self._targets[name]
                rows = len(frame.atomic_numbers) if target.level == "node" else 1
                if of_frame is not None and of_frame.shape[1] != target.width:
                    raise UserError(
                        f"{frame.where}: target '{name}' has {of_frame.shape[1]} components, but the models predict"
                        f" {target.width}; name another key with --target"
                    )
                labels[name].append(np.full((rows, target.width), np.nan) if of_frame is None else of_frame * scale)
        return {name: np.concatenate(values) for name, values in labels.items()}

    def _check(self, name: str, spec: TargetSpec) -> None:
        if name not in self._targets:
            raise UserError(f"--target {name}: the models predict no such target{nearest(name, self._targets)}")
        level = self._targets[name].level
        if spec.property.level != level:
            raise UserError(
                f"--target {name}: the models predict it at {level} level, not {spec.property.level}; correct it"
            )

    def _factor(self, name: str, spec: TargetSpec) -> float:
        """Return the factor from the source's unit to the models'."""
        predicted = parse_unit(self._targets[name].unit or "1", name)
        if spec.unit.in_ev and predicted.in_ev and spec.unit.per_atom == predicted.per_atom:
            return spec.unit.in_ev / predicted.in_ev
        if spec.unit.text != predicted.text:
            raise UserError(
                f"--target {name}: values in {spec.unit} cannot be compared with predictions in {predicted}; correct"
                " the unit"
            )
        return 1.0


class TaskScores:
    """Running sums of one ensemble's errors for one task."""

    def __init__(self) -> None:
        self.count = self._inside = self._inside_raw = 0
        self._squares = self._absolute = 0.0
        # For each component: number of known values, their mean, and the sum of the squared differences from it.
        self._known = self._mean = self._deviation = np.zeros(0)

    def add(self, prediction: TaskPrediction, truth: np.ndarray, level: float) -> None:
        """Add the known values of a batch, ``truth`` ``[rows, d]``; ``level`` is that of the intervals."""
        if not len(self._known):
            self._known, self._mean, self._deviation = (np.zeros(truth.shape[1]) for _ in range(3))
        valid = np.isfinite(truth)
        error = np.abs(prediction.mean - truth)
        half = ndtri((1 + level) / 2) * prediction.std  # scipy.stats.norm.ppf takes half a second to load
        self.count += int(valid.sum())
        self._squares += float((error[valid] ** 2).sum())
        self._absolute += float(error[valid].sum())
        self._inside_raw += int((error <= half)[valid].sum())
        self._inside += int(((prediction.low <= truth) & (truth <= prediction.high))[valid].sum())
        # Merged batch by batch (Chan, Golub & LeVeque 1979).
        known = valid.sum(axis=0)
        total = self._known + known
        mean = np.where(valid, truth, 0).sum(axis=0) / np.maximum(known, 1)
        deviation = (np.where(valid, truth - mean, 0.0) ** 2).sum(axis=0)
        difference = mean - self._mean
        self._deviation = self._deviation + deviation + difference**2 * self._known * known / np.maximum(total, 1)
        self._mean = self._mean + difference * known / np.maximum(total, 1)
        self._known = total

    def line(self, unit: str, level: float, calibrated: bool, members: int) -> str:
        """Return the errors as a line; with several members, also the coverage of the intervals of this ``level``."""
        if not self.count:
            return "no known value"
        variance = float(self._deviation.sum())
        parts = [
            f"RMSE {math.sqrt(self._squares / self.count):.4g} {unit}".rstrip(),
            f"MAE {self._absolute / self.count:.4g} {unit}".rstrip(),
            f"R² {1 - self._squares / variance:.4f}" if variance else "R² undefined",
        ]
        if members > 1:
            inside = f", {self._inside / self.count:.1%} calibrated" if calibrated else ""
            parts.append(f"inside the {100 * level:g}% interval: {self._inside_raw / self.count:.1%} raw{inside}")
        return f"{counted(self.count, 'value')}, " + "; ".join(parts)


class Evaluation:
    """Errors and coverage of some ensembles on structures with known values.

    Parameters
    ----------
    ensembles : sequence of Ensemble
    form : str
        The format of the source.
    given : sequence of str
        As for :class:`Labels`.
    """

    def __init__(self, ensembles: Sequence[Ensemble], form: str, given: Sequence[str]) -> None:
        self._ensembles = ensembles
        self._labels = Labels({t.field: t for e in ensembles for t in e.facts.tasks.values()}, form, given)
        self._scores = {(e.variant, task): TaskScores() for e in ensembles for task in e.tasks}

    def add(self, structures: UnseenStructures, predictions: Sequence[Mapping[str, TaskPrediction]]) -> None:
        """Compare a batch."""
        truth = self._labels.of(structures)
        for ensemble, predicted in zip(self._ensembles, predictions, strict=True):
            for task, prediction in predicted.items():
                known = truth.get(ensemble.facts.tasks[task].field)
                if known is not None:
                    self._scores[ensemble.variant, task].add(prediction, known, ensemble.level)

    def lines(self) -> Iterator[str]:
        """Yield a line per variant and task.

        Raises
        ------
        UserError
            If no structure has had a known value.
        """
        if not any(scores.count for scores in self._scores.values()):
            if self._labels.underived:
                raise UserError(
                    f"--evaluate: {', '.join(self._labels.underived)}: the source holds total energies, and only data"
                    " prepare subtracts those of the pure elements; give the extended XYZ into which data convert turns"
                    " a data set that it made"
                )
            raise UserError(
                "--evaluate: no structure holds a value of any task under its target's name; say where with --target"
                " NAME=LEVEL:KEY:UNIT, as for data prepare"
            )
        for ensemble in self._ensembles:
            for task in ensemble.tasks:
                scores, facts = self._scores[ensemble.variant, task], ensemble.facts.tasks[task]
                calibrated = task in ensemble.calibration.tasks
                shown = scores.line(facts.unit, ensemble.level, calibrated, len(ensemble.replicas))
                why = " (derived from end members: use data prepare)" if facts.field in self._labels.underived else ""
                yield f"{ensemble.variant} {task}: {shown}{why}"


def _under_own_name(name: str, target: ModelTask) -> TargetSpec:
    """Return where ``data convert`` writes a target."""
    unit = parse_unit(target.unit or "1", name)
    return TargetSpec(Property(name, target.level, unit.text, target.label), name, unit)
