"""A campaign's folder as plain rows, the source of all tables; made without pandas, whose import takes a second."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hydragnn_hpc import halving, learned, ledger
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.fields import PROPERTIES
from hydragnn_hpc.ledger import Frozen, Member, State
from hydragnn_hpc.paths import CampaignFolder, read_arrays
from hydragnn_hpc.records.summary import DatasetSummary, PartSummary
from hydragnn_hpc.report import text
from hydragnn_hpc.sections import Variant

CsvRow = dict[str, Any]
"""A row of a csv file, by column; None is a missing value."""
BASELINES = {"mean": "no network: mean", "composition": "no network: composition"}
"""Names in the column of variants for the baselines (`records.summary.TargetSummary`)."""
_RESULT_COLUMNS = (
    "validation_loss", "seconds", "seconds_training", "seconds_validation",
    "best_epoch", "epochs", "stopped_by", "engine", "threads", "attempt",
)  # fmt: skip


@dataclass(frozen=True)
class Table1Row:
    """Errors of a task in the test set: of a variant's finished members, or of a baseline. None is a missing value.

    Attributes
    ----------
    variant : str
        Or the baseline's name (`BASELINES`).
    n, n_total : int
        Finished members, and all members.
    rmse_mean, rmse_std : float or None
        Mean and standard deviation over members of the scaled RMSE.
    rmse_unit_mean, rmse_unit_std : float or None
        The same of the RMSE in ``unit``.
    r2, mae : float or None
        Means over members; ``mae`` in ``unit``.
    rmse_of_mean : float or None
        RMSE of the ensemble's mean prediction, in ``unit``.
    not_learned : int or None
        Members that are no better than the baselines.
    """

    variant: str
    task: str
    n: int
    n_total: int
    rmse_mean: float | None
    rmse_std: float | None
    unit: str
    rmse_unit_mean: float | None
    rmse_unit_std: float | None
    r2: float | None
    mae: float | None
    rmse_of_mean: float | None = None
    not_learned: int | None = None


@dataclass(frozen=True)
class TimingRow:
    """Training times in seconds, and epochs, of a variant's ``n`` finished members of ``n_total``; None: no value."""

    variant: str
    n: int
    n_total: int
    seconds_mean: float | None
    seconds_std: float | None
    epochs_mean: float | None
    epochs_std: float | None


