"""The files in a campaign's folder that rank 0 reads and writes during a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from hydragnn_hpc import learned, ledger
from hydragnn_hpc.atomic import storage_errors
from hydragnn_hpc.counts import counted
from hydragnn_hpc.durations import in_words
from hydragnn_hpc.ensemble.stack_queue import MemberName, WorkerId
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import Frozen, Member
from hydragnn_hpc.paths import CampaignFolder, append_record, read_record, write_record
from hydragnn_hpc.records.member import Failure, Result
from hydragnn_hpc.records.run import LogEntry, Progress
from hydragnn_hpc.records.summary import DatasetSummary

_PROGRESS_SECONDS = 2.0
_TABLES_SECONDS = 5.0
_TABLES_SHARE = 50.0  # minimum time between two updates of the tables, as a multiple of the time that an update takes


class RunFiles:
    """Reads results, and writes files that training does not need.

    An error in writing one is shown, and does not end the run: members can still be saved.

    Parameters
    ----------
    frozen : Frozen
    folder : CampaignFolder
    show : callable
        Shows a line to the user.
    update_tables : callable
        Brings the tables up to date.

    Attributes
    ----------
    changed : bool
        Whether the tables are out of date.
    """

    def __init__(
        self, frozen: Frozen, folder: CampaignFolder, show: Callable[[str], None], update_tables: Callable[[], object]
    ) -> None:
        self._frozen, self._folder, self._show, self._update_tables = frozen, folder, show, update_tables
        self._progress_at = self._tables_at = -math.inf
        self._tables_interval = _TABLES_SECONDS
        self._last_error = ""
        self._summary_read: DatasetSummary | None = None
        self.changed = True

    def log(self, kind: Callable[..., LogEntry], worker: WorkerId | None = None, **content: Any) -> None:
        """Append an entry of this kind and content, about ``worker`` if given, to the event log."""
        place = {} if worker is None else {"rank": worker[0], "slot": worker[1]}
        self._safely(lambda: append_record(self._folder.events, kind(time=ledger.now(), **place, **content)))

    def progress_is_due(self) -> bool:
        """Whether it is time to write ``progress.json`` again."""
        return time.monotonic() - self._progress_at >= _PROGRESS_SECONDS

    def write_progress(self, progress: Progress) -> None:
        """Write ``progress.json``."""
        self._progress_at = time.monotonic()
        self._safely(lambda: write_record(self._folder.progress, progress))

    def remove_progress(self) -> None:
        """Remove ``progress.json``: the run is over."""

        def remove() -> None:
            with storage_errors(self._folder.progress):
                self._folder.progress.unlink(missing_ok=True)

        self._safely(remove)

    def tables_are_due(self) -> bool:
        """Whether the tables are out of date, and it is time to update them."""
        return self.changed and time.monotonic() - self._tables_at >= self._tables_interval

    def write_tables(self) -> None:
        """Bring the tables up to date."""
        self.changed, self._tables_at = False, time.monotonic()
        self._safely(self._update_tables)
        # Reading thousands of members takes seconds: tables are then updated less often, so that no worker has to wait.
        self._tables_interval = max(_TABLES_SECONDS, _TABLES_SHARE * (time.monotonic() - self._tables_at))

    def add_failure(self, name: MemberName, failure: Failure) -> None:
        """Record a member's failed attempt."""
        self._safely(lambda: ledger.add_failure(self._folder.member(*name), failure))

    def remove_remains(self, member: Member) -> None:
        """Remove what a member with a result no longer needs."""
        campaign = self._frozen.campaign
        if member.result is not None:
            keep = ledger.keeps_checkpoint(campaign, campaign.variant(member.variant), member.result)
            files = self._folder.member(member.variant, member.replica)
            self._safely(lambda: ledger.remove_remains(files, keep))

    def result_line(self, name: MemberName) -> tuple[str, float]:
        """Return a summary of a member's result, and its training time in seconds."""
        try:
            result = read_record(self._folder.member(*name).result, Result)
        except UserError as error:
            return f"its result cannot be read ({error})", 0.0
        errors = " ".join(f"{task} {e.rmse:.3g}" for task, e in result.tasks.items() if e.rmse is not None)
        poor = ", ".join(learned.not_learned(result, self._frozen.campaign, self._summary))
        remark = f"; no better than the baselines: {poor}" if poor else ""
        epochs = counted(result.epochs, "epoch")
        return f"test RMSE {errors or 'none'}, {epochs}, {in_words(result.seconds)}{remark}", result.seconds

    def closing_line(self) -> str:
        """Return what was not learned, and likely remedies; empty if all was learned (`learned.closing_line`)."""
        if self._summary is None:
            return ""
        try:
            members = ledger.read_members(self._folder, self._frozen.campaign)
        except UserError:  # the decisions of a sweep's halving; what needs them has failed with this error
            return ""
        return learned.closing_line(members, self._frozen.campaign, self._summary)

    @property
    def _summary(self) -> DatasetSummary | None:
        """The summary of the data; None until this node's copy has been made, or where it cannot be read."""
        if self._summary_read is None:
            self._summary_read = learned.read_summary(self._folder, self._frozen.dataset_sha256)[0]
        return self._summary_read

    def _safely(self, write: Callable[[], object]) -> None:
        """Call ``write``; show its error, unless it is the same as the last one."""
        try:
            write()
        except Exception as error:
            if str(error) != self._last_error:
                self._last_error = str(error)
                self._show(f"cannot record progress: {error}")
