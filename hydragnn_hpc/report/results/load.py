"""A campaign's results from its folder alone, as tidy pandas frames and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import pandas as pd

from hydragnn_hpc.calibration import Calibration, calibrate
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.member import HISTORY
from hydragnn_hpc.report.results import ground_truth, predictions, rows
from hydragnn_hpc.report.results.live import read_live
from hydragnn_hpc.report.results.predictions import CollectedPredictions
from hydragnn_hpc.report.results.rows import Table1Row, TimingRow

_REMEDY = "remove it: reports then lack this learning curve, and nothing else"


class Results(rows.Snapshot):
    """A campaign's results, as the folder showed them when :func:`load` read it.

    Attributes
    ----------
    campaign : Campaign
        The configuration.
    members : list of Member
        All members, in the campaign's order: ``variant``, ``replica``, ``name`` (``HCM/00``), ``state``, ``result``
        (the content of ``result.json``, None until the member has finished) and ``failures``.
    members_frame, table1, timing : pandas.DataFrame
        The tables as in ``members.csv``, ``table1.csv`` (the variants' rows) and ``timing.csv``.
    errors : pandas.DataFrame
        A row per finished member and task: ``variant, replica, task, rmse, rmse_unit, mae, mae_unit, unit``. ``rmse``
        and ``mae`` are scaled, the others in ``unit``; all are of the test set.
    """

    @cached_property
    def members_frame(self) -> pd.DataFrame:
        """A row per member."""
        return pd.DataFrame([rows.member_columns(self, m) for m in self.members])

    @cached_property
    def table1(self) -> pd.DataFrame:
        """A row per variant and task, without the baselines; NaN where there is no value."""
        return _frame(rows.variant_rows(self), Table1Row)

    @cached_property
    def collected(self) -> CollectedPredictions:
        """Statistics of all finished members' predictions, and problems; empty without a readable test set."""
        try:
            return predictions.collect(self, ground_truth.read_test_set(self))
        except UserError:
            return CollectedPredictions({}, [])

    def calibration(self, variant: str) -> Calibration:
        """Return the calibration of a variant's finished members, from their predictions for the validation set."""
        if variant not in self._calibrations:
            self._calibrations[variant] = calibrate(self.folder, self.campaign, self.finished(variant))
        return self._calibrations[variant]

    @cached_property
    def _calibrations(self) -> dict[str, Calibration]:
        return {}

    def errors_of_means(self) -> Mapping[tuple[str, str], float]:
        """Return the RMSE of the mean prediction, in the unit, of ensembles of two members or more."""
        return {key: e.rmse_of_mean for key, e in self.collected.ensembles.items() if e.n > 1}

    @cached_property
    def timing(self) -> pd.DataFrame:
        """A row per variant; NaN where there is no value."""
        return _frame(rows.timing_rows(self), TimingRow)

    @cached_property
    def errors(self) -> pd.DataFrame:
        """A row per finished member and task."""
        names = ("rmse", "rmse_unit", "mae", "mae_unit")
        records = [
            (v.name, m.replica, task, *(rows.metric(m, task, n) for n in names), rows.unit_of(self, task))
            for v in self.campaign.variants
            for m in self.finished(v.name)
            for task in v.tasks
        ]
        return pd.DataFrame(records, columns=["variant", "replica", "task", *names, "unit"])

    def history(self, member: Member) -> pd.DataFrame | None:
        """Return a member's ``history.csv``, with the columns :data:`HISTORY`; None if there is none.

        Raises
        ------
        UserError
            If the file is not valid, or may not be read.
        """
        path = self.folder.member(member.variant, member.replica).history
        try:
            history = pd.read_csv(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; make it readable") from error
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}; {_REMEDY}") from error
        if not {"epoch", "train_loss", "validation_loss"} <= set(history.columns):
            raise UserError(f"{path} is not a history: it lacks epoch, train_loss or validation_loss; {_REMEDY}")
        if len(history) and any(history[name].dtype.kind not in "iuf" for name in HISTORY if name in history):
            raise UserError(f"{path} is not a history: a value in it is not a number; {_REMEDY}")
        return history[[c for c in HISTORY if c in history]]


def load(out: Path | str) -> Results:
    """Read the results of a campaign, finished or running, from its folder.

    Parameters
    ----------
    out : Path or str
        The campaign's folder.

    Returns
    -------
    Results

    Raises
    ------
    UserError
        If the folder holds no campaign.

    Examples
    --------
    >>> import hydragnn_hpc
    >>> results = hydragnn_hpc.load("runs/quickstart")
    >>> results.table1.columns.to_list()[:6]
    ['variant', 'task', 'n', 'n_total', 'rmse_mean', 'rmse_std']
    >>> results.errors.groupby(["variant", "task"]).rmse.median().loc["HCM"].index.to_list()
    ['C', 'H', 'M']
    >>> member = results.finished("HCM")[0]
    >>> error = results.predictions(member)["H"] - results.test_set()["mixing_enthalpy"]
    >>> bool(abs((error**2).mean() ** 0.5 / member.result.tasks["H"].rmse_unit - 1) < 1e-6)
    True
    """
    out = Path(out).absolute()  # arrays are read later, perhaps from another working folder
    snapshot = rows.read(out, read_live(CampaignFolder(out)).running)
    return Results(**{field.name: getattr(snapshot, field.name) for field in fields(snapshot)})


def _frame(records: Sequence[Table1Row] | Sequence[TimingRow], of: type[Table1Row | TimingRow]) -> pd.DataFrame:
    """Return the fields of records as columns, those that may be missing as floats: None becomes NaN."""
    frame = pd.DataFrame(records, columns=[field.name for field in fields(of)])
    columns = [c for c in frame.columns if c.endswith(("_mean", "_std")) or c in ("r2", "mae", "not_learned")]
    return frame.astype(dict.fromkeys(columns, float))
