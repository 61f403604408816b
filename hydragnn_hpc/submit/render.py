"""The job script of one campaign on one machine, from the scheduler's template."""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hydragnn_hpc.durations import SAVE_SECONDS, clock
from hydragnn_hpc.errors import UserError, refuse_control_characters
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.records.jobs import MOST_RUNS
from hydragnn_hpc.submit.plan import JobPlan
from hydragnn_hpc.submit.scheduler import fill, follow_on, jobs_folder
from hydragnn_hpc.submit.site import Site


@dataclass(frozen=True)
class Job:
    """What a job script runs, apart from the machine and the plan.

    Attributes
    ----------
    campaign : Path
        The campaign file, absolute.
    out : CampaignFolder
        The campaign's folder, absolute.
    name : str
        The job's name.
    root : Path
        The checkout (or the folder that holds ``envs/``).
    python_folder : Path
        Folder of the ``hydragnn-hpc`` in use, for machines whose profile loads no environment.
    overrides : tuple of str
        ``key=value`` settings passed to ``run``.
    account : str
        Account to charge; empty where the machine needs none.
    runs : int
        The largest number of runs in the chain.
    packed : Path or None
        An archive of the environment (``envs/pack.sh``) to unpack on every node.
    """

    campaign: Path
    out: CampaignFolder
    name: str
    root: Path
    python_folder: Path
    overrides: tuple[str, ...] = ()
    account: str = ""
    runs: int = MOST_RUNS
    packed: Path | None = None


def render(job: Job, site: Site, plan: JobPlan) -> str:
    """Return the job script.

    Raises
    ------
    UserError
        If the machine needs an account and none is given, a name cannot be written in a script, or a profile or
        template names an unknown value.
    """
    import jinja2

    if site.account and not job.account:
        raise UserError(f"--site {site.name}: jobs there are charged to a project; name yours with --account")
    _refuse_names(job, plan.queue)
    values = values_of(job, site, plan)

    def filled(words: Iterable[str]) -> list[str]:
        return [fill(word, values, f"profile {site.name}") for word in words]

    # A packed environment's console command would contain the path of the folder that was packed.
    command = ["python", "-P", "-m", "hydragnn_hpc"] if job.packed else ["hydragnn-hpc"]
    program = [*command, "run", str(job.campaign), str(job.out.root)]
    program += [word for override in job.overrides for word in ("--set", override)]
    program += ["--require-gpu"] * (site.gpus_per_node > 0)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([site.scheduler.folder, jobs_folder() / "schedulers"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    template = f"{site.scheduler.name}.sh.jinja"
    try:
        return environment.get_template(template).render(
            **values,
            site=site,
            job=job,
            again=follow_on(site.scheduler, values),
            directives=filled(site.directives),
            launch=shlex.join(filled(site.launch)),
            per_node=shlex.join(filled(site.per_node)),
            node_environment=f"/tmp/hydragnn_hpc-environment-{_digest(job.out.root)}",
            per_rank=shlex.quote("; ".join([*site.per_rank, 'exec "$@"'])) if site.per_rank else "",
            program=shlex.join(program),
            least_seconds=int(SAVE_SECONDS),
        )
    except jinja2.UndefinedError as error:
        raise UserError(f"template {template}: {error.message}; correct the name") from error
    except jinja2.TemplateError as error:
        raise UserError(f"template {template}: {error}; correct the template") from error


def _refuse_names(job: Job, queue: str) -> None:
    """Refuse names that would break a line of the script: the rest would be run as a command."""
    # The scheduler parses its directives by its own rules, under which quoting is not reliable.
    for option, word in (("--account", job.account), ("--queue", queue)):
        if word and not re.fullmatch(r"[\w.:@/+=,-]+", word):
            raise UserError(f"{option} {word!r}: expected letters, digits and any of _ . : @ / + = , -")
    names = {"the campaign file": job.campaign, "the campaign's folder": job.out.root, "--packed": job.packed or ""}
    for what, name in names.items():
        refuse_control_characters(str(name), what)


def _digest(folder: Path) -> str:
    """Return a short name for a campaign's folder, so that the next job replaces what a killed job left on a node."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]


def values_of(job: Job, site: Site, plan: JobPlan) -> dict[str, str | int]:
    """Return the values of the placeholders that profiles, schedulers and templates may contain."""
    return {
        "name": job.name,
        "script": str(job.out.job_script),
        "jobs": str(job.out.jobs),
        "nodes": plan.nodes,
        "ranks": plan.ranks,
        "ranks_per_node": site.ranks_per_node,
        "cores_per_rank": site.cores_per_rank,
        "cores_per_node": site.cores_per_node,
        "gpus_per_node": site.gpus_per_node,
        "queue": plan.queue,
        "account": job.account,
        "walltime": clock(plan.walltime_seconds),
        "walltime_seconds": plan.walltime_seconds,
        "walltime_minutes": math.ceil(plan.walltime_seconds / 60),
        "stop_seconds": plan.stop_seconds,
    }