@dataclass
class Snapshot:
    """A campaign and its members, in the campaign's order, as they were in the folder at one moment.

    Attributes
    ----------
    summary : DatasetSummary or None
        Properties of the data set, and the errors of the baselines; ``summary_problem`` says why it is not known.
    baselines : bool
        Whether tables have rows for the baselines.
    coverages : sequence
        Of the ensembles' intervals (`report.analysis.coverage.Coverage`); empty until a report computes them.
    spreads : sequence or None
        Of resampled replicas (`report.analysis.spread.Spread`); None until a table computes them.
    """

    folder: CampaignFolder
    frozen: Frozen
    members: list[Member]
    summary: DatasetSummary | None = None
    summary_problem: str = ""
    baselines: bool = True
    coverages: Sequence[Any] = ()
    spreads: Sequence[Any] | None = None

    @property
    def campaign(self) -> Campaign:
        """The configuration."""
        return self.frozen.campaign

    def problems(self) -> list[str]:
        """Return which of the members' files cannot be read, and the consequences."""
        return [f"{m.name}: {m.problem}" for m in self.members if m.problem]

    @property
    def not_compared(self) -> str:
        """Why results are not compared with the baselines; empty where they are, or where there are no results."""
        return self.summary_problem if any(m.result for m in self.members) else ""

    def part(self, task: str, part: Literal["validation", "test"] = "test") -> PartSummary | None:
        """Return the summary of a task's target in the validation or the test set; None where it is not known."""
        target = self.summary.targets.get(self.campaign.tasks[task].field) if self.summary else None
        return getattr(target, part) if target else None

    def not_learned(self, member: Member) -> list[str]:
        """Return the tasks that a member predicts no better than the baselines (`learned.not_learned`)."""
        return learned.not_learned(member.result, self.campaign, self.summary) if member.result else []

    @property
    def closing_line(self) -> str:
        """What was not learned, by which members, and the likely remedies; empty where all was learned."""
        return learned.closing_line(self.members, self.campaign, self.summary)

    def errors_of_means(self) -> Mapping[tuple[str, str], float]:
        """Return the RMSE of the ensembles' mean predictions, in the unit, by (variant, task).

        Empty here: only :class:`report.results.load.Results` reads predictions.
        """
        return {}

    def finished(self, variant: str) -> list[Member]:
        """Return the finished members of a variant, without diverged and failed ones."""
        return self.finished_by_variant.get(variant, [])

    @cached_property
    def ended(self) -> dict[str, int]:
        """The points that a sweep's halving ended, and the epoch of the rung at which it did."""
        return halving.ended(self.campaign, ledger.read_rungs(self.folder))

    @cached_property
    def finished_by_variant(self) -> dict[str, list[Member]]:
        """The finished members of all variants, in the campaign's order."""
        finished: dict[str, list[Member]] = {v.name: [] for v in self.campaign.variants}
        for member in self.members:
            if member.state is State.FINISHED:
                finished[member.variant].append(member)
        return finished

    def predictions(self, member: Member) -> dict[str, np.ndarray] | None:
        """Return what a member predicts for the test set; None if it has no predictions.

        Returns
        -------
        dict or None
            ``sample``: ``[T]`` int64, numbers of the samples; and by task, in its unit, float64: ``[T, d]`` at graph
            level, ``[atoms of these samples in order, d]`` at node level; the noise that it predicts, if it does, has
            the same shape under `paths.noise_of` the task.

        Raises
        ------
        UserError
            If the file cannot be read.
        """
        return read_arrays(self.folder.member(member.variant, member.replica).predictions)

    def test_set(self) -> dict[str, np.ndarray] | None:
        """Return the test set; None before the first run has written it.

        Returns
        -------
        dict or None
            ``sample``: ``[T]`` int64; ``names``: ``[T]``; ``atom_offsets``: ``[T + 1]`` int64, where each sample's
            atoms start; ``atomic_numbers``; and the true values by field, in its unit, shaped as the predictions.

        Raises
        ------
        UserError
            If the file cannot be read.
        """
        return read_arrays(self.folder.test_set, "remove it, and run again")


def read(out: Path | str, running: Collection[str] = (), before: Snapshot | None = None) -> Snapshot:
    """Read a campaign's folder.

    Parameters
    ----------
    out : Path or str
        The campaign's folder.
    running : collection of str, optional
        Names of the members being trained now.
    before : Snapshot, optional
        An earlier snapshot of the same folder: members that had a result then are not read again.

    Raises
    ------
    UserError
        If the folder holds no campaign.
    """
    folder = CampaignFolder(out)
    frozen = ledger.read_frozen(folder)
    if before is None or before.frozen.hash != frozen.hash or len(before.members) != _size(frozen.campaign):
        members = ledger.read_members(folder, frozen.campaign, running)
    else:
        epochs = halving.epoch_limits(frozen.campaign, ledger.read_rungs(folder))
        members = [_refreshed(folder, member, running, epochs[member.variant]) for member in before.members]
    return Snapshot(folder, frozen, members, *learned.read_summary(folder, frozen.dataset_sha256))


def _refreshed(folder: CampaignFolder, member: Member, running: Collection[str], epochs: int) -> Member:
    if member.result is not None and (member.result.stopped_by != "epochs" or member.result.epochs >= epochs):
        return member
    current = ledger.read_member(folder, member.variant, member.replica, epochs)
    if current.result is None and current.name in running:
        current.state = State.RUNNING
    return current


