"""The loop of a rank: keeps its workers, passes on what they say; rank 0 besides steers the campaign."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.staged.copies import Staging, open_staged, write_test_set
from hydragnn_hpc.dataset.staged.requirements import Requirements
from hydragnn_hpc.ensemble import startup
from hydragnn_hpc.ensemble.children import WORKER_COMMAND, Child, WorkerOptions, Workers
from hydragnn_hpc.ensemble.head import Head
from hydragnn_hpc.ensemble.launcher import worker_environment
from hydragnn_hpc.ensemble.lines import wait_readable
from hydragnn_hpc.ensemble.lock import RunLock
from hydragnn_hpc.ensemble.messages import Messenger, Place, Roll
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.logs import tell
from hydragnn_hpc.paths import CampaignFolder
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

_POLL_SECONDS = 0.03  # between two looks for messages; MPI can only be asked
_QUICK_SECONDS = 0.002  # while something goes on: an answer may be under way
_ACTIVE_SECONDS = 0.2
_BEAT_SECONDS = 5.0  # and more on many ranks, lest rank 0 hears of nothing else
_BEATS_PER_SECOND = 200
_QUESTIONS = 3
_LOST_SECONDS = 120.0  # without a beat of a rank; generous, since a rank on a loaded node may be late
_HEADLESS_SECONDS = 600.0  # without a beat of rank 0, which may be held up by a file system while it writes tables
_NOTICE_SECONDS = 20.0  # in which all ranks notice that one is lost, and clean up


@dataclass(frozen=True)
class RunOptions:
    """What ``run`` was asked for.

    Attributes
    ----------
    campaign : Path
    overrides : list of str
    out : Path
    seconds : float or None
        Time limit.
    start_seconds : float
        Time limit for MPI's start.
    local_rank : int or None
    stage_dir : Path or None
    on_change : callable
        Called on rank 0 with the folder when results have changed.
    worker_command : tuple of str
        The worker's program.
    """

    campaign: Path
    overrides: list[str]
    out: Path
    seconds: float | None
    start_seconds: float
    local_rank: int | None
    stage_dir: Path | None
    on_change: Callable[[Path], object]
    worker_command: tuple[str, ...] = WORKER_COMMAND


class _LeaveError(Exception):
    """The run ended while the data were staged."""


class Rank:
    """One rank: its workers and its messages.

    Attributes
    ----------
    head : Head or None
        On rank 0.
    lock : RunLock or None
        On rank 0.
    """

    def __init__(
        self, options: RunOptions, folder: CampaignFolder, campaign: Campaign, messenger: Messenger, where: list[Place]
    ) -> None:
        self._options, self._folder, self._campaign = options, folder, campaign
        self._messenger, self._where = messenger, where
        self._place = where[messenger.rank]
        self._workers = Workers(self._start_child)
        self._own: deque[tuple[int, RankMessage]] = deque()  # messages to this rank itself
        head = messenger.rank == 0
        # Rank 0 listens for all others, they for rank 0.
        others, patience = (range(1, messenger.size), _LOST_SECONDS) if head else (range(1), _HEADLESS_SECONDS)
        self._roll = Roll(messenger, others, patience)
        self._dismissed: set[int] = set()  # told to end, since they had been taken for lost
        self._asked: Counter[int] = Counter()  # silent ranks, since they were last heard of
        self._beat_at = time.monotonic()
        self._beat_seconds = max(_BEAT_SECONDS, messenger.size / _BEATS_PER_SECOND)
        self._active_at = -math.inf
        self._staged: Path | None = None
        self._end: ExitCode | None = None
        self._signals: list[int] = []
        self._reported = 0
        self.head: Head | None = None
        self.lock: RunLock | None = None

    def run(self) -> ExitCode:
        """Run to the campaign's end."""
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
                tell(traceback.format_exc().rstrip())
                failure = UserError(f"rank {self._place.rank}: internal error, see above", ExitCode.MEMBERS_FAILED)
            if failure is not None:
                failure = self._report(failure)
            if self.head is not None:
                failure = self._conclude(failure)
        return self._leave(failure)

    # Start

    def _stage(self, stack: contextlib.ExitStack) -> None:
        """Have the node's copy made by its first rank; the others learn of it by message."""
        if self._place.rank != self._place.leader:
            return
        startup.remove_abandoned()
        wanted = Requirements.of(self._campaign)
        staging = Staging(Path(self._campaign.dataset), self._options.stage_dir, self._listen, wanted=wanted)
        self._staged = stack.enter_context(staging).folder
        if self.head is not None and not self._folder.test_set.exists():
            write_test_set(open_staged(self._staged), self._folder.test_set)
        for place in self._where:
            if place.leader == self._place.rank:
                self._send(place.rank, Staged(folder=self._staged))

    def _listen(self) -> None:
        """While the data are staged: go on talking, and leave off once the run ends."""
        self._turn()
        if self._end is None:
            return
        # Even if other nodes have trained all members meanwhile, rank 0 still needs the data for the test set.
        if self.head is None or self.head.cut_short or self._folder.test_set.exists():
            raise _LeaveError

    def _start_child(self, slot: int) -> Child:
        options = WorkerOptions(
            self._options.worker_command,
            worker_environment(os.environ),
            self._folder.root,
            self._staged or Path(),
            self._place.rank,
            self._place.local_rank,
            self._campaign.launch.silence_seconds,
        )
        return Child(options, slot, self._folder.worker_log(self._place.rank, slot))

    # Loop

    def _loop(self) -> None:
        while self._end is None:
            self._pause(self._turn())

    def _turn(self) -> bool:
        """Hear all that has come, and act; return whether anything had come."""
        arrived = self._arrived()
        for source, message in arrived:
            self._take(source, message)
        reports = self._workers.poll()
        for slot, report in reports:
            self._send(0, WorkerReport(slot=slot, report=report))
        self._pass_on_signals()
        if self.head is not None:
            self._steer(self.head)
        elif self._roll.newly_lost():
            words = "rank 0 no longer answers, and has perhaps been killed; run the same command again"
            raise UserError(words, ExitCode.AGAIN)
        self._beat()
        return bool(arrived or reports)

    def _pause(self, active: bool) -> None:
        """Wait a moment, or until a worker says something."""
        now = time.monotonic()
        if active:
            self._active_at = now
        seconds = 0.0 if self._own else _QUICK_SECONDS if now - self._active_at < _ACTIVE_SECONDS else _POLL_SECONDS
        wait_readable(self._workers.pipes, seconds)

    def _arrived(self) -> list[tuple[int, RankMessage]]:
        own = list(self._own)
        self._own.clear()
        return [*own, *self._messenger.receive()]

    def _take(self, source: int, message: RankMessage) -> None:
        self._roll.hear(source)
        self._asked.pop(source, None)
        if self.head is not None and source in self._roll.lost:
            self._dismiss(source)
        elif self.head is not None and self._take_as_head(self.head, source, message):
            pass
        elif isinstance(message, Staged):
            self._staged = message.folder
            for slot in range(self._campaign.launch.slots_per_device):
                self._workers.start(slot)
        elif isinstance(message, End):
            self._end = message.code
        elif isinstance(message, WorkerCommand):
            self._workers.send(message.slot, message.command)

    def _take_as_head(self, head: Head, source: int, message: RankMessage) -> bool:
        """Rank 0: act on a message that is meant for it as such; return whether it was."""
        if isinstance(message, Heartbeat):
            self._send(source, Heartbeat())
        elif isinstance(message, SignalReceived):
            self._stop_by_signal(head, message.number)
        elif isinstance(message, WorkerReport):
            head.take((source, message.slot), message.report)
        elif isinstance(message, RankFailed):
            head.fatal = UserError(message.error, message.code)
        else:
            return False
        return True

    def _dismiss(self, rank: int) -> None:
        """Rank 0: end a rank that lives after all, since others have what it trained."""
        if rank not in self._dismissed:
            self._dismissed.add(rank)
            self._messenger.send(rank, End(code=ExitCode.AGAIN))

    def _send(self, to: int, message: RankMessage) -> None:
        if to == self._place.rank:
            self._own.append((to, message))
        else:
            self._messenger.send(to, message)

    def _beat(self) -> None:
        if self.lock is not None and not self.lock.beat():
            words = "this run stood still for so long that another has taken the folder over; end one of the two"
            raise UserError(f"{self._folder.root}: {words}", ExitCode.AGAIN)
        if time.monotonic() - self._beat_at < self._beat_seconds:
            return
        self._beat_at = time.monotonic()
        if self.head is None:
            self._messenger.send(0, Heartbeat())  # which answers
            return
        # Over a network, a message to a rank that has ended fails, and tells at once. A few only: those to a rank of
        # this host would fill the memory through which rank 0 talks to all ranks of the host.
        for rank in self._roll.silent(3 * self._beat_seconds):
            if self._asked[rank] < _QUESTIONS:
                self._asked[rank] += 1
                self._messenger.send(rank, Heartbeat())

    def _steer(self, head: Head) -> None:
        for worker, command in head.commands():
            self._send(worker[0], WorkerCommand(slot=worker[1], command=command))
        for rank in self._roll.newly_lost():
            head.lost(rank)
        head.tick()
        if head.over and not self._own:
            self._end = ExitCode.MEMBERS_FAILED  # _conclude tells the real one

    # End

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        if len(self._signals) > 2:  # the user insists: at once (checkpoints are kept)
            self._workers.kill()
            os._exit(ExitCode.INTERRUPTED)

    def _pass_on_signals(self) -> None:
        while self._reported < len(self._signals):
            number = self._signals[self._reported]
            self._reported += 1
            if self.head is not None:
                self._stop_by_signal(self.head, number)
            else:
                self._send(0, SignalReceived(number=number))

    def _stop_by_signal(self, head: Head, number: int) -> None:
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.AGAIN
        head.stop(code, f"{signal.Signals(number).name} received")

    def _report(self, failure: UserError) -> UserError | None:
        """A rank that cannot go on: rank 0 is told, and says it; returns what this rank itself raises."""
        if self.head is not None:
            return failure
        error = f"rank {self._place.rank} ({self._place.host}): {failure}"
        self._send(0, RankFailed(error=error, code=failure.exit_code))
        while self._end is None and not self._roll.lost:
            for source, message in self._messenger.receive():
                self._take(source, message)
            self._beat()
            self._roll.newly_lost()
            time.sleep(_POLL_SECONDS)
        return failure if self._end is None else None

    def _conclude(self, failure: UserError | None) -> UserError | None:
        """Rank 0: tell all ranks the exit code, write what is last."""
        assert self.head is not None and self.lock is not None
        try:
            self._end = self.head.exit_code() if failure is None else failure.exit_code
        except UserError as error:
            failure, self._end = error, error.exit_code
        for rank in range(1, self._messenger.size):
            if rank not in self._dismissed | self._messenger.unreachable:
                self._messenger.send(rank, End(code=self._end))
        self._workers.end()
        self.head.close()
        self._await_farewells(self.lock)
        self.lock.release()
        return failure

    def _await_farewells(self, lock: RunLock) -> None:
        """Rank 0: read what the others still say, until each has said that it was all.

        A process that ends with messages unread resets its connections: on a network without shared memory, what it
        sent last, the end of the campaign, would not arrive.
        """
        while self._roll.expected:
            for source, message in self._messenger.receive():
                self._roll.hear(source)
                if isinstance(message, Farewell):
                    self._roll.gone.add(source)
            self._roll.newly_lost()
            lock.beat()
            time.sleep(_QUICK_SECONDS)

    def _leave(self, failure: UserError | None) -> ExitCode:
        """Say that nothing more comes, and return the exit code, or raise what this rank failed of."""
        code = ExitCode.MEMBERS_FAILED if self._end is None else self._end
        code = code if failure is None else failure.exit_code
        if self._roll.lost:
            # MPI's own end waits for every rank: with one lost it would wait for ever.
            if failure is not None:
                tell(f"hydragnn-hpc: error: {failure}")
            if self.head is None:
                time.sleep(_NOTICE_SECONDS)  # that the others notice too, and remove their copies
            self._messenger.abort(int(code))
        if self.head is None and self._end is not None:
            self._messenger.send(0, Farewell())
        self._messenger.close(int(code))
        if failure is not None:
            raise failure
        return code
