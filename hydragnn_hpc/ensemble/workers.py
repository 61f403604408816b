"""Worker processes, as their rank manages them: started, watched, replaced, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hydragnn_hpc import processes
from hydragnn_hpc.ensemble.lines import BadLinesError, LineLimits, LineReader, LineWriter, quoted
from hydragnn_hpc.logs import print_line
from hydragnn_hpc.records.events import (
    Alive,
    Broken,
    Command,
    Died,
    Done,
    Event,
    Failed,
    Quit,
    Ready,
    Report,
    Returned,
    Stopped,
    Train,
    read_event,
    to_line,
)

_TAIL_LINES = 12  # of a worker's log, reported when it has died
_TAIL_BYTES = 8192  # read for them
_STARTUP_SECONDS = 300.0  # importing torch from a busy parallel file system takes minutes
_MOST_STARTS = 3  # of a slot in a row without a worker that becomes ready
_EXIT_SECONDS = 10.0  # for a worker that was asked to end
_LAST_READS = 16  # a megabyte, the largest pipe that Linux allows users
_KILLED_SECONDS = 10.0  # for a killed process to disappear


@dataclass(frozen=True)
class WorkerOptions:
    """How a rank's workers are started.

    Attributes
    ----------
    command : tuple of str
        The program, to which options are added.
    environment : Mapping
        The worker's environment, without the launcher's variables.
    campaign, staged : Path
    rank, local_rank : int
    silence : float
        Seconds after which a training worker that sends nothing, or any worker that reads nothing, is considered hung.
    require_gpu : bool
        Whether the device ``auto`` must be a GPU.
    limits : LineLimits
        On what a worker sends.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    campaign: Path
    staged: Path
    rank: int
    local_rank: int
    silence: float
    require_gpu: bool
    limits: LineLimits = field(default_factory=LineLimits)


# -P, as for every child process: a module of the current folder, such as a user's random.py, must not be imported.
WORKER_COMMAND = (sys.executable, "-P", "-m", "hydragnn_hpc.member.worker")