def mean_std(values: Iterable[float]) -> tuple[float | None, float | None]:
    """Return mean and standard deviation (ddof = 1); None where there are too few values.

    Sums are exactly rounded (``math.fsum``), so that no digit depends on the order of the members.
    """
    values = list(values)
    if not values:
        return None, None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def metric(member: Member, task: str, name: str) -> float | None:
    """Return one of a member's metrics of a task (:class:`TaskErrors`), by name; None where it has none."""
    errors = member.result.tasks.get(task) if member.result else None
    return getattr(errors, name) if errors else None


def metrics(members: Iterable[Member], task: str, name: str) -> list[float]:
    """Return :func:`metric` of every member that has it."""
    return [v for v in (metric(m, task, name) for m in members) if v is not None]


def quantities(members: Iterable[Member], name: str) -> list[float]:
    """Return ``seconds`` or ``epochs`` of every member that has a result."""
    return [float(getattr(m.result, name)) for m in members if m.result]


def unit_of(snapshot: Snapshot, task: str) -> str:
    """Return a task's unit: from its results, otherwise of its known field, otherwise empty."""
    for member in snapshot.members:
        errors = member.result.tasks.get(task) if member.result else None
        if errors and errors.unit:
            return errors.unit
    known = PROPERTIES.get(snapshot.campaign.tasks[task].field)
    return known.unit if known else ""


def score(member: Member) -> float | None:
    """Return the score by which points of a sweep are ranked: the mean over tasks of the scaled validation RMSE."""
    return halving.score(member.result) if member.result else None


def origins(campaign: Campaign) -> dict[str, str]:
    """Return for each variant, by name, the variant that it is a point of; outside a sweep, the variant itself."""
    points = {p.name: p.of for p in campaign.sweep.points} if campaign.sweep else {}
    return {v.name: points.get(v.name, v.name) for v in campaign.variants}


def compared(snapshot: Snapshot) -> list[Variant]:
    """Return the variants that figures show and that are compared.

    Of a sweep's points, these are the best of each variant, by the mean of :func:`score` over members.
    """
    campaign = snapshot.campaign
    if campaign.sweep is None:
        return list(campaign.variants)
    best: dict[str, tuple[float, str]] = {}
    points = {p.name: p.of for p in campaign.sweep.points}
    for name, of in points.items():
        if name in snapshot.ended:
            continue
        mean = mean_std(s for m in snapshot.finished(name) if (s := score(m)) is not None)[0]
        if mean is not None and (of not in best or mean < best[of][0]):
            best[of] = (mean, name)
    kept = {name for _, name in best.values()}
    return [v for v in campaign.variants if v.name not in points or v.name in kept]


def columns(_: Snapshot, row: Table1Row | TimingRow) -> CsvRow:
    """Return a row of a csv file, whose columns are the record's fields."""
    return dict(vars(row))


def table1_rows(snapshot: Snapshot) -> list[Table1Row]:
    """Return Table 1: the variants' rows, and then the baselines', by task."""
    return variant_rows(snapshot) + [r for task in snapshot.campaign.tasks for r in _baseline_rows(snapshot, task)]


def variant_rows(snapshot: Snapshot) -> list[Table1Row]:
    """Return the variants' rows of Table 1: one per variant and task, over the finished members.

    Points that a sweep's halving ended have none: their errors are not those of a whole training.
    """
    units = {task: unit_of(snapshot, task) for task in snapshot.campaign.tasks}
    of_means = snapshot.errors_of_means()
    return [
        _table1_row(snapshot, variant.name, task, units[task], of_means.get((variant.name, task)))
        for variant in snapshot.campaign.variants
        if variant.name not in snapshot.ended
        for task in variant.tasks
    ]


