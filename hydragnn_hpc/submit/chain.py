"""Chains of jobs: ``python -m hydragnn_hpc.submit.chain begin OUT``, ``... end OUT CODE`` and ``... record OUT``.

Job scripts call ``begin`` before the launcher and ``end`` after it. ``end`` exits with 75 if the campaign is to be run
again, otherwise with the campaign's own exit code. The members' files decide, not the launcher's exit code alone, which
may be any after the failure of a node. ``record`` reads what the scheduler prints when the script submits the next job.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
from pathlib import Path

from hydragnn_hpc import halving
from hydragnn_hpc.atomic import storage_errors
from hydragnn_hpc.counts import counted
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.ledger import State, now, read_frozen, read_members, read_rungs
from hydragnn_hpc.logs import print_line
from hydragnn_hpc.paths import CampaignFolder, append_record, read_record, write_record
from hydragnn_hpc.records.jobs import MOST_RUNS, Chain
from hydragnn_hpc.streams import optional
from hydragnn_hpc.submit import jobs, scheduler

LATE_RUNS = 3
"""Number of consecutive jobs that may begin too late to train anything, because of a slow file system for example."""
STOPPED = ExitCode.MEMBERS_FAILED
"""Exit code where the chain ends although members are left."""
UNFINISHED = (State.WAITING, State.RUNNING, State.INTERRUPTED)


def progress_mark(folder: CampaignFolder) -> str:
    """Return a mark that changes with every result and every checkpoint."""
    mark = hashlib.sha256()
    for path in sorted(folder.members.glob("*/*/*")):
        if path.name in ("result.json", "checkpoint.pt"):
            try:
                status = path.stat()
            except OSError:
                continue  # unreadable, or removed meanwhile
            mark.update(f"{path.relative_to(folder.root)}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return mark.hexdigest()


def begin(folder: CampaignFolder) -> None:
    """Count the run, and record the campaign's progress.

    Raises
    ------
    UserError
        If the record cannot be written.
    """
    before, problem = _read(folder)
    chain = Chain(runs=before.runs + 1, late=before.late, mark=progress_mark(folder))
    with storage_errors(folder.jobs):
        folder.jobs.mkdir(parents=True, exist_ok=True)
    write_record(folder.job_chain, chain)
    _show(problem)


def restart(folder: CampaignFolder) -> None:
    """Reset the count: the user has submitted again.

    Raises
    ------
    UserError
        If the record of the chain cannot be removed.
    """
    with storage_errors(folder.job_chain):
        folder.job_chain.unlink(missing_ok=True)


def end(folder: CampaignFolder, code: int, runs: int, late: bool = False) -> tuple[int, str]:
    """Decide what follows a run that ended with ``code``: return the exit code, and the reason in words.

    The exit code is 75 to run again. At most ``runs`` runs follow one another, and none follows one without progress,
    unless it was ``late`` (less than half of the job's time was left when it began) or ended with 75 before there was
    a campaign. None follows an interruption by Ctrl-C, either.

    Raises
    ------
    UserError
        If the campaign's folder cannot be read.
    """
    before, problem = _read(folder)
    _show(problem)
    moved = before.mark != progress_mark(folder)
    late_runs = before.late + 1 if late and not moved else 0
    with contextlib.suppress(UserError):  # a record that cannot be written must not end the chain
        write_record(folder.job_chain, before.model_copy(update={"late": late_runs}))
    if code == ExitCode.USAGE:
        return code, "the campaign cannot be run as it is; the line above says why"
    if code == ExitCode.INTERRUPTED:
        return code, "interrupted; submit again to continue"
    if late_runs:
        if late_runs < min(LATE_RUNS, runs):
            return ExitCode.AGAIN, "the job's set-up left too little time to train; it is run again"
        return (
            STOPPED,
            f"stopped: the set-up left too little time to train in {counted(late_runs, 'job')}; ask for more time",
        )
    if not folder.campaign.exists():
        if code == ExitCode.AGAIN and before.runs >= runs:
            return (
                STOPPED,
                f"stopped: the campaign did not start in {counted(runs, 'run')} in a row; see the output above",
            )
        return code or STOPPED, "the campaign did not start; see the output above"
    campaign = read_frozen(folder).campaign
    members = read_members(folder, campaign)
    left = sum(m.state in UNFINISHED for m in members)
    if not left and not halving.undecided(campaign, read_rungs(folder)):
        failed = sum(m.state is not State.FINISHED for m in members)
        return (
            (ExitCode.MEMBERS_FAILED, f"done; {counted(failed, 'member')} failed")
            if failed
            else (ExitCode.DONE, "done")
        )
    if not moved:
        return (
            STOPPED,
            f"stopped: {counted(left, 'member')} left, but this run finished no epoch of any; ask for more time",
        )
    if before.runs >= runs:
        return (
            STOPPED,
            f"stopped: {counted(left, 'member')} left after {counted(runs, 'run')} in a row; submit again to continue",
        )
    return ExitCode.AGAIN, f"{counted(left, 'member')} left; the campaign is run again"


def record(folder: CampaignFolder, answer: str) -> None:
    """Record the job that a scheduler's answer names, with the settings of the previous one.

    Raises
    ------
    UserError
        If there is no earlier record, or it cannot be written.
    """
    records, remarks = jobs.read_records(folder.job_record)
    if not records:
        reason = remarks[0] if remarks else f"{folder.job_record}: no job is recorded"
        raise UserError(f"{reason}; the next one is not recorded either")
    try:
        identifier = scheduler.job_id(jobs.scheduler_for(records[-1]), answer)
    except ValueError as error:
        raise UserError(f"the next job is not recorded: {error}") from error
    if any(job.id == identifier for job in records):  # requeued
        return
    left = records[-1].members_left
    with contextlib.suppress(UserError):
        left = sum(m.state in UNFINISHED for m in read_members(folder, read_frozen(folder).campaign))
    append_record(
        folder.job_record, records[-1].model_copy(update={"time": now(), "id": identifier, "members_left": left})
    )


def _read(folder: CampaignFolder) -> tuple[Chain, str]:
    """Return the chain so far, and why its record cannot be read; it is then an empty one, as where there is none."""
    try:
        return read_record(folder.job_chain, Chain), ""
    except UserError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        return Chain(runs=0), "" if missing else f"{error}; the jobs are counted from here"


def _show(words: str) -> None:
    if words:
        print_line(f"hydragnn-hpc: {words}")


def _record_from_input(folder: CampaignFolder) -> None:
    """Pass a scheduler's answer on, and record the job in it; a failure to do so does not end the chain."""
    answer = sys.stdin.read()
    optional(sys.stdout).write(answer)
    if answer.strip():  # a job that is put back into the queue keeps its record
        try:
            record(folder, answer)
        except UserError as error:
            _show(str(error))


def main() -> None:
    """Run from a job script."""
    parser = argparse.ArgumentParser(prog="python -m hydragnn_hpc.submit.chain")
    parser.add_argument("moment", choices=("begin", "end", "record"))
    parser.add_argument("out", type=Path)
    parser.add_argument("code", type=int, nargs="?", default=0)
    parser.add_argument("--runs", type=int, default=MOST_RUNS)
    parser.add_argument("--late", type=int, default=0, help="1: the job's set-up took most of its time")
    given = parser.parse_args()
    folder = CampaignFolder(given.out)
    try:
        if given.moment == "begin":
            begin(folder)
            return
        if given.moment == "record":
            _record_from_input(folder)
            return
        code, words = end(folder, given.code, given.runs, bool(given.late))
    except UserError as error:
        _show(f"error: {error}")
        sys.exit(error.exit_code)
    _show(words)
    sys.exit(code)


if __name__ == "__main__":
    main()
