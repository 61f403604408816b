"""Schedulers: how job scripts are submitted and continued, read from ``jobs/schedulers/NAME.yaml``.

``NAME.sh.jinja`` beside it writes the script's directives and includes ``body.sh.jinja``, which all scripts share. A
new scheduler is two files: in ``jobs/schedulers/``, or in the folder of a profile that names it.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

import hydragnn_hpc
from hydragnn_hpc import yaml_files
from hydragnn_hpc.commands import SilentError, run
from hydragnn_hpc.errors import UserError, nearest
from hydragnn_hpc.sections import Section
from hydragnn_hpc.submit.answers import READERS
from hydragnn_hpc.validation import one_line

PATIENCE_SECONDS = 120


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error


def _is_pattern(pattern: str) -> str:
    _compile(pattern)
    return pattern


def _has_group(pattern: str) -> str:
    if not _compile(pattern).groups:
        raise ValueError("put the part that is the job's identifier into parentheses")
    return pattern


def _is_known(form: str) -> str:
    if form not in READERS:
        raise ValueError(f"no form '{form}'{nearest(form, READERS)}")
    return form


class Queries(Section):
    """Commands that print the limits of a scheduler's queues and nodes, in one of the forms of `submit.answers`.

    ``queue`` is the directive that names a queue, for templates that leave it to the profile. ``gpus`` may fail:
    earlier versions of a scheduler do not have it.
    """

    form: Annotated[str, AfterValidator(_is_known)]
    queues: Annotated[tuple[str, ...], Field(min_length=1)]
    nodes: Annotated[tuple[str, ...], Field(min_length=1)]
    server: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    queue: str = ""

    def commands(self) -> dict[str, tuple[str, ...]]:
        """Return the commands that are declared, by key."""
        given = {"queues": self.queues, "nodes": self.nodes, "server": self.server, "gpus": self.gpus}
        return {key: words for key, words in given.items() if words}


def _has_state(pattern: str) -> str:
    if "state" not in _compile(pattern).groupindex:
        raise ValueError("put the part that is the job's state into (?P<state>...)")
    return pattern


class StatusQuery(Section):
    """How to ask for the state of one job (`submit.jobs`).

    ``command`` may contain ``{id}``, the job's identifier. The regular expression ``answer`` matches ``state`` and
    optionally ``reason`` in its output. An empty answer, or an error that ``gone`` matches, means that the job has
    ended and is no longer listed. ``pending``, ``running`` and ``ended`` list the scheduler's words for a state;
    ``reasons`` explains reasons, by part of their text: what they mean, and what to do; ``ID`` in an explanation stands
    for the job's identifier.
    """

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    answer: Annotated[str, AfterValidator(_has_state)]
    gone: Annotated[str, Field(min_length=1), AfterValidator(_is_pattern)]
    pending: tuple[str, ...]
    running: tuple[str, ...]
    ended: tuple[str, ...]
    reasons: Annotated[dict[str, str], Field(default_factory=dict)]


class Scheduler(Section):
    """One scheduler's commands.

    ``submit`` and ``again`` may contain the placeholders of a profile (`submit.site.Site`), and ``{script}``,
    ``{name}`` and ``{jobs}``: the script, the job's name and the folder for its output. Without ``{script}`` among the
    words of ``submit`` the script goes to the command's standard input; without ``submit`` the script runs on this
    host. ``job_id`` is a regular expression whose first group is the job's identifier in what ``submit`` prints.
    ``again`` is a line of shell that submits the next job at the end of a script; without it the scheduler itself must
    run a job again that exits with 75, as its template requests. ``test`` reads a script from standard input, and fails
    for one that can never start.
    """

    name: str
    about: str
    sources: tuple[str, ...] = ()
    submit: tuple[str, ...] = ()
    job_id: Annotated[str, AfterValidator(_has_group)] = r"(\S+)\s*$"
    again: str = ""
    test: tuple[str, ...] = ()
    queries: Queries | None = None
    status: StatusQuery | None = None
    folder: Path
    """Folder of its template."""


def jobs_folder() -> Path:
    """Return the folder of profiles and schedulers: ``jobs/`` of the checkout, or its copy in an installed package."""
    package = Path(hydragnn_hpc.__file__).parent
    checkout = package.parent / "jobs"
    return checkout if (checkout / "sites").is_dir() else package / "jobs"


def load_scheduler(name: str, folders: Iterable[Path]) -> Scheduler:
    """Read ``NAME.yaml`` from the first of ``folders`` that holds it.

    Raises
    ------
    ValueError
        If there is none, or its content is invalid.
    """
    folders = list(folders)
    folder = next((f for f in folders if (f / f"{name}.sh.jinja").is_file() and name != "body"), None)
    if folder is None:
        known = {path.name.removesuffix(".sh.jinja") for f in folders for path in f.glob("*.sh.jinja")} - {"body"}
        raise ValueError(f"no scheduler '{name}'{nearest(name, known)}")
    path = folder / f"{name}.yaml"
    try:
        content = yaml_files.read(path)
    except (OSError, *yaml_files.YAML_ERRORS) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no settings")
    try:
        return Scheduler.model_validate({**content, "name": name, "folder": folder})
    except ValidationError as error:
        raise ValueError(f"{path}: {one_line(error, Scheduler)}") from error


def fill(text: str, values: Mapping[str, str | int], where: str) -> str:
    """Return ``text`` with its ``{names}`` replaced.

    Raises
    ------
    UserError
        If it names a value that is not among ``values``; ``where`` is named in the error.
    """
    try:
        return text.format_map(values)
    except KeyError as error:
        name = str(error.args[0])
        raise UserError(f"{where}: '{text}' names {{{name}}}, which is unknown{nearest(name, values)}") from error
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{where}: '{text}': {error}") from error


def follow_on(scheduler: Scheduler, values: Mapping[str, str | int]) -> str:
    """Return the line of shell that submits the next job, or ``""``."""
    quoted = {name: shlex.quote(str(value)) for name, value in values.items()}
    return fill(scheduler.again, quoted, f"scheduler {scheduler.name}")


def submit(scheduler: Scheduler, script: Path, values: Mapping[str, str | int]) -> str:
    """Submit ``script`` to the scheduler; return the job's identifier.

    Raises
    ------
    UserError
        If the scheduler is not on this host, does not answer, or refuses the job.
    """
    command = [fill(word, values, f"scheduler {scheduler.name}") for word in scheduler.submit]
    if shutil.which(command[0]) is None:
        raise UserError(
            f"'{command[0]}' is not on this host, so no {scheduler.name} job can be submitted from here; log in to the "
            "machine, or look at the script with --dry-run"
        )
    from_input = not any("{script}" in word for word in scheduler.submit)
    try:
        answer = run(command, PATIENCE_SECONDS, script.read_text(encoding="utf-8") if from_input else "")
    except SilentError as error:
        raise UserError(f"{error}; look at the queue, then submit again") from error
    if answer.code:
        reason = answer.last_words or "it gave no reason"
        raise UserError(f"'{command[0]}' refused the job: {reason}; the script is {script}")
    return job_id(scheduler, answer.output)


def job_id(scheduler: Scheduler, answer: str) -> str:
    """Extract the job's identifier from the scheduler's answer.

    Raises
    ------
    UserError
        If it is not there.
    """
    match = re.search(scheduler.job_id, answer)
    if match is None:
        raise UserError(f"the scheduler's answer names no job: {answer.strip()!r}; look at the queue")
    return match[1]
