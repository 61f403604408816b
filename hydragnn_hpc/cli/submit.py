"""``hydragnn-hpc submit``: the job script of a campaign on a machine, and its submission."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hydragnn_hpc.atomic import storage_errors, write_text
from hydragnn_hpc.counts import counted
from hydragnn_hpc.durations import clock, seconds_of
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.logs import print_line
from hydragnn_hpc.paths import CampaignFolder, append_record, check_appendable
from hydragnn_hpc.records.jobs import LOCAL, MOST_RUNS, SubmittedJob

if TYPE_CHECKING:
    from hydragnn_hpc.submit.plan import JobPlan
    from hydragnn_hpc.submit.render import Job
    from hydragnn_hpc.submit.site import Site

YOUR_PROJECT = "YOUR_PROJECT"
"""Placeholder for the account in a dry run that names none."""


def submit(
    campaign: Annotated[Path, typer.Argument(metavar="CAMPAIGN", help="The campaign file.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The campaign's folder, on a file system that all nodes share.")
    ],
    site: Annotated[str, typer.Option(help="A machine in jobs/sites, or the path of your own profile.")],
    nodes: Annotated[int | None, typer.Option(help="Nodes to ask for.")] = None,
    walltime: Annotated[str | None, typer.Option(help="Time to ask for: 90 (minutes), 2h, 1h30m, 1:30:00.")] = None,
    account: Annotated[str, typer.Option(help="Project or account to charge.")] = "",
    queue: Annotated[str | None, typer.Option(help="Queue, partition or quality of service.")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Measured seconds per member (per stack, where stacked), to estimate from.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Maximum number of consecutive jobs.")] = MOST_RUNS,
    packed: Annotated[
        Path | None,
        typer.Option(
            help="An environment packed by envs/pack.sh, which is unpacked on every node, so that Python starts there."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a setting, such as training.epochs=3; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script; submit nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Render the job script for a machine and submit it.

    Follow-up jobs are submitted automatically until every member is trained.
    """
    from hydragnn_hpc.campaign_file import load_campaign
    from hydragnn_hpc.ensemble.folder import to_freeze
    from hydragnn_hpc.submit import estimate, limits, plan, render, scheduler
    from hydragnn_hpc.submit.site import load_site

    machine = load_site(site)
    settings = load_campaign(campaign, overrides or [])
    folder = CampaignFolder(out.absolute())
    manifest = to_freeze(settings, folder)[0] if Path(settings.dataset).exists() else None
    work = plan.work_left(settings, folder.root, seconds)
    limit = math.ceil(seconds_of(walltime, "--walltime")) if walltime is not None else None
    machine, queues, unchecked = limits.apply(machine, site == machine.scheduler.name, queue, limit)
    if work.stack_seconds is None and manifest is not None:
        work = work.estimated(estimate.estimate(settings, manifest, machine))
    chosen = plan.make_plan(settings, work, machine, nodes, limit, queue)
    limits.check(machine, chosen, queues, account)
    if manifest is None and not dry_run and not machine.retired:
        to_freeze(settings, folder)  # raises, since there is none, but only after the machine's limits are checked
    if dry_run and machine.account and not account:
        account = YOUR_PROJECT
        typer.echo(f"--site {site}: jobs there are charged to a project; name yours with --account", err=True)
    job = render.Job(
        campaign=campaign.absolute(),
        out=folder,
        name=settings.name,
        root=scheduler.jobs_folder().parent,
        python_folder=Path(sys.executable).parent,
        overrides=tuple(overrides or []),
        account=account,
        runs=runs,
        packed=_packed_file(packed),
    )
    script = render.render(job, machine, chosen)
    # The scheduler would refuse the placeholder.
    unchecked = unchecked or ("" if account == YOUR_PROJECT else limits.rehearse(machine.scheduler, script))
    need = _need(chosen.estimate_seconds, work.basis)
    if dry_run:
        typer.echo(script, nl=False)
        typer.echo(f"{clock(chosen.walltime_seconds)} per job; estimated need: {need}", err=True)
        _report_unchecked(site, unchecked)
        return
    if machine.retired:
        raise UserError(f"--site {site}: {machine.retired}; --dry-run shows the script")
    submitted, is_recorded = _hand_over(job, machine, chosen, script, work.members)
    if submitted.id == LOCAL:
        sys.exit(_run_here(folder.job_script))
    _report_unchecked(site, unchecked)
    typer.echo(
        json.dumps(submitted.model_dump(mode="json", exclude={"time"}))
        if as_json
        else f"job {submitted.id}: {counted(work.members, 'member')} on {counted(chosen.nodes, 'node')} x "
        f"{counted(machine.ranks_per_node, 'rank')}, "
        f"{clock(chosen.walltime_seconds)} per job (estimated need: {need})\nscript {folder.job_script}"
    )
    if not is_recorded:
        raise typer.Exit(ExitCode.USAGE)


def _hand_over(job: Job, site: Site, plan: JobPlan, script: str, members_left: int) -> tuple[SubmittedJob, bool]:
    """Write the script, submit it, and record the job; without a scheduler the script is only written.

    Returns
    -------
    SubmittedJob
    bool
        Whether it is recorded; if not, a line has been printed that says why, and that the job is in the queue.
    """
    from hydragnn_hpc.ledger import now
    from hydragnn_hpc.submit import chain, jobs, render, scheduler

    folder = job.out
    with storage_errors(folder.jobs):
        folder.jobs.mkdir(parents=True, exist_ok=True)
    write_text(folder.job_script, script)
    chain.restart(folder)
    check_appendable(folder.job_record)
    values = render.values_of(job, site, plan)
    submitted = SubmittedJob(
        time=now(),
        id=scheduler.submit(site.scheduler, folder.job_script, values) if site.scheduler.submit else LOCAL,
        site=site.name,
        scheduler=jobs.scheduler_entry(site),
        nodes=plan.nodes,
        queue=plan.queue,
        account=job.account,
        walltime_seconds=plan.walltime_seconds,
        members_left=members_left,
        script=str(folder.job_script),
    )
    try:
        append_record(folder.job_record, submitted)
    except UserError as error:
        if submitted.id == LOCAL:
            raise
        # At once: where the disk is full, standard output may be as well.
        problem = f"job {submitted.id} is in the queue, do not submit it again; 'status' will not show it: {error}"
        print_line(f"hydragnn-hpc: error: {problem}")
        return submitted, False
    return submitted, True


def _run_here(script: Path) -> int:
    """Run a job script on this host; return its exit code.

    Ctrl-C reaches the script too: it ends once all members are saved.
    """
    with subprocess.Popen(["bash", str(script)]) as running:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return running.wait()


def _need(seconds: float | None, basis: str) -> str:
    """Return the time until all members are trained, and where it comes from."""
    if seconds is None:
        return "unknown without the data set, so the job asks for the queue's longest time; --seconds gives it"
    return f"{clock(seconds)}, {basis}"


def _report_unchecked(site: str, reason: str) -> None:
    if reason:
        typer.echo(f"--site {site}: the machine's limits could not be checked: {reason}", err=True)


def _packed_file(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise UserError(f"--packed {path}: no such file; 'bash envs/pack.sh FOLDER {path}' makes it")
    return path.absolute() if path else None