class WorkerProcess:
    """A worker's process and the pipes to and from it.

    Attributes
    ----------
    slot : int
    busy : bool
        Whether it trains a stack.
    ready : bool
        Whether it has reported its device, and waits for work or trains.
    """

    def __init__(self, options: WorkerOptions, slot: int, log: Path) -> None:
        self._options, self.slot, self._log = options, slot, log
        self.busy = False
        self.ready = False
        self._heard_at = time.monotonic()
        try:
            stream = log.open("ab")
        except OSError as error:
            print_line(f"cannot write {log}: {error.strerror or error}; this worker's output is lost")
            stream = Path(os.devnull).open("ab")  # noqa: SIM115
        self._log_start = stream.tell()
        incoming, self._to = os.pipe()
        self._from, outgoing = os.pipe()
        self._reader, self._writer = LineReader(self._from, options.limits), LineWriter(self._to)
        command = [
            *options.command, "--campaign", str(options.campaign), "--staged", str(options.staged),
            "--rank", str(options.rank), "--local-rank", str(options.local_rank), "--slot", str(slot),
            "--in", str(incoming), "--out", str(outgoing), *["--require-gpu"] * options.require_gpu,
        ]  # fmt: skip
        try:
            with stream:
                # In its own session, so that signals to the launcher's process group do not reach it.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env=dict(options.environment),
                    pass_fds=(incoming, outgoing),
                    start_new_session=True,
                )
        except OSError:
            self._close()
            raise
        finally:
            os.close(incoming)
            os.close(outgoing)

    @property
    def pipe(self) -> int | None:
        """Descriptor that is readable when the worker has sent something; None once it has closed its end."""
        return None if self._reader.ended else self._from

    def send(self, command: Command) -> None:
        """Send a command; :meth:`poll` notices if the worker has ended."""
        if isinstance(command, Train):
            self.busy = True
            self._heard_at = time.monotonic()
        self._writer.write(to_line(command))

    def poll(self) -> list[Report]:
        """Return the events that the worker has sent; `Died` or `Returned` is the last of them."""
        code = self._process.poll()
        self._writer.write(b"")
        events: list[Report] = []
        # What a dead worker sent counts: all that its pipe can still hold. From a living one, only a limited amount is
        # read at a time: a worker that floods its pipe must not keep this rank from reading the others.
        for _ in range(1 if code is None else _LAST_READS):
            try:
                for event in self._receive():
                    if isinstance(event, Failed):
                        return [*events, self._died(event.cause, event.detail)]
                    events.append(event)
                    if isinstance(event, Returned):
                        self.end()
                        return events
            except BadLinesError as error:
                return [*events, self._died(f"sent {error}")]
        if code is not None:
            return [*events, self._died(processes.outcome(code))]
        limit = self._options.silence if self.ready else max(self._options.silence, _STARTUP_SECONDS)
        if (self.busy or not self.ready) and time.monotonic() - self._heard_at > limit:
            return [*events, self._died(f"silent for {limit:g} s")]
        if self._writer.blocked_seconds > limit:
            return [*events, self._died(f"has not read its commands for {limit:g} s")]
        return events

    def _receive(self) -> Iterator[Event]:
        """Yield the events that one read completes."""
        for line in self._reader.read():
            try:
                event = read_event(line)
            except ValueError as error:
                raise BadLinesError(f"a line that is not an event, {quoted(line)}") from error
            self._heard_at = time.monotonic()
            if isinstance(event, Ready):
                self.ready = True
            elif isinstance(event, Done | Stopped):
                self.busy = False
            yield event

    def _died(self, cause: str, detail: str = "") -> Died:
        self.end()
        return Died(cause=cause, detail=detail, last_output=self._tail())

    def _tail(self) -> tuple[str, ...]:
        try:
            with self._log.open("rb") as stream:
                stream.seek(max(self._log_start, self._log.stat().st_size - _TAIL_BYTES))
                return tuple(stream.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
        except OSError:
            return ()

    def end(self, patience: float = 0.0) -> None:
        """End the worker: wait ``patience`` seconds for its own end, then kill its process group."""
        if patience:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver hangs: the process ends once it returns
            self._process.wait(_KILLED_SECONDS)
        self._close()

    def _close(self) -> None:
        for handle in (self._to, self._from):
            with contextlib.suppress(OSError):
                os.close(handle)

    def kill(self) -> None:
        """Kill the worker and its child processes, without waiting."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class Workers:
    """The workers of one rank, one for each slot; a dead one is replaced.

    Parameters
    ----------
    make : callable
        Starts the worker of a slot.
    """

    def __init__(self, make: Callable[[int], WorkerProcess]) -> None:
        self._make = make
        self._workers: dict[int, WorkerProcess] = {}
        self._broken: list[tuple[int, Broken]] = []  # slots whose worker cannot be started; `poll` reports them
        self._starts: Counter[int] = Counter()  # by slot, since a worker was last ready

    @property
    def pipes(self) -> list[int]:
        """Descriptors that become readable when a worker sends something."""
        return [worker.pipe for worker in self._workers.values() if worker.pipe is not None]

    def start(self, slot: int, cause: str = "") -> None:
        """Start the worker of ``slot``, unless it has ended too often before it was ready.

        ``cause`` is why it has ended most recently.
        """
        if self._starts[slot] == _MOST_STARTS:
            self._broken.append((slot, Broken(cause=cause)))
            return
        self._starts[slot] += 1
        try:
            self._workers[slot] = self._make(slot)
        except OSError as error:  # too little memory, or too many processes
            self._broken.append((slot, Broken(cause=error.strerror or str(error))))

    def send(self, slot: int, command: Command) -> None:
        """Send a command; a stack for a worker that has been replaced meanwhile is dropped."""
        worker = self._workers.get(slot)
        if worker is not None and (worker.ready or not isinstance(command, Train)):
            worker.send(command)

    def poll(self) -> list[tuple[int, Report]]:
        """Return what has happened to workers, as (slot, report)."""
        reports: list[tuple[int, Report]] = []
        for slot, worker in list(self._workers.items()):
            for event in worker.poll():
                if not isinstance(event, Alive):
                    reports.append((slot, event))
                if isinstance(event, Ready):
                    self._starts[slot] = 0
                elif isinstance(event, Died | Returned):
                    del self._workers[slot]
                    self.start(slot, _cause_of_end(event))
        reports += self._broken
        self._broken.clear()
        return reports

    def kill(self) -> None:
        """Kill all workers, without waiting."""
        for worker in self._workers.values():
            worker.kill()

    def end(self) -> None:
        """End all workers: ask idle ones, kill busy ones."""
        for worker in self._workers.values():
            worker.send(Quit())
        for worker in self._workers.values():
            worker.end(0.0 if worker.busy or not worker.ready else _EXIT_SECONDS)
        self._workers.clear()


def _cause_of_end(event: Died | Returned) -> str:
    """Return why a worker has ended, with the last line of its output where that says more."""
    if isinstance(event, Returned):
        return event.detail
    last = next((line for line in reversed(event.last_output) if line.strip()), "")
    return event.cause if last.endswith(event.cause.removeprefix("error: ")) or not last else f"{event.cause}; {last}"
