"""The loop of a rank: keeps its workers, passes on what they say; rank 0 besides steers the campaign."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydragnn_hpc.config import Campaign
from hydragnn_hpc.dataset.ready import Wanted
from hydragnn_hpc.dataset.stage import Staging, node_local_parent, open_staged, write_test_set
from hydragnn_hpc.ensemble import folder as campaign_folder
from hydragnn_hpc.ensemble import startup
from hydragnn_hpc.ensemble.children import WORKER_COMMAND, Child, WorkerOptions
from hydragnn_hpc.ensemble.head import Head
from hydragnn_hpc.ensemble.launcher import detect, worker_environment
from hydragnn_hpc.ensemble.lock import RunLock
from hydragnn_hpc.ensemble.messages import Message, Messenger, Place, Roll, connect, places
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.logs import tell
from hydragnn_hpc.paths import CampaignFolder

_POLL_SECONDS = 0.03  # between two looks for messages; MPI can only be asked
_QUICK_SECONDS = 0.002  # while something goes on: an answer may be under way
_ACTIVE_SECONDS = 0.2
_BEAT_SECONDS = 5.0
_LOST_SECONDS = 120.0  # without a beat of a rank; generous, since a rank on a loaded node may be late
_HEADLESS_SECONDS = 600.0  # without a beat of rank 0, which may be held up by a file system while it writes tables
_STARTS = 3  # deaths of a worker in a row, without its being ready, after which its slot is given up
_POLITE_SECONDS = 10.0


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


def run(options: RunOptions) -> ExitCode:
    """Train what is missing of a campaign; the same call on every rank. Collective at its start only.

    Returns
    -------
    ExitCode
        The same on every rank.

    Raises
    ------
    UserError
        On rank 0; the other ranks return its exit code.
    """
    started = time.monotonic()
    launch = detect(os.environ)
    messenger = connect(launch, options.start_seconds)
    where = places(messenger, launch, options.local_rank)
    folder = CampaignFolder(options.out.absolute())
    lock = RunLock(folder.lock)
    plan, failure = None, None
    if messenger.rank == 0:
        try:
            plan = _begin(options, folder, lock)
        except Exception as error:  # told to all ranks before it is raised, so that none waits for ever
            failure = error
    code = failure.exit_code if isinstance(failure, UserError) else ExitCode.USAGE
    frozen, error_code = messenger.share((plan.frozen if plan else None, code if failure else None))[0]
    if failure is not None:
        raise failure
    if error_code is not None:
        return ExitCode(error_code)
    rank = Rank(options, folder, frozen.campaign, messenger, where)
    if plan is not None:
        deadline = None if options.seconds is None else started + options.seconds
        rank.head = Head(plan, folder, where, deadline, lambda: options.on_change(folder.root))
        rank.lock = lock
    return rank.run()


def _begin(options: RunOptions, folder: CampaignFolder, lock: RunLock) -> campaign_folder.Plan:
    """Rank 0: read, check, lock, freeze."""
    campaign_folder.read_plan(options.campaign, options.overrides, folder)  # refuses before anything is made
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {folder.root}: {error.strerror}; choose another folder") from error
    lock.acquire()
    try:
        # Read again: another run may have ended while we waited for its lock.
        plan = campaign_folder.read_plan(options.campaign, options.overrides, folder)
        campaign_folder.begin(plan, folder)
    except BaseException:
        lock.release()
        raise
    return plan


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
        self._children: dict[int, Child] = {}
        self._starts: dict[int, int] = {}
        self._own: deque[tuple[int, Message]] = deque()  # messages to this rank itself
        head = messenger.rank == 0
        self._others = range(1, messenger.size) if head else range(1)  # that this rank talks to
        self._roll = Roll(messenger, self._others, _LOST_SECONDS if head else _HEADLESS_SECONDS)
        self._beat_at = time.monotonic()
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
            stack.callback(self._end_children)
            try:
                self._stage(stack)
                self._loop()
            except UserError as error:
                failure = error
            except Exception:
                traceback.print_exc()
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
        parent = node_local_parent(self._options.stage_dir)
        wanted = Wanted.of(self._campaign)
        staging = Staging(Path(self._campaign.dataset), parent, self._beat, wanted=wanted)
        self._staged = stack.enter_context(staging).folder
        if self.head is not None and not self._folder.test_set.exists():
            write_test_set(open_staged(self._staged), self._folder.test_set)
        for place in self._where:
            if place.leader == self._place.rank:
                self._send(place.rank, {"do": "begin", "staged": str(self._staged)})

    def _start_child(self, slot: int) -> None:
        if self._starts.get(slot, 0) >= _STARTS:
            return
        self._starts[slot] = self._starts.get(slot, 0) + 1
        options = WorkerOptions(
            self._options.worker_command,
            worker_environment(os.environ),
            self._folder.root,
            self._staged or Path(),
            self._place.rank,
            self._place.local_rank,
            self._campaign.launch.silence_seconds,
        )
        self._children[slot] = Child(options, slot, self._folder.worker_log(self._place.rank, slot))

    # Loop

    def _loop(self) -> None:
        while self._end is None:
            arrived = self._arrived()
            for source, message in arrived:
                self._take(source, message)
            events = [(slot, event) for slot, child in list(self._children.items()) for event in child.poll()]
            for slot, event in events:
                self._hear(slot, event)
            self._pass_on_signals()
            if self.head is not None:
                self._steer(self.head)
            self._beat()
            if self.head is None and self._roll.newly_lost():
                words = "rank 0 no longer answers, and has perhaps been killed; run the same command again"
                raise UserError(words, ExitCode.AGAIN)
            self._pause(bool(arrived or events))

    def _pause(self, active: bool) -> None:
        """Wait a moment, or until a worker says something."""
        now = time.monotonic()
        if active:
            self._active_at = now
        seconds = 0.0 if self._own else _QUICK_SECONDS if now - self._active_at < _ACTIVE_SECONDS else _POLL_SECONDS
        pipes = [child.pipe for child in self._children.values() if child.pipe is not None]
        select.select(pipes, [], [], seconds)

    def _arrived(self) -> list[tuple[int, Message]]:
        own = list(self._own)
        self._own.clear()
        return [*own, *self._messenger.receive()]

    def _take(self, source: int, message: Message) -> None:
        self._roll.hear(source)
        what = message.get("do")
        if what == "begin":
            self._staged = Path(message["staged"])
            for slot in range(self._campaign.launch.slots_per_device):
                self._start_child(slot)
        elif what == "end":
            self._end = ExitCode(message["code"])
        elif what == "signal" and self.head is not None:
            self._stop_by_signal(self.head, message["number"])
        elif what == "worker":
            slot = message["slot"]
            if slot in self._children:
                self._children[slot].tell(message["message"])
        elif what == "event" and self.head is not None:
            self.head.take((source, message["slot"]), message["event"])

    def _hear(self, slot: int, event: dict[str, Any]) -> None:
        """Pass on what a worker says; replace one that died."""
        if event["say"] == "alive":
            return
        if event["say"] == "ready":
            self._starts[slot] = 0
        self._tell_head(slot, event)
        if event["say"] == "died":
            del self._children[slot]
            self._start_child(slot)
            if slot not in self._children:
                cause = next((line for line in reversed(event["last_output"]) if line.strip()), event["cause"])
                self._tell_head(slot, {"say": "broken", "cause": f"{event['cause']}; {cause}"})

    def _tell_head(self, slot: int, event: dict[str, Any]) -> None:
        self._send(0, {"do": "event", "slot": slot, "event": event})

    def _send(self, to: int, message: Message) -> None:
        if to == self._place.rank:
            self._own.append((to, message))
        else:
            self._messenger.send(to, message)

    def _beat(self) -> None:
        if self.lock is not None:
            self.lock.beat()
        if time.monotonic() - self._beat_at >= _BEAT_SECONDS:
            self._beat_at = time.monotonic()
            for rank in self._others:
                self._messenger.send(rank, {"do": "beat"})

    def _steer(self, head: Head) -> None:
        for worker, message in head.commands():
            self._send(worker[0], {"do": "worker", "slot": worker[1], "message": message})
        for rank in self._roll.newly_lost():
            head.lost(rank)
        head.tick()
        if head.over and not self._own:
            self._end = ExitCode.MEMBERS_FAILED  # _conclude tells the real one

    # End

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        if len(self._signals) > 2:  # the user insists: at once (checkpoints are kept)
            self._end_children()
            os._exit(ExitCode.INTERRUPTED)

    def _pass_on_signals(self) -> None:
        while self._reported < len(self._signals):
            number = self._signals[self._reported]
            self._reported += 1
            if self.head is not None:
                self._stop_by_signal(self.head, number)
            else:
                self._send(0, {"do": "signal", "number": number})

    def _stop_by_signal(self, head: Head, number: int) -> None:
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.AGAIN
        head.stop(code, f"{signal.Signals(number).name} received")

    def _report(self, failure: UserError) -> UserError | None:
        """A rank that cannot go on: rank 0 is told, and says it; returns what this rank itself raises."""
        if self.head is not None:
            return failure
        event = {
            "say": "fatal",
            "error": f"rank {self._place.rank} ({self._place.host}): {failure}",
            "code": failure.exit_code,
        }
        self._tell_head(0, event)
        limit = time.monotonic() + _LOST_SECONDS
        while self._end is None and not self._roll.lost and time.monotonic() < limit:
            for source, message in self._messenger.receive():
                self._take(source, message)
            time.sleep(_POLL_SECONDS)
        return failure if self._end is None else None

    def _conclude(self, failure: UserError | None) -> UserError | None:
        """Rank 0: tell all ranks the exit code, write what is last."""
        assert self.head is not None and self.lock is not None
        try:
            self._end = self.head.exit_code() if failure is None else failure.exit_code
        except UserError as error:
            failure, self._end = error, error.exit_code
        for rank in self._roll.expected:
            self._messenger.send(rank, {"do": "end", "code": int(self._end)})
        self._end_children()
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
                if message.get("do") == "bye":
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
            self._messenger.abort(int(code))
        if self.head is None and self._end is not None:
            self._messenger.send(0, {"do": "bye"})
        if failure is not None:
            raise failure
        return code

    def _end_children(self) -> None:
        for child in self._children.values():
            child.tell({"do": "quit"})
        for child in self._children.values():
            child.end(0.0 if child.busy or not child.ready else _POLITE_SECONDS)
        self._children.clear()