def _table1_row(snapshot: Snapshot, variant: str, task: str, unit: str, of_mean: float | None) -> Table1Row:
    finished = snapshot.finished(variant)
    scaled = metrics(finished, task, "rmse")
    poor = sum(task in snapshot.not_learned(m) for m in finished)
    return Table1Row(
        variant, task, len(scaled), snapshot.campaign.replicas, *mean_std(scaled), unit,
        *mean_std(metrics(finished, task, "rmse_unit")),
        r2=mean_std(r for m in finished if (r := r2(snapshot, m, task)) is not None)[0],
        mae=mean_std(metrics(finished, task, "mae_unit"))[0],
        rmse_of_mean=of_mean, not_learned=poor if snapshot.part(task) else None,
    )  # fmt: skip


def _baseline_rows(snapshot: Snapshot, task: str) -> Iterator[Table1Row]:
    part, unit = snapshot.part(task) if snapshot.baselines else None, unit_of(snapshot, task)
    for key, name in BASELINES.items() if part else ():
        errors = getattr(part, key)
        yield Table1Row(name, task, 0, 0, errors.rmse, None, unit, errors.rmse_unit, None, errors.r2, errors.mae_unit)


def r2(snapshot: Snapshot, member: Member, task: str) -> float | None:
    """Return a member's R² of the test set, about each component's mean; None where it is not known."""
    part = snapshot.part(task)
    return part.r2(metric(member, task, "rmse_unit")) if part else None


def timing_rows(snapshot: Snapshot) -> list[TimingRow]:
    """Return the training times: a row per variant, over the finished members, in seconds."""
    rows = []
    for name, finished in snapshot.finished_by_variant.items():
        seconds, epochs = quantities(finished, "seconds"), quantities(finished, "epochs")
        counts = (len(seconds), snapshot.campaign.replicas)
        rows.append(TimingRow(name, *counts, *mean_std(seconds), *mean_std(epochs)))
    return rows


def member_columns(snapshot: Snapshot, member: Member) -> CsvRow:
    """Return a member's row: state, errors per task, training, place, cause of its last failure."""
    result, tasks = member.result, list(snapshot.campaign.tasks)
    row: CsvRow = {"variant": member.variant, "replica": member.replica, "state": member.state.value}
    row["seed"] = result.seed if result else None
    for task in tasks:
        row.update({f"{name}_{task}": metric(member, task, name) for name in ("rmse", "rmse_unit", "mae", "mae_unit")})
    for key in _RESULT_COLUMNS:
        row[key] = getattr(result, key) if result else None
    sessions = result.sessions if result else ()
    row["sessions"] = len(sessions)
    row["stack"] = " ".join(map(str, result.stack)) if result else ""
    row["host"] = sessions[-1].host if sessions else ""
    row["device"] = result.device.label if result else ""
    row["failures"] = len(member.failures)
    row["cause"] = last_cause(member)
    row["weights_sha256"] = result.weights_sha256 if result else None
    row.update({f"r2_{task}": r2(snapshot, member, task) for task in tasks})
    row["not_learned"] = " ".join(snapshot.not_learned(member))
    return row


def last_cause(member: Member) -> str:
    """Return the cause of a member's last failure; empty if it has none."""
    return text.line(member.failures[-1].cause) if member.failures else ""


def stacked(snapshot: Snapshot) -> int:
    """Return the largest stack that any result was trained in (1: every member trained alone)."""
    return max((len(m.result.stack) for m in snapshot.members if m.result), default=1)


def times_measured(snapshot: Snapshot) -> dict[str, int]:
    """Return how many training times were measured, by variant: one per stack."""
    finished = snapshot.finished_by_variant.items()
    return {name: len({m.result.stack for m in own if m.result}) for name, own in finished}


def stacking_note(snapshot: Snapshot) -> str:
    """Return a sentence on the times of stacked members; empty where every member was trained alone."""
    size = stacked(snapshot)
    return f"Members were trained in stacks of up to {size}: a member's time is that of its stack." if size > 1 else ""


def _size(campaign: Campaign) -> int:
    return len(campaign.variants) * campaign.replicas
