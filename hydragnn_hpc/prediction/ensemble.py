"""A finished ensemble as an object: structures in, mean and spread of its members out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hydragnn_hpc.calibration import ONE_SIGMA, calibrate, check_level
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.build.unseen import Preparation, ReadingChoice, UnseenStructures
from hydragnn_hpc.dataset.read.atoms import frame_of
from hydragnn_hpc.dataset.read.frames import Frame, FrameCheck, FrameLabel
from hydragnn_hpc.dataset.read.gathered import offsets_of
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.ledger import Member, State, read_frozen, read_members
from hydragnn_hpc.member.predict import StackedModels
from hydragnn_hpc.member.training.checkpoint import read_model
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.prediction.distance import DistanceFromTraining, Distances
from hydragnn_hpc.records.model import ModelFacts

if TYPE_CHECKING:
    from ase import Atoms

CALIBRATED = ("std_calibrated", "low", "high")
"""What the calibration adds to a prediction."""
STD_PARTS = ("std_spread", "std_noise")
"""What a task with noise adds to a prediction: the two parts of its standard deviation."""
DEVICES = ("cpu", "cuda", "xpu", "auto")


@dataclass(frozen=True)
class TaskPrediction:
    """The prediction of one task; its rows are the structures' atoms in order or, at graph level, the structures.

    Attributes
    ----------
    task, level, unit : str
        ``level`` is ``graph`` or ``node``.
    mean, std : numpy.ndarray
        ``[rows, d]`` float64 in ``unit``, over the members; d is the number of components, 1 for a scalar. ``std``
        (ddof = 1) is the members' spread, *not* calibrated: usually it is smaller than the error. NaN for one member.
        For a task with noise (``loss: nll``) it is the root of the sum of the squares of ``std_spread`` and
        ``std_noise``.
    std_calibrated, low, high : numpy.ndarray
        ``[rows, d]`` float64 in ``unit``: the spread scaled so that 68 % of the errors on the validation set are
        smaller, and the ends of the interval of the ensemble's ``level`` (:mod:`hydragnn_hpc.calibration` says what is
        promised). NaN where there is no calibration; infinite where the validation set is too small for the level.
    members : numpy.ndarray
        ``[E, rows, d]``, the prediction of each member, in the order of :attr:`Ensemble.replicas`.
    offsets : numpy.ndarray
        ``[S + 1]`` int64: where the rows of each structure start, and the end.
    std_spread, std_noise : numpy.ndarray or None
        ``[rows, d]`` float64 in ``unit``, for a task with noise: the standard deviation (ddof = 1) between the members,
        which more data reduce, and that of the data about the mean as the members predict it (the root of their mean
        variance), which they do not. None for other tasks.
    """

    task: str
    level: str
    unit: str
    mean: np.ndarray
    std: np.ndarray
    std_calibrated: np.ndarray
    low: np.ndarray
    high: np.ndarray
    members: np.ndarray
    offsets: np.ndarray
    std_spread: np.ndarray | None = None
    std_noise: np.ndarray | None = None

    def of(self, number: int) -> TaskPrediction:
        """Return the prediction for structure ``number`` alone, counted from 0 (from the end where negative)."""
        first, end = (int(self.offsets[:-1][number]), int(self.offsets[1:][number]))
        rows, offsets = slice(first, end), np.array([0, end - first])
        values = {name: getattr(self, name)[rows] for name in self._by_row}
        return replace(self, **values, members=self.members[:, rows], offsets=offsets)

    @property
    def std_parts(self) -> tuple[str, ...]:
        """The attributes that only a task with noise has: :data:`STD_PARTS`, or none."""
        return STD_PARTS if self.std_noise is not None else ()

    @property
    def _by_row(self) -> tuple[str, ...]:
        """The attributes that are ``[rows, d]``."""
        return ("mean", "std", *CALIBRATED, *self.std_parts)


class Ensemble:
    """The finished members of one variant of a campaign, which predict together.

    Parameters
    ----------
    out : path
        The campaign's folder, as given to ``hydragnn-hpc run``.
    variant : str, optional
        May be left out if only one has finished members.
    select : int or {"all", "validation"}
        Which members to average: all of them; that number of members with the lowest validation loss; or all, weighted
        by 1 / (validation RMSE of the task)^2.
    device : {"auto", "cpu", "cuda", "xpu"}
        ``auto`` takes an accelerator, if there is one.
    level : float
        Nominal coverage of the intervals ``low`` to ``high``, between 0 and 1.

    Attributes
    ----------
    campaign : Campaign
    variant : str
    tasks : tuple of str
    level : float
    replicas : tuple of int
        Replica numbers of the members in use.
    facts : ModelFacts
        What the models were trained on: units, species, boundary.
    calibration : Calibration
        Of the members in use; ``why_not`` says why there is none.
    with_noise : tuple of str
        The tasks whose noise the members predict.

    Raises
    ------
    UserError
        If the folder holds no campaign, there is no such variant, none of its members has finished, ``variant`` is left
        out and several have finished members, ``select``, ``device`` or ``level`` is invalid, there is no such device,
        or a model is damaged.

    Examples
    --------
    >>> from ase.io import read
    >>> from hydragnn_hpc import Ensemble
    >>> ensemble = Ensemble("runs/quickstart", variant="HCM", device="cpu")
    >>> predicted = ensemble.predict(read("some.extxyz", ":"))
    >>> predicted["H"].unit, predicted["H"].mean.shape
    ('Ry', (3, 1))
    >>> predicted["M"].of(0).std.shape    # the first structure, a row per atom
    (32, 1)
    """

    def __init__(
        self,
        out: str | PathLike[str],
        variant: str | None = None,
        *,
        select: int | str = "all",
        device: str = "auto",
        level: float = 0.9,
    ) -> None:
        if device not in DEVICES:
            raise UserError(f"device '{device}'; known: {', '.join(DEVICES)}")
        check_level(level)
        folder = CampaignFolder(Path(out))
        self._folder = CampaignFolder(Path(out).absolute())  # read later, perhaps from another working folder
        self.campaign: Campaign = read_frozen(folder).campaign
        finished = finished_members(folder, self.campaign, [] if variant is None else [variant])
        if len(finished) > 1:
            raise UserError(f"{out}: several variants have finished members; give one: {', '.join(finished)}")
        self.variant, members = next(iter(finished.items()))
        self.tasks = self.campaign.variant(self.variant).tasks
        self.with_noise = self.campaign.with_noise(self.variant)
        members, self._weights = _selected(members, select, self.tasks)
        self.replicas = tuple(member.replica for member in members)
        self.level = level
        self.calibration = calibrate(folder, self.campaign, members, self._weights)
        models = [read_model(folder.member(self.variant, replica)) for replica in self.replicas]
        self._first, self._model, self._device = members[0], models[0], device
        self.facts: ModelFacts = models[0].facts
        self._models = StackedModels(self.campaign, self.variant, models, device)
        self._preparation = Preparation(self.facts, ReadingChoice(own_boundary="refuse"))
        self._check = FrameCheck()

    def predict(self, structures: Atoms | Iterable[Atoms]) -> dict[str, TaskPrediction]:
        """Predict every task for new structures; they need no targets.

        Values do not depend on the order or the number of structures: to the last bit with the fused engine (PNA, on a
        CPU with a C compiler), the species as the only input and no references; otherwise up to rounding, which is that
        of float32 where another engine predicts.

        Parameters
        ----------
        structures : ase.Atoms or iterable of ase.Atoms
            Positions and cell in ångström; ``pbc`` as in the training.

        Returns
        -------
        dict
            By task, in the order of the structures.

        Raises
        ------
        UserError
            If there is no structure, or one is malformed, contains an element that the models were not trained on, or
            has another boundary.
        """
        parts = [self.apply(batch) for batch in self._batches(structures)]
        return parts[0] if len(parts) == 1 else {task: _joined([part[task] for part in parts]) for task in self.tasks}

    def distances(self, structures: Atoms | Iterable[Atoms]) -> Distances:
        """Return how far structures are from those of the training set, in the features of the first member in use.

        A structure that is farther than all of the training set (``quantile`` 1) is predicted by extrapolation. A
        smaller distance promises nothing. Only structures of about as many atoms as those of the training set compare:
        the features are means over atoms, which scatter less the more atoms there are.

        Parameters
        ----------
        structures : ase.Atoms or iterable of ase.Atoms
            As for :meth:`predict`.

        Raises
        ------
        UserError
            As :meth:`predict`, or if that member's distribution of features was not kept.
        """
        known = self.distance_from_training
        parts = [known.of(batch) for batch in self._batches(structures)]
        return Distances(*(np.concatenate([getattr(part, own.name) for part in parts]) for own in fields(Distances)))

    @cached_property
    def distance_from_training(self) -> DistanceFromTraining:
        """The distances of structures that are prepared already; raises a UserError where they are not known."""
        return DistanceFromTraining(self._folder, self.campaign, self._first, self._model, self._device)

    def _batches(self, structures: Atoms | Iterable[Atoms]) -> Iterator[UnseenStructures]:
        batch = None
        for batch in self._preparation.batches(self._frames(structures)):
            yield batch
        # Not by the preparation's count: whatever yields the structures may itself use the ensemble.
        if batch is None:
            raise UserError("there is no structure to predict: give at least one ase.Atoms")

    def apply(self, structures: UnseenStructures) -> dict[str, TaskPrediction]:
        """Predict every task for structures that have been prepared."""
        offsets = {"node": structures.atom_offsets, "graph": np.arange(len(structures) + 1)}
        predicted = {}
        for task, (values, noise) in self._models.predict(structures).items():
            mean, std = moments(values, self._weights.get(task))
            std_parts: tuple[np.ndarray, ...] = ()
            if noise is not None:
                std_parts = std, np.sqrt(moments(noise**2, self._weights.get(task))[0])
                std = np.sqrt(std**2 + std_parts[1] ** 2)
            level, unit = self.campaign.tasks[task].level, self.facts.tasks[task].unit
            numbers = structures.atomic_numbers if level == "node" else None
            calibrated = self._calibrated(task, mean, std, numbers)
            predicted[task] = TaskPrediction(
                task, level, unit, mean, std, *calibrated, values, offsets[level], *std_parts
            )
        return predicted

    def _calibrated(
        self, task: str, mean: np.ndarray, std: np.ndarray, numbers: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the calibrated standard deviation and the ends of the interval, NaN where there is no calibration."""
        known = self.calibration.tasks.get(task)
        if known is None:
            nothing = np.full_like(mean, np.nan)
            return nothing, nothing, nothing
        half, scaled = (known.widths(level, std, numbers) for level in (self.level, ONE_SIGMA))
        return scaled, mean - half, mean + half

    def _frames(self, structures: Atoms | Iterable[Atoms]) -> Iterator[Frame | UserError]:
        from ase import Atoms

        several = [structures] if isinstance(structures, Atoms) else structures
        for number, atoms in enumerate(several):
            where = f"structure {number}"
            if not isinstance(atoms, Atoms):
                raise UserError(f"{where} is of type {type(atoms).__name__}; give ase.Atoms (ase.io.read reads files)")
            frame = frame_of(atoms, [], FrameLabel(str(number), where, where))
            self._check(frame)
            yield frame


