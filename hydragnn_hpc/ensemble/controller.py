"""Rank 0's control of a run: it assigns stacks, records events, informs the user, and decides when the run is over."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable

from hydragnn_hpc import halving, ledger
from hydragnn_hpc.counts import counted
from hydragnn_hpc.durations import in_words
from hydragnn_hpc.ensemble import rungs
from hydragnn_hpc.ensemble.display import Display, stack_name
from hydragnn_hpc.ensemble.folder import RunPlan
from hydragnn_hpc.ensemble.messenger import RankPlacement
from hydragnn_hpc.ensemble.progress import RunProgress
from hydragnn_hpc.ensemble.run_files import RunFiles
from hydragnn_hpc.ensemble.stack_queue import StackQueue, WorkerId
from hydragnn_hpc.ensemble.stack_sizes import StackSizes
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.ledger import State
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.claim import Claim
from hydragnn_hpc.records.device import Device
from hydragnn_hpc.records.events import (
    Broken,
    Command,
    Died,
    Done,
    EndState,
    EngineChanged,
    Epoch,
    Finished,
    Ready,
    Report,
    Returned,
    Stop,
    Stopped,
    Train,
)
from hydragnn_hpc.records.member import Failure
from hydragnn_hpc.records.run import (
    MemberFinished,
    RunEnded,
    RunStarted,
    RunStopping,
    StackAssigned,
    StackEnded,
    StackFailed,
    StackReturned,
)


class Controller:
    """The state of a run, and the decisions about it.

    Parameters
    ----------
    plan : RunPlan
    folder : CampaignFolder
    placements : list of RankPlacement
        Of every rank.
    deadline : float or None
        On the monotonic clock; everything must be saved by then. None: no limit.
    update_tables : callable
        Brings the tables up to date.

    Attributes
    ----------
    fatal : UserError or None
        The error that ends the run.
    """

    def __init__(
        self,
        plan: RunPlan,
        folder: CampaignFolder,
        placements: list[RankPlacement],
        deadline: float | None,
        update_tables: Callable[[], object],
    ) -> None:
        self._plan, self._folder, self._placements = plan, folder, placements
        self._launch = plan.frozen.campaign.launch
        self._queue = StackQueue(plan.stacks(), self._launch.attempts)
        self._epochs = halving.epoch_limits(plan.frozen.campaign, ledger.read_rungs(folder))
        self._total = len(plan.members)
        counts = plan.counts()
        self._done_before = counts.get(State.FINISHED, 0) + counts.get(State.DIVERGED, 0)
        self._diverged = counts.get(State.DIVERGED, 0)
        self._progress = RunProgress(placements, deadline)
        self._idle: set[WorkerId] = set()
        self._devices: dict[WorkerId, Device] = {}
        self._owners: dict[tuple[str, str], int] = {}  # (host, identity of a device) -> its rank
        self._expected = {(p.rank, s) for p in placements for s in range(self._launch.slots_per_device)}
        self._broken: dict[WorkerId, str] = {}
        self._uncaptured: set[WorkerId] = set()
        self._without_mps = False
        self._sizes = StackSizes(self._launch.stack, plan.frozen.campaign.replicas, len(self._expected), folder)
        self._sizes.share(self._queue.waiting)
        self._assignments = 0
        self._stop: ExitCode | None = None
        self._out_of_time = False
        self._asked_to_stop: set[WorkerId] = set()
        self.fatal: UserError | None = None
        self._display = Display(self._total)
        self._files = RunFiles(plan.frozen, folder, self._display.line, update_tables)
        self._announce()

    def _announce(self) -> None:
        campaign, left = self._plan.frozen.campaign, self._total - self._done_before
        shown = ", ".join(f"{n} {state}" for state, n in self._plan.counts().items())
        workers = len(self._expected)
        self._display.line(
            f"campaign {campaign.name}: {counted(self._total, 'member')} ({shown}), {left} to train on"
            f" {counted(workers, 'worker')}"
        )
        for remark in self._plan.remarks:
            self._display.line(f"remark: {remark}")
        self._files.log(
            RunStarted,
            members_left=left,
            hosts=tuple(sorted({p.host for p in self._placements})),
            ranks=len(self._placements),
        )

    # Reports of workers

    def take(self, worker: WorkerId, report: Report) -> None:
        """Handle the report of a worker, or of its rank on its behalf."""
        if isinstance(report, Ready):
            self._ready(worker, report.device)
        elif isinstance(report, Epoch):
            self._progress.epoch(worker, report.members)
        elif isinstance(report, EngineChanged):
            member = stack_name(report.variant, [report.replica])
            self._display.line(
                f"{member} was trained by {report.before}, continues with {report.after}:"
                " the last digits of its result depend on this"
            )
        elif isinstance(report, Finished):
            self._finished(worker, report)
        elif isinstance(report, Done | Stopped):
            self._free(worker, stopped=isinstance(report, Stopped))
        elif isinstance(report, Died):
            self._died(worker, report)
        elif isinstance(report, Returned):
            self._returned(worker, report)
        elif isinstance(report, Broken):
            self._broken[worker] = report.cause
            self._idle.discard(worker)
            self._display.line(f"rank {worker[0]}: worker {worker[1]} cannot be started: {report.cause}")

    def _ready(self, worker: WorkerId, device: Device) -> None:
        self._devices[worker] = device
        self._idle.add(worker)
        host, identity = self._placements[worker[0]].host, device.identity
        other = self._owners.setdefault((host, identity), worker[0]) if identity else worker[0]
        if other != worker[0]:
            self.fatal = UserError(
                f"ranks {other} and {worker[0]} on {host} use the same device {device.name} ({identity}): give"
                " each rank its own device, or start one rank per device with launch.slots_per_device"
            )
        if self._launch.slots_per_device > 1 and device.mps is False and not self._without_mps:
            self._without_mps = True
            self._display.line(
                f"remark: {self._launch.slots_per_device} slots share {device.label} on {host} without MPS, so their"
                " kernels take turns: start 'nvidia-cuda-mps-control -d' on every node first, or use launch.stack"
            )

    def _finished(self, worker: WorkerId, event: Finished) -> None:
        name = (event.variant, event.replica)
        running = self._queue.running().get(worker)
        if running is None or running.variant != name[0] or event.replica not in running.replicas:
            return  # not a member that this worker trains
        self._queue.member_done(worker, event.replica)
        summary, seconds = self._files.result_line(name)
        self._progress.member_finished(worker, seconds)
        self._files.changed = True
        if event.state == "diverged":
            self._diverged += 1
        done = self._done_before + len(self._queue.finished)
        left = self._seconds_left() if done < self._total else None
        tail = f"{done} of {self._total} done" + (f", about {in_words(left)} left" if left else "")
        self._display.line(f"{stack_name(name[0], [name[1]])} {event.state}: {summary} ({tail})")
        self._files.log(MemberFinished, worker, member=name, state=event.state)
        self._advance(name[0])

    def _advance(self, variant: str) -> None:
        """Decide a rung of a sweep's halving once this variant and its rivals have reached it; add what goes on."""
        campaign = self._plan.frozen.campaign
        lines, again = rungs.next_rung(self._folder, campaign, variant, self._queue.variants, self._queue.given_up)
        if not lines:
            return
        for line in lines:
            self._display.line(line)
        self._done_before -= len(again - self._queue.finished)
        self._queue.add((v, tuple(r for r in replicas if (v, r) in again)) for v, replicas in campaign.stacks())
        self._epochs = halving.epoch_limits(campaign, ledger.read_rungs(self._folder))
        self._sizes.share(self._queue.waiting + sum(len(a.replicas) for a in self._queue.running().values()))

    def _free(self, worker: WorkerId, stopped: bool) -> None:
        if not stopped:
            self._count_written_results(worker)
        running = self._queue.running().get(worker)
        if running is not None and running.replicas and not stopped:
            self._end(worker, Died(cause="the worker reported the end of training, but there is no result"))
        elif running is not None:
            self._files.log(StackEnded, worker, event="stopped" if stopped else "done", variant=running.variant)
            if stopped:
                self._queue.stopped(worker)
            else:
                self._queue.ended(worker)
        self._progress.end(worker)
        self._idle.add(worker)

    def _died(self, worker: WorkerId, event: Died) -> None:
        self._count_written_results(worker)
        self._idle.discard(worker)
        self._progress.end(worker)
        self._end(worker, event)

    def _end(self, worker: WorkerId, event: Died) -> None:
        """End a worker's attempt; record ``event`` as the failure of its members without a result, if there are any."""
        failed = self._queue.ended(worker)
        if failed is None:
            return
        stack, final = failed
        failure = Failure(
            time=ledger.now(),
            cause=event.cause,
            detail=event.detail,
            last_output=event.last_output,
            rank=worker[0],
            host=self._placements[worker[0]].host,
            attempt=stack.attempt,
            final=final,
        )
        for replica in stack.replicas:
            self._files.add_failure((stack.variant, replica), failure)
        self._files.changed = True
        consequence = "given up" if final else "will be tried again"
        where = f"rank {failure.rank} ({failure.host}), attempt {stack.attempt}"
        self._display.line(
            f"{stack_name(stack.variant, stack.replicas)} failed on {where}: {event.cause}; {consequence}"
        )
        self._files.log(
            StackFailed, worker, variant=stack.variant, replicas=stack.replicas, cause=event.cause, final=final
        )
        if final:
            self._advance(stack.variant)

    def _returned(self, worker: WorkerId, event: Returned) -> None:
        """Continue with a stack without graphs, or in smaller ones."""
        self._count_written_results(worker)
        self._progress.end(worker)
        running = self._queue.running().get(worker)
        if running is None:
            return
        variant, replicas = running.variant, running.replicas
        device, size = "", 0
        if event.reason == "graphs":
            self._uncaptured.add(worker)
            remedy = "steps run without being captured, which is slower"
        elif replicas:
            device = self._devices[worker].name
            size = self._sizes.limit(variant, device, event.fits or len(replicas) // 2)
            remedy = f"continues in stacks of {size}"
        else:
            remedy = "all its members have results"
        self._queue.stopped(worker)
        stack = stack_name(variant, replicas) if replicas else f"a stack of {variant}"
        where = f"rank {worker[0]} ({self._placements[worker[0]].host})"
        self._display.line(f"{stack} on {where}: {event.detail}; {remedy}")
        self._files.log(
            StackReturned, worker, variant=variant, replicas=replicas, reason=event.reason, detail=event.detail,
            device=device, most=size or None,
        )  # fmt: skip

    def _count_written_results(self, worker: WorkerId) -> None:
        """Count members as finished if their results are on disk: their worker died before it could report them."""
        running = self._queue.running().get(worker)
        if running is None:
            return
        for replica in running.replicas:
            name = (running.variant, replica)
            member = ledger.read_member(self._folder, *name)
            if member.result is not None:
                state: EndState = "diverged" if member.state is State.DIVERGED else "finished"
                self._finished(worker, Finished(variant=running.variant, replica=replica, state=state))
                self._files.remove_remains(member)

    def lost(self, rank: int) -> None:
        """Treat the workers of a rank that no longer answers as dead, so that other ranks train its members."""
        self._display.line(
            f"rank {rank} on {self._placements[rank].host} no longer answers; other ranks take over its members"
        )
        for worker in (w for w in self._expected if w[0] == rank):
            self._died(worker, Died(cause=f"rank {rank} on {self._placements[rank].host} was lost"))
            self._broken[worker] = "its rank was lost"

    # Decisions

    def commands(self) -> list[tuple[WorkerId, Command]]:
        """Return the commands to send to workers now."""
        if self._stop is None and not self._queue.over and self._progress.time_is_up:
            self._out_of_time = True
            self.stop(ExitCode.AGAIN, "the time limit is near")
        if self._stop is not None:
            running = [w for w in self._queue.running() if w not in self._asked_to_stop]
            self._asked_to_stop.update(running)
            return [(worker, Stop()) for worker in running]
        commands: list[tuple[WorkerId, Command]] = []
        for worker in sorted(self._idle):
            largest = functools.partial(self._sizes.largest, device=self._devices.get(worker))
            assignment = self._queue.next(worker, largest, join=self._sizes.auto)
            if assignment is None:
                break
            self._idle.discard(worker)
            self._progress.start(worker)
            self._assignments += 1
            claim = Claim(run=self._plan.run, assignment=self._assignments)
            train = Train(
                variant=assignment.variant,
                replicas=assignment.replicas,
                attempt=assignment.attempt,
                claim=claim,
                capture=worker not in self._uncaptured,
                epochs=self._epochs[assignment.variant],
            )
            commands.append((worker, train))
            again = f", attempt {assignment.attempt}" if assignment.attempt > 1 else ""
            self._display.line(
                f"{stack_name(assignment.variant, assignment.replicas)} starts on rank {worker[0]}{again}"
            )
            self._files.log(
                StackAssigned, worker, variant=train.variant, replicas=train.replicas, attempt=train.attempt
            )
        return commands

    def stop(self, code: ExitCode, reason: str) -> None:
        """Request that every stack is saved at the end of its epoch, and assign no more stacks."""
        if self._stop is None:
            self._stop = code
            self._display.line(f"stopping: {reason}; members are saved at the end of their epoch")
            self._files.log(RunStopping, reason=reason)

    @property
    def cut_short(self) -> bool:
        """Whether the run is ending before all members are trained."""
        return self.fatal is not None or self._stop is not None

    @property
    def over(self) -> bool:
        """Whether the run is over."""
        if self.fatal is not None:
            return True
        if self._stop is not None:
            return self._queue.idle
        return self._queue.over or (self._queue.idle and self._broken.keys() >= self._expected)

    def exit_code(self) -> ExitCode:
        """Return the run's exit code.

        Raises
        ------
        UserError
            If the run failed, or nothing could be trained; the error says why.
        """
        if self.fatal is not None:
            raise self.fatal
        if not self._queue.over and self._stop is None:
            cause = next(iter(self._broken.values()), "unknown")
            raise UserError(
                f"no worker can be started: {cause}; see {self._folder.logs} and 'hydragnn-hpc doctor'",
                ExitCode.MEMBERS_FAILED,
            )
        if self._too_short:
            raise UserError(
                "the time limit was too short: it expired before any member had finished an epoch; allow more time",
                ExitCode.MEMBERS_FAILED,
            )
        if self._stop is not None and self._queue.waiting:
            return self._stop
        return ExitCode.MEMBERS_FAILED if self._queue.given_up or self._diverged else ExitCode.DONE

    # Files

    def tick(self) -> None:
        """Bring ``progress.json`` and the tables up to date, every few seconds."""
        if self._files.progress_is_due():
            if self._is_removed:
                self.fatal = UserError(
                    f"{self._folder.root} was removed during the run; nothing more can be saved there"
                )
                return
            self._files.write_progress(
                self._progress.record(self._queue.running(), self._devices, self._seconds_left())
            )
            self._display.update(self._done_before + len(self._queue.finished), self._note())
        if self._files.tables_are_due():
            self._files.write_tables()

    def close(self, owned: bool = True) -> None:
        """Write the final tables and the last event, and remove ``progress.json``, if the folder is still ``owned``."""
        self._display.close()
        if owned and not self._is_removed:
            self._files.write_tables()
            self._files.log(RunEnded, finished=len(self._queue.finished), given_up=len(self._queue.given_up))
            self._files.remove_progress()
        done = self._done_before + len(self._queue.finished)
        failed = len(self._queue.given_up)
        left = self._total - done - failed
        parts = [f"{done - self._diverged} of {self._total} members finished"]
        if failed:
            parts.append(f"{failed} failed for good")
        if self._diverged:
            parts.append(f"{self._diverged} diverged")
        if left:
            helps = self._stop is not None and self.fatal is None and not self._too_short
            parts.append(f"{left} left" + (": run the same command again" if helps else ""))
        self._display.line("; ".join(parts))
        if line := self._files.closing_line():
            self._display.line(line)

    @property
    def _is_removed(self) -> bool:
        """Whether the campaign has been removed from its folder."""
        with contextlib.suppress(OSError):  # a file system that does not answer shows nothing
            return not self._folder.campaign.exists()
        return False

    @property
    def _too_short(self) -> bool:
        """Whether the time limit expired before anything was trained: the same command again would not help."""
        return self._out_of_time and not self._progress.any_epoch

    def _seconds_left(self) -> float | None:
        waiting = self._queue.waiting_stacks
        if self._sizes.auto and self._devices:  # members wait one by one, and are joined
            size = self._sizes.largest("", next(iter(self._devices.values())))  # of variants that fit into memory
            waiting = math.ceil(waiting / (size or 1))
        return self._progress.seconds_left(waiting, len(self._idle))

    def _note(self) -> str:
        failed = len(self._queue.given_up) + self._diverged
        return f"epoch {self._progress.epochs(self._queue.running())}" + (f"; {failed} failed" if failed else "")
