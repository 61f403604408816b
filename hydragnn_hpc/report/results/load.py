"""A campaign's results from its folder alone, as tidy pandas frames and arrays."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Member
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.live import running_now

HISTORY = ("epoch", "train_loss", "validation_loss", "learning_rate", "seconds_training", "seconds_validation")


class Results(rows.Snapshot):
    """A campaign's results: :class:`~hydragnn_hpc.report.results.rows.Snapshot` with frames.

    Attributes
    ----------
    members_frame, table1, timing : pandas.DataFrame
        The tables as in ``members.csv``, ``table1.csv`` and ``timing.csv``.
    errors : pandas.DataFrame
        A row per finished member and task: ``variant, replica, task, rmse, rmse_unit, mae, mae_unit, unit``.
    """

    @cached_property
    def members_frame(self) -> pd.DataFrame:
        """A row per member."""
        return pd.DataFrame(rows.member_rows(self))

    @cached_property
    def table1(self) -> pd.DataFrame:
        """A row per variant and task; NaN where there is no value."""
        return _numeric(pd.DataFrame(rows.table1_rows(self), columns=list(rows.TABLE1)))

    @cached_property
    def timing(self) -> pd.DataFrame:
        """A row per variant; NaN where there is no value."""
        return _numeric(pd.DataFrame(rows.timing_rows(self), columns=list(rows.TIMING)))

    @cached_property
    def errors(self) -> pd.DataFrame:
        """A row per finished member and task."""
        names = ("rmse", "rmse_unit", "mae", "mae_unit")
        found = [
            (v.name, m.replica, task, *(rows.metric(m, task, n) for n in names), rows.unit_of(self, task))
            for v in self.campaign.variants
            for m in self.finished(v.name)
            for task in v.tasks
        ]
        return pd.DataFrame(found, columns=["variant", "replica", "task", *names, "unit"])

    def history(self, member: Member) -> pd.DataFrame | None:
        """Return a member's ``history.csv`` (:data:`HISTORY`), None where there is none.

        Raises
        ------
        UserError
            If the file is not one.
        """
        path = self.folder.member(member.variant, member.replica).history
        if not path.exists():
            return None
        try:
            found = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}; remove it and run again") from error
        if not {"epoch", "train_loss", "validation_loss"} <= set(found.columns):
            raise UserError(
                f"{path} is no history: it lacks epoch, train_loss or validation_loss; remove it and run again"
            )
        return found

    def predictions(self, member: Member) -> dict[str, np.ndarray] | None:
        """Return a member's ``predictions.npz``, ``sample`` and an array per task in its unit; None if it has none."""
        return read_arrays(self.folder.member(member.variant, member.replica).predictions)


def load(out: Path | str) -> Results:
    """Read a campaign's folder, finished or not.

    Raises
    ------
    UserError
        If the folder holds no campaign, or a result cannot be read.
    """
    snapshot = rows.read(out, running_now(CampaignFolder(out)))
    return Results(snapshot.folder, snapshot.frozen, snapshot.members)


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read an ``.npz`` file into memory; None where there is none.

    Raises
    ------
    UserError
        If the file is not one.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except FileNotFoundError:
        return None
    except Exception as error:  # on a damaged file NumPy raises whatever its zip reader runs into
        raise UserError(f"cannot read {path}: {error}; remove it and its member's result.json, run again") from error


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    columns = [c for c in frame.columns if c.endswith(("_mean", "_std"))]
    return frame.astype(dict.fromkeys(columns, float))
