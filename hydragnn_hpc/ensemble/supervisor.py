"""The main loop of a rank: it runs its workers and forwards their reports; on rank 0 it also runs the controller."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
import traceback
from collections import Counter, deque
from pathlib import Path
from types import FrameType

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.staged import requirements
from hydragnn_hpc.dataset.staged.copies import SUMMARY, open_staged, write_truth
from hydragnn_hpc.dataset.staged.staging import Staging
from hydragnn_hpc.ensemble import startup
from hydragnn_hpc.ensemble.controller import Controller
from hydragnn_hpc.ensemble.launcher import worker_environment
from hydragnn_hpc.ensemble.lines import wait_readable
from hydragnn_hpc.ensemble.lock import RunLock
from hydragnn_hpc.ensemble.messenger import Messenger, RankMonitor, RankPlacement
from hydragnn_hpc.ensemble.options import RunOptions
from hydragnn_hpc.ensemble.workers import WorkerOptions, WorkerProcess, Workers
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.fields import PARTS
from hydragnn_hpc.logs import print_line
from hydragnn_hpc.paths import CampaignFolder, read_record, write_record
from hydragnn_hpc.records.messages import (
    End,
    Farewell,
    Heartbeat,
    RankFailed,
    RankMessage,
    SignalReceived,
    Staged,
    WorkerCommand,
    WorkerReport,
)
from hydragnn_hpc.records.summary import DatasetSummary

_POLL_SECONDS = 0.03  # between two polls for messages: MPI cannot wait with a timeout
_QUICK_SECONDS = 0.002  # the same while messages arrive, since an answer may be on its way
_ACTIVE_SECONDS = 0.2  # polling stays quick for this long after the last message
_BEATS_PER_SECOND = 200  # limit for all ranks together, since rank 0 answers each heartbeat
_MOST_PROBES = 3  # heartbeats that rank 0 sends to a silent rank
_SIGNALS_TO_KILL = 3  # the third says that the user will not wait until everything is saved


class _LeaveError(Exception):
    """The run ended while the data were being staged."""


class Rank:
    """One rank: its workers and its messages.

    Parameters
    ----------
    options : RunOptions
    folder : CampaignFolder
    campaign : Campaign
        As frozen in the folder.
    messenger : Messenger
    placements : list of RankPlacement
        Of every rank.

    Attributes
    ----------
    controller : Controller or None
        Only on rank 0.
    lock : RunLock or None
        Only on rank 0.
    """

    def __init__(
        self,
        options: RunOptions,
        folder: CampaignFolder,
        campaign: Campaign,
        messenger: Messenger,
        placements: list[RankPlacement],
    ) -> None:
        self._options, self._folder, self._campaign = options, folder, campaign
        self._messenger, self._placements = messenger, placements
        self._placement = placements[messenger.rank]
        self._workers = Workers(self._start_worker)
        self._to_self: deque[tuple[int, RankMessage]] = deque()  # messages from this rank to itself
        self._timings = options.timings
        if messenger.rank == 0:
            self._monitor = RankMonitor(messenger, range(1, messenger.size), self._timings.lost)
        else:
            self._monitor = RankMonitor(messenger, [0], self._timings.headless)
        self._dismissed: set[int] = set()  # ranks that were considered lost, came back, and have been sent `End`
        self._probes: Counter[int] = Counter()  # heartbeats sent to silent ranks
        self._beat_at = time.monotonic()
        self._beat_seconds = max(self._timings.heartbeat, messenger.size / _BEATS_PER_SECOND)
        self._active_at = -math.inf
        self._staged: Path | None = None
        self._end: ExitCode | None = None
        self._signals: list[int] = []
        self._signals_handled = 0
        self.controller: Controller | None = None
        self.lock: RunLock | None = None

    def run(self) -> ExitCode:
        """Run until the campaign is finished, or the run must stop; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        failure: UserError | None = None
        with contextlib.ExitStack() as stack:
            stack.callback(self._workers.end)
            try:
                with contextlib.suppress(_LeaveError):
                    self._stage(stack)
                self._loop()
            except UserError as error:
                failure = error
            except Exception:
                for line in traceback.format_exc().splitlines():
                    print_line(line)
                failure = UserError(f"rank {self._placement.rank}: internal error, see above", ExitCode.MEMBERS_FAILED)
            if failure is not None:
                failure = self._report(failure)
            if self.controller is not None:
                failure = self._conclude(failure)
        return self._leave(failure)

    # Start

    def _stage(self, stack: contextlib.ExitStack) -> None:
        """On a node's first rank: make the node's copy of the data, and notify the other ranks of the node."""
        if self._placement.rank != self._placement.leader:
            return
        startup.remove_abandoned()
        required = requirements.of_all(self._campaign)
        staging = Staging(Path(self._campaign.dataset), self._options.stage_dir, self._listen, required=required)
        self._staged = stack.enter_context(staging).folder
        if self.controller is not None:
            self._write_report_data(self._staged)
        for placement in self._placements:
            if placement.leader == self._placement.rank:
                self._send(placement.rank, Staged(folder=self._staged))

    def _write_report_data(self, staged: Path) -> None:
        """Rank 0: write into the campaign's folder what reports need of the data set."""
        if not self._folder.dataset.exists():
            write_record(self._folder.dataset, read_record(staged / SUMMARY, DatasetSummary))
        for part, path in (("test", self._folder.test_set), ("validation", self._folder.validation_set)):
            if not path.exists():
                write_truth(open_staged(staged), PARTS.index(part), path)

    def _listen(self) -> None:
        """Handle messages while the data are being staged; abandon staging once the run ends."""
        self._turn()
        if self._end is None:
            return
        # Even if other nodes have trained all members in the meantime, rank 0 still needs the data for the report.
        kept = self._folder.test_set.exists() and self._folder.dataset.exists()
        if self.controller is None or self.controller.cut_short or kept:
            raise _LeaveError

    def _start_worker(self, slot: int) -> WorkerProcess:
        options = WorkerOptions(
            command=self._options.worker_command,
            environment=worker_environment(os.environ),
            campaign=self._folder.root,
            staged=self._staged or Path(),
            rank=self._placement.rank,
            local_rank=self._placement.local_rank,
            silence=self._campaign.launch.silence_seconds,
            require_gpu=self._options.require_gpu,
        )
        return WorkerProcess(options, slot, self._folder.worker_log(self._placement.rank, slot))

    # Loop

    def _loop(self) -> None:
        while self._end is None:
            self._pause(self._turn())

    def _turn(self) -> bool:
        """Handle all messages and reports that have arrived; return whether there were any."""
        arrived = self._arrived()
        for source, message in arrived:
            self._take(source, message)
        reports = self._workers.poll()
        for slot, report in reports:
            self._send(0, WorkerReport(slot=slot, report=report))
        self._pass_on_signals()
        if self.controller is not None:
            self._control(self.controller)
        elif self._monitor.newly_lost():
            problem = "rank 0 no longer answers, and may have been killed; run the same command again"
            raise UserError(problem, ExitCode.AGAIN)
        self._beat()
        return bool(arrived or reports)

    def _pause(self, active: bool) -> None:
        """Wait a moment, or until a worker sends something."""
        now = time.monotonic()
        if active:
            self._active_at = now
        seconds = 0.0 if self._to_self else _QUICK_SECONDS if now - self._active_at < _ACTIVE_SECONDS else _POLL_SECONDS
        wait_readable(self._workers.pipes, seconds)

    def _arrived(self) -> list[tuple[int, RankMessage]]:
        own = list(self._to_self)
        self._to_self.clear()
        return [*own, *self._messenger.receive()]

    def _take(self, source: int, message: RankMessage) -> None:
        self._monitor.record_message(source)
        self._probes.pop(source, None)
        if self.controller is not None and source in self._monitor.lost:
            self._dismiss(source)
        elif self.controller is not None and self._take_as_controller(self.controller, source, message):
            pass
        elif isinstance(message, Staged):
            self._staged = message.folder
            for slot in range(self._campaign.launch.slots_per_device):
                self._workers.start(slot)
        elif isinstance(message, End):
            self._end = message.code
        elif isinstance(message, WorkerCommand):
            self._workers.send(message.slot, message.command)

    def _take_as_controller(self, controller: Controller, source: int, message: RankMessage) -> bool:
        """Rank 0: handle a message to the controller; return whether it was one."""
        if isinstance(message, Heartbeat):
            self._send(source, Heartbeat())
        elif isinstance(message, SignalReceived):
            self._stop_by_signal(controller, message.number)
        elif isinstance(message, WorkerReport):
            controller.take((source, message.slot), message.report)
        elif isinstance(message, RankFailed):
            controller.fatal = UserError(message.error, message.code)
        else:
            return False
        return True

    def _dismiss(self, rank: int) -> None:
        """Rank 0: end a rank that was considered lost but is alive, since other ranks now train its members."""
        if rank not in self._dismissed:
            self._dismissed.add(rank)
            self._messenger.send(rank, End(code=ExitCode.AGAIN))

    def _send(self, to: int, message: RankMessage) -> None:
        if to == self._placement.rank:
            self._to_self.append((to, message))
        else:
            self._messenger.send(to, message)

    def _beat(self) -> None:
        if self.lock is not None and not self.lock.beat():
            message = "this run stalled for too long, and another run has taken the folder; leave it to that run"
            raise UserError(f"{self._folder.root}: {message}", ExitCode.AGAIN)
        if time.monotonic() - self._beat_at < self._beat_seconds:
            return
        self._beat_at = time.monotonic()
        if self.controller is None:
            self._messenger.send(0, Heartbeat())  # rank 0 answers
            return
        # Over a network, a message to a rank that has ended fails at once, which shows that it is gone. Only a few are
        # sent: to a rank on this host, they would fill the memory that all ranks of the host share for messages.
        for rank in self._monitor.silent(3 * self._beat_seconds):
            if self._probes[rank] < _MOST_PROBES:
                self._probes[rank] += 1
                self._messenger.send(rank, Heartbeat())

    def _control(self, controller: Controller) -> None:
        for worker, command in controller.commands():
            self._send(worker[0], WorkerCommand(slot=worker[1], command=command))
        for rank in self._monitor.newly_lost():
            controller.lost(rank)
        controller.tick()
        if controller.over and not self._to_self:
            self._end = ExitCode.MEMBERS_FAILED  # ends the loop; _conclude sets the exit code

    # End

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        if len(self._signals) >= _SIGNALS_TO_KILL:  # checkpoints are kept
            self._workers.kill()
            os._exit(ExitCode.INTERRUPTED)

    def _pass_on_signals(self) -> None:
        while self._signals_handled < len(self._signals):
            number = self._signals[self._signals_handled]
            self._signals_handled += 1
            if self.controller is not None:
                self._stop_by_signal(self.controller, number)
            else:
                self._send(0, SignalReceived(number=number))

    def _stop_by_signal(self, controller: Controller, number: int) -> None:
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.AGAIN
        controller.stop(code, f"{signal.Signals(number).name} received")

    def _report(self, failure: UserError) -> UserError | None:
        """Report a failure of this rank to rank 0, which displays it; return the error that this rank must raise."""
        if self.controller is not None:
            return failure
        error = f"rank {self._placement.rank} ({self._placement.host}): {failure}"
        self._send(0, RankFailed(error=error, code=failure.exit_code))
        while self._end is None and not self._monitor.lost:
            for source, message in self._messenger.receive():
                self._take(source, message)
            self._beat()
            self._monitor.newly_lost()
            time.sleep(_POLL_SECONDS)
        return failure if self._end is None else None

    def _conclude(self, failure: UserError | None) -> UserError | None:
        """Rank 0: send all ranks the exit code, and write the final files."""
        assert self.controller is not None and self.lock is not None
        try:
            self._end = self.controller.exit_code() if failure is None else failure.exit_code
        except UserError as error:
            failure, self._end = error, error.exit_code
        for rank in range(1, self._messenger.size):
            if rank not in self._dismissed | self._messenger.unreachable:
                self._messenger.send(rank, End(code=self._end))
        self._workers.end()
        self.controller.close(owned=self.lock.beat(force=True))
        self._await_farewells(self.lock)
        self.lock.release()
        return failure

    def _await_farewells(self, lock: RunLock) -> None:
        """Rank 0: receive messages until every rank has sent its farewell.

        A process that exits with unread messages resets its connections: over a network, its last message, which ends
        the run, would not arrive.
        """
        while self._monitor.expected:
            for source, message in self._messenger.receive():
                self._monitor.record_message(source)
                if isinstance(message, Farewell):
                    self._monitor.departed.add(source)
            self._monitor.newly_lost()
            lock.beat()
            time.sleep(_QUICK_SECONDS)

    def _leave(self, failure: UserError | None) -> ExitCode:
        """Send the farewell, and return the exit code or raise this rank's failure."""
        code = ExitCode.MEMBERS_FAILED if self._end is None else self._end
        code = code if failure is None else failure.exit_code
        if self._monitor.lost:
            # MPI_Finalize waits for all ranks: with one of them lost, it would never return.
            if failure is not None:
                print_line(f"hydragnn-hpc: error: {failure}")
            if self.controller is None:
                time.sleep(self._timings.notice)  # so that the others notice too, and remove their copies
            self._messenger.abort(int(code))
        if self.controller is None and self._end is not None:
            self._messenger.send(0, Farewell())
        self._messenger.close(int(code))
        if failure is not None:
            raise failure
        return code