def ensembles_of(out: Path, variants: Sequence[str], *, select: int | str, device: str, level: float) -> list[Ensemble]:
    """Return the ensembles of ``variants``, or of all that have finished members, to apply to the same batches.

    The options are those of :class:`Ensemble`.

    Raises
    ------
    UserError
        As for :class:`Ensemble`, or if the variants have different inputs.
    """
    folder = CampaignFolder(out)
    names = list(finished_members(folder, read_frozen(folder).campaign, variants))
    ensembles = [Ensemble(out, name, select=select, device=device, level=level) for name in names]
    recipes = [ensemble.facts.ready.computed_inputs for ensemble in ensembles]
    if any(recipe != recipes[0] for recipe in recipes):
        raise UserError(f"{out}: its variants have different inputs; give --variant, one of: {', '.join(names)}")
    return ensembles


def finished_members(folder: CampaignFolder, campaign: Campaign, variants: Sequence[str]) -> dict[str, list[Member]]:
    """Return the finished members by variant, only those of ``variants`` if any are named.

    Raises
    ------
    UserError
        If there is no such variant, or one has no finished member.
    """
    names = [v.name for v in campaign.variants]
    for name in variants:
        if name not in names:
            raise UserError(f"{folder.root} has no variant '{name}'{nearest(name, names)}")
    by_variant: dict[str, list[Member]] = {}
    for member in read_members(folder, campaign):
        if member.state is State.FINISHED and (not variants or member.variant in variants):
            by_variant.setdefault(member.variant, []).append(member)
    missing = [name for name in variants if name not in by_variant]
    if missing or not by_variant:
        of = f" of variant '{missing[0]}'" if missing else ""
        raise UserError(f"{folder.root}: no member{of} has finished; see 'hydragnn-hpc status {folder.root}'")
    return by_variant


