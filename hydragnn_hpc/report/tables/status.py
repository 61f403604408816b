"""Status of a campaign: states, rates, time left, the table so far, failures; read from disk, shown on a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydragnn_hpc.counts import counted
from hydragnn_hpc.durations import in_words
from hydragnn_hpc.ledger import State
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.run import RunningMember, WorkerDevice
from hydragnn_hpc.report import text
from hydragnn_hpc.report.results import rows
from hydragnn_hpc.report.results.live import read_live, timestamp
from hydragnn_hpc.report.results.rows import Snapshot, Table1Row
from hydragnn_hpc.report.tables import table1
from hydragnn_hpc.report.tables.text_table import TextTable, as_rich

SHOWN = 20
"""At most this many running members, failures and unreadable files are shown; ``--json`` has all of them."""
UNSETTLED = (State.WAITING, State.RUNNING, State.INTERRUPTED)
"""States of members that are still to be trained."""


@dataclass(frozen=True)
class FailedMember:
    """A member with failures, or one that diverged: its present state, its failed attempts, and the last of them.

    ``rank``, ``host`` and ``time`` (ISO 8601) are None where no attempt failed.
    """

    member: str
    state: str
    attempts: int
    cause: str
    last_output: str
    rank: int | None
    host: str | None
    time: str | None


@dataclass
class CampaignStatus:
    """Status of a campaign.

    Attributes
    ----------
    states : dict
        State to number of members; states without members are left out.
    active : bool or None
        Whether a run is active now; None where its progress cannot be read.
    members_per_hour : float or None
        Members finished or diverged in the active run, per hour; None before the first, or without an active run.
    started, updated : str or None
        When the active run started, and when the latest run last wrote its progress: ISO 8601.
    seconds_left : float or None
        Time left that the active run has estimated.
    worker_seconds_left : float or None
        Training time left for a single worker, estimated from finished members.
    running : dict
        Progress of the members being trained, by name.
    unreadable : list of str
        Which of the campaign's files cannot be read, and the consequences.
    not_learned : str
        Which tasks members have not learned, and what might help; empty where all did.
    """

    name: str
    folder: str
    hash: str
    members: int
    states: dict[str, int]
    active: bool | None
    started: str | None
    updated: str | None
    seconds_left: float | None
    members_per_hour: float | None
    worker_seconds_left: float | None
    workers: list[WorkerDevice]
    running: dict[str, RunningMember]
    failures: list[FailedMember]
    unreadable: list[str]
    table1: list[Table1Row]
    not_learned: str

    @property
    def settled(self) -> bool:
        """Whether nothing is left to train."""
        return not any(self.states.get(s.value) for s in UNSETTLED)

    def plain(self) -> dict[str, Any]:
        """Return the status as plain data, for JSON."""
        workers = [w.model_dump(mode="json") for w in self.workers]
        running = {name: member.model_dump(mode="json") for name, member in self.running.items()}
        return {**asdict(self), "workers": workers, "running": running, "settled": self.settled}


def read_status(out: Path | str, before: Snapshot | None = None) -> tuple[CampaignStatus, Snapshot]:
    """Read the status of the campaign in ``out``; members finished in the snapshot ``before`` are not read again.

    Raises
    ------
    UserError
        If the folder holds no campaign.
    """
    folder = CampaignFolder(out)
    live = read_live(folder)
    snapshot = rows.read(out, live.running, before)
    progress = live.progress
    at_work = progress if live.active else None
    started = at_work.started if at_work else None
    status = CampaignStatus(
        name=snapshot.campaign.name,
        folder=str(folder.root),
        hash=snapshot.frozen.hash,
        members=len(snapshot.members),
        states=counts(snapshot),
        active=live.active,
        started=started,
        updated=progress.time if progress else None,
        seconds_left=at_work.seconds_left if at_work else None,
        members_per_hour=_members_per_hour(snapshot, timestamp(started) if started else None),
        worker_seconds_left=_worker_seconds_left(snapshot, live.running),
        workers=list(at_work.workers) if at_work else [],
        running={m.name: live.running[m.name] for m in snapshot.members if m.state is State.RUNNING},
        failures=failures(snapshot),
        unreadable=[*([live.problem] if live.problem else []), *snapshot.problems()],
        table1=rows.table1_rows(snapshot),
        not_learned=snapshot.closing_line,
    )
    return status, snapshot


def counts(snapshot: Snapshot) -> dict[str, int]:
    """Return the number of members by state; states without members are left out."""
    numbers = Counter(m.state for m in snapshot.members)
    return {s.value: numbers[s] for s in State if numbers[s]}


def render(status: CampaignStatus, snapshot: Snapshot) -> Any:
    """Return the status for a terminal, as a ``rich`` renderable."""
    from rich.console import Group
    from rich.text import Text

    by_state = ", ".join(f"{n:,} {state}" for state, n in status.states.items())
    parts: list[Any] = [
        Text(f"{status.name}  {status.folder}  {status.hash[:12]}", "bold"),
        Text(f"{counted(status.members, 'member')}: {by_state}"),
        Text(_activity(status)),
    ]
    if status.running:
        parts.append(as_rich(_running_table(status)))
    parts.append(as_rich(table1.paper_form(snapshot)))
    if snapshot.summary and any(m.result for m in snapshot.members):
        parts.append(as_rich(table1.by_task(snapshot)))
    if status.not_learned:
        parts.append(Text(status.not_learned))
    parts += [Text(f"unreadable: {line}") for line in status.unreadable[:SHOWN]]
    parts += map(Text, _more(len(status.unreadable)))
    if status.failures:
        parts.append(as_rich(_failures_table(status)))
    return Group(*parts)


def watch(
    out: Path, console: Any, interval: float = 2.0, pause: Callable[[float], None] = time.sleep
) -> CampaignStatus:
    """Show the status repeatedly until nothing is left to train or the user interrupts.

    On a terminal it is redrawn in place; elsewhere it is printed again whenever the counts of states or the
    failures have changed.
    """
    from rich.live import Live

    status, snapshot = read_status(out)
    if not console.is_terminal:
        console.print(render(status, snapshot))
        while not status.settled:
            pause(interval)
            before, (status, snapshot) = status, read_status(out, snapshot)
            if (before.states, before.failures) != (status.states, status.failures):
                console.print(render(status, snapshot))
        return status
    with Live(render(status, snapshot), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        live.refresh()
        while not status.settled:
            pause(interval)
            status, snapshot = read_status(out, snapshot)
            live.update(render(status, snapshot), refresh=True)
    return status


def _activity(status: CampaignStatus) -> str:
    if status.active:
        rate = f"{text.plain(status.members_per_hour, 3)} members per hour"
        left = in_words(status.seconds_left) if status.seconds_left is not None else "not known yet"
        since = f"running since {text.utc(status.started)} UTC"
        return f"{since} on {counted(len(status.workers), 'worker')}; {rate}; time left: {left}"
    if status.settled:
        failed = status.states.get(State.FAILED.value, 0)
        again = f"; {failed:,} failed: the same run command retries them" if failed else ""
        return f"nothing left to train{again}"
    work = ""
    if status.worker_seconds_left is not None:
        work = f"; about {in_words(status.worker_seconds_left)} of one worker's time left"
    idle = "no run is active" if status.active is False else "whether a run is active is not known"
    return f"{idle}{work}; 'hydragnn-hpc run CAMPAIGN.yaml {status.folder}' continues"


def _running_table(status: CampaignStatus) -> TextTable:
    shown = []
    for name, member in list(status.running.items())[:SHOWN]:
        place = f"{member.host} rank {member.rank} slot {member.slot}"
        shown.append((name, str(member.epoch), text.scientific(member.validation_loss), place))
    return TextTable("Running", ("member", "epoch", "validation loss", "where"), shown, _more(len(status.running)))


def _failures_table(status: CampaignStatus) -> TextTable:
    shown = [
        (f.member, f.state, str(f.attempts), f.cause, f.last_output or text.MISSING) for f in status.failures[:SHOWN]
    ]
    header = ("member", "state now", "failed attempts", "last cause", "last line of output")
    return TextTable("Failures", header, shown, _more(len(status.failures)))


def _more(count: int) -> tuple[str, ...]:
    return (f"and {count - SHOWN:,} more: status --json",) if count > SHOWN else ()


def failures(snapshot: Snapshot) -> list[FailedMember]:
    """Return the members that have failures or diverged, those that failed for good first."""
    failed = []
    for member in snapshot.members:
        if not member.failures and member.state is not State.DIVERGED:
            continue
        last = member.failures[-1] if member.failures else None
        failed.append(
            FailedMember(
                member=member.name,
                state=member.state.value,
                attempts=len(member.failures),
                cause=text.line(last.cause) if last else "diverged: the loss is no longer finite",
                last_output=text.last_line(last.last_output) if last else "",
                rank=last.rank if last else None,
                host=last.host if last else None,
                time=last.time if last else None,
            )
        )
    return sorted(failed, key=lambda f: f.state != State.FAILED.value)


def _members_per_hour(snapshot: Snapshot, started: float | None) -> float | None:
    if started is None:
        return None
    ends = [timestamp(m.result.sessions[-1].ended) for m in snapshot.members if m.result and m.result.sessions]
    done = sum(1 for end in ends if end is not None and end >= started)
    elapsed = time.time() - started
    return done / elapsed * 3600 if done and elapsed > 0 else None


def _worker_seconds_left(snapshot: Snapshot, running: dict[str, RunningMember]) -> float | None:
    """Estimate the time left for one worker, in seconds, from finished members; None if none has finished.

    A member takes the mean time of its variant, or of all variants where none of its own has finished, less the share
    of epochs already trained if it is running; the members of a stack share that time.
    """
    campaign = snapshot.campaign
    means = {v.name: rows.mean_std(rows.quantities(snapshot.finished(v.name), "seconds"))[0] for v in campaign.variants}
    known = [m for m in means.values() if m is not None]
    if not known:
        return None
    epochs, total = {v.name: campaign.epochs(v) for v in campaign.variants}, 0.0
    stack = rows.stacked(snapshot)
    for member in snapshot.members:
        if member.state in UNSETTLED:
            expected = means[member.variant]
            epoch = running[member.name].epoch if member.name in running else 0
            share = 1 - min(epoch / max(epochs[member.variant], 1), 1.0)
            total += (sum(known) / len(known) if expected is None else expected) * share / stack
    return total
