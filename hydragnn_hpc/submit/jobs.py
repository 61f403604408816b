"""States of a campaign's submitted jobs: the scheduler is asked with its ``status`` query."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from hydragnn_hpc.commands import SilentError, run
from hydragnn_hpc.counts import counted
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.jobs import LOCAL, SubmittedJob
from hydragnn_hpc.submit.scheduler import Scheduler, StatusQuery, jobs_folder, load_scheduler
from hydragnn_hpc.submit.site import Site

PATIENCE_SECONDS = 5
"""How long a scheduler may take to answer."""
LATEST = 10
"""Number of latest jobs whose state is requested."""

State = Literal["pending", "running", "ended", "unknown"]


@dataclass(frozen=True)
class JobStatus:
    """The state of a submitted job.

    Attributes
    ----------
    state : str
        ``pending``, ``running``, ``ended``, or ``unknown`` if the scheduler does not state it.
    scheduler_state, reason : str
        The scheduler's own words; empty where it gives none.
    explanation : str
        What that means and what to do, or why the state is unknown; empty where there is nothing to add.
    """

    id: str
    site: str
    submitted: str
    nodes: int
    walltime_seconds: int
    state: State
    scheduler_state: str = ""
    reason: str = ""
    explanation: str = ""

    def line(self) -> str:
        """Return the status as one line of text without control characters."""
        own = ", ".join(words for words in (self.scheduler_state, self.reason) if words)
        text = f"job {self.id} on {self.site}, submitted {self.submitted[:16].replace('T', ' ')} UTC: {self.state}"
        text += f" ({own})" if own else ""
        text += f"; {self.explanation}" if self.explanation else ""
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def scheduler_entry(site: Site) -> str:
    """Return a scheduler's entry in a job's record: its name, or its path if it does not come with the package."""
    own = site.scheduler.folder
    if own.resolve() == (jobs_folder() / "schedulers").resolve():
        return site.scheduler.name
    return str(own.resolve() / site.scheduler.name)


def read_jobs(folder: CampaignFolder, patience: float = PATIENCE_SECONDS) -> tuple[list[JobStatus], list[str]]:
    """Return the latest jobs of a campaign, oldest first, and remarks, a line each.

    Jobs of a scheduler that is not on this host or does not answer within ``patience`` seconds are ``unknown``; such a
    scheduler is asked only once. In another user's folder, only the package's schedulers are asked.
    """
    records, remarks = read_records(folder.job_record)
    if len(records) > LATEST:
        remarks.append(f"{counted(len(records) - LATEST, 'earlier job')}: {folder.job_record}")
    silent: dict[str, str] = {}
    if not _is_own(folder.job_record):
        # What another user has written must not name commands to run.
        words = "its scheduler is not one of the package's; only the user who submitted it can ask"
        silent = {job.scheduler: words for job in records if Path(job.scheduler).is_absolute()}
    # The latest first: it is the most likely to be pending.
    statuses = [_status(job, silent, patience) for job in reversed(records[-LATEST:])]
    return statuses[::-1], remarks


def _is_own(path: Path) -> bool:
    """Whether a file belongs to this user, or to root."""
    try:
        return path.stat().st_uid in (0, os.getuid())
    except OSError:
        return False


def read_records(path: Path) -> tuple[list[SubmittedJob], list[str]]:
    """Return the jobs that were handed to a scheduler, and remarks on what cannot be read."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"cannot read {path}: {error.strerror or error}"]
    jobs, remarks = [], []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            jobs.append(SubmittedJob.model_validate_json(line))
        except ValidationError:
            remarks.append(f"cannot read line {number} of {path}: it is not the record of a job")
    return [job for job in jobs if job.id != LOCAL], remarks


def _status(job: SubmittedJob, silent: dict[str, str], patience: float) -> JobStatus:
    made = partial(JobStatus, job.id, job.site, job.time, job.nodes, job.walltime_seconds)
    if job.scheduler in silent:
        return made("unknown", explanation=silent[job.scheduler])
    try:
        scheduler = scheduler_for(job)
    except ValueError as error:
        return made("unknown", explanation=f"its scheduler is not known: {error}")
    query = scheduler.status
    if query is None:
        return made("unknown", explanation=f"{scheduler.name}.yaml declares no 'status'")
    command = [word.replace("{id}", job.id) for word in query.command]
    try:
        answer = run(command, patience)
    except SilentError as error:
        silent[job.scheduler] = f"{error}; ask on the machine itself, or later"
        return made("unknown", explanation=silent[job.scheduler])
    if (answer.code and re.search(query.gone, answer.errors)) or not (answer.code or answer.output.strip()):
        return made("ended", explanation="the scheduler no longer lists it")
    match = re.search(query.answer, answer.output, re.MULTILINE)
    if answer.code or match is None:
        words = answer.last_words or f"exit code {answer.code}"
        return made("unknown", explanation=f"'{command[0]}' answered: {words}")
    own, reason = match["state"], _reason(match.groupdict().get("reason"))
    explanation = _explain(query.reasons, reason)
    return made(_state_of(query, own), own, reason, explanation.replace("ID", job.id))


def scheduler_for(job: SubmittedJob) -> Scheduler:
    """Return the scheduler of a recorded job.

    Raises
    ------
    ValueError
        If its files are not there, or cannot be used.
    """
    path = Path(job.scheduler)
    folders = [path.parent] if path.is_absolute() else []
    return load_scheduler(path.name, [*folders, jobs_folder() / "schedulers"])


def _state_of(query: StatusQuery, own: str) -> State:
    states: Iterable[tuple[State, tuple[str, ...]]] = (
        ("pending", query.pending), ("running", query.running), ("ended", query.ended),
    )  # fmt: skip
    return next((state for state, words in states if own in words), "unknown")


def _reason(text: str | None) -> str:
    reason = " ".join((text or "").split()).strip("()")
    return "" if reason == "None" else reason


def _explain(reasons: dict[str, str], reason: str) -> str:
    return next((words for part, words in reasons.items() if reason and part.lower() in reason.lower()), "")