def moments(values: np.ndarray, weights: Sequence[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation (ddof = 1) over members, ``[E, rows, d]`` to ``[rows, d]``.

    With weights that sum to 1, the variance is sum(w (x - mean)^2) / (1 - sum(w^2)), which is the usual one if they are
    equal. Members are added one after the other, since the order of NumPy's own sums depends on the shape.
    """
    count = len(values)
    if weights is None:
        mean = _total(values) / count
        correction = (count - 1) or math.nan
        return mean, np.sqrt(_total([(value - mean) ** 2 for value in values]) / correction)
    mean = _total([w * value for w, value in zip(weights, values, strict=True)])
    squares = _total([w * (value - mean) ** 2 for w, value in zip(weights, values, strict=True)])
    correction = (1 - math.fsum(w**2 for w in weights)) if count > 1 else math.nan
    return mean, np.sqrt(squares / correction)


def _total(values: Iterable[np.ndarray]) -> np.ndarray:
    first, *others = values
    total: np.ndarray = first.copy()
    for value in others:
        total += value
    return total


def _selected(
    members: list[Member], select: int | str, tasks: Sequence[str]
) -> tuple[list[Member], dict[str, list[float]]]:
    """Return the selected members, in order, and their weights by task; no weights where all count equally."""
    if select == "all":
        return members, {}
    if select == "validation":
        return members, {task: _weights(members, task) for task in tasks}
    if isinstance(select, bool) or not isinstance(select, int | np.integer) or not 1 <= select <= len(members):
        raise UserError(
            f"select={select!r}: give 'all', 'validation', or how many of the {len(members)} finished members to use"
        )

    def loss(member: Member) -> float:
        known = None if member.result is None else member.result.validation_loss
        return math.inf if known is None else known

    n_known = sum(math.isfinite(loss(member)) for member in members)
    if n_known < select < len(members):
        raise UserError(
            f"select={select}: of the {len(members)} finished members of variant '{members[0].variant}', {n_known} have"
            " a validation loss; use select='all'"
        )
    best = sorted(members, key=lambda member: (loss(member), member.replica))[:select]
    return sorted(best, key=lambda member: member.replica), {}


def _weights(members: list[Member], task: str) -> list[float]:
    errors = [m.result.tasks[task].rmse_validation if m.result else None for m in members]
    precisions = [1 / error**2 for error in errors if error]
    if len(precisions) < len(members):
        raise UserError(
            f"select='validation': a member of variant '{members[0].variant}' has no validation error of '{task}'; use"
            " select='all'"
        )
    return [precision / math.fsum(precisions) for precision in precisions]


def _joined(batches: list[TaskPrediction]) -> TaskPrediction:
    first = batches[0]
    offsets = offsets_of(np.concatenate([np.diff(batch.offsets) for batch in batches]))
    values: dict[str, Any] = {
        name: np.concatenate([getattr(batch, name) for batch in batches]) for name in first._by_row
    }
    members = np.concatenate([batch.members for batch in batches], axis=1)
    return replace(first, members=members, offsets=offsets, **values)
