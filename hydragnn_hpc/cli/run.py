"""``hydragnn-hpc run``: train a campaign's unfinished members, under any MPI launcher or none."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hydragnn_hpc.counts import counted
from hydragnn_hpc.durations import SAVE_SECONDS, seconds_of
from hydragnn_hpc.errors import UserError

if TYPE_CHECKING:
    from hydragnn_hpc.ensemble.folder import RunPlan

_SHOWN = 50  # variants whose cost a dry run shows
_LEAST_HOURS = 0.01  # below, the start of workers takes most of the time, and is not estimated
EPILOG = "Example: mpirun -n 2 hydragnn-hpc run jobs/campaigns/quickstart.yaml runs/quickstart --set replicas=1"


def run(
    campaign: Annotated[Path, typer.Argument(metavar="CAMPAIGN", help="The campaign file, YAML.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The campaign's folder; created if it does not exist.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a setting, such as training.epochs=3; repeatable.")
    ] = None,
    time_limit: Annotated[
        str,
        typer.Option(
            help="Save everything and stop within this time, with exit code 75: 30 (minutes), 90s, 1h30m, 1:30:00."
        ),
    ] = "",
    start_limit: Annotated[
        str, typer.Option(help="Give up if MPI has not started within this time, because a rank is missing.")
    ] = "10m",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained; write nothing.")] = False,
    local_rank: Annotated[
        int | None, typer.Option(min=0, help="This rank's number on its node, where the launcher does not set it.")
    ] = None,
    stage_dir: Annotated[
        Path | None, typer.Option(help="Node-local folder for the data set's copy; default $TMPDIR, /dev/shm, /tmp.")
    ] = None,
    require_gpu: Annotated[
        bool, typer.Option("--require-gpu", help="With launch.device=auto: refuse to train on CPUs, and say why.")
    ] = False,
) -> None:
    """Train a campaign's unfinished members; the same command again continues where it stopped.

    Exit codes: 0 all done; 1 done, but members failed for good, or none could be trained; 2 usage or configuration; 75
    out of time, run it again.
    """
    from hydragnn_hpc.paths import CampaignFolder

    seconds = seconds_of(time_limit, "--time-limit") if time_limit else None
    if seconds is not None and seconds <= SAVE_SECONDS:
        raise UserError(f"--time-limit {time_limit}: {SAVE_SECONDS:g} s of it are reserved for saving; give more")
    if dry_run:
        from hydragnn_hpc.ensemble.folder import read_plan

        _show_plan(read_plan(campaign, overrides or [], CampaignFolder(out)), out)
        return
    # Until the supervisor installs its handlers, a signal ends this process at once, even within MPI's start:
    # Python's handler would wait there for a rank that the same signal has ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    from hydragnn_hpc.ensemble.options import RunOptions
    from hydragnn_hpc.ensemble.run import run as run_campaign
    from hydragnn_hpc.report.tables.registry import write_tables

    options = RunOptions(
        campaign=campaign,
        overrides=overrides or [],
        out=out,
        seconds=seconds,
        start_seconds=seconds_of(start_limit, "--start-limit"),
        local_rank=local_rank,
        stage_dir=stage_dir,
        require_gpu=require_gpu,
        on_change=write_tables,
    )
    raise typer.Exit(int(run_campaign(options)))


def _show_plan(plan: RunPlan, out: Path) -> None:
    """Show what a run would train; under a launcher, rank 0 alone does."""
    from hydragnn_hpc.ensemble.display import stack_name
    from hydragnn_hpc.ensemble.launcher import detect

    launch = detect(os.environ)
    if launch.rank:
        return
    campaign = plan.frozen.campaign
    stacks, slots = plan.stacks(), campaign.launch.slots_per_device
    typer.echo(f"campaign   {campaign.name} ({plan.frozen.hash[:12]}) into {out}")
    typer.echo(f"data set   {campaign.dataset} ({plan.frozen.dataset_sha256[:12]})")
    typer.echo("members    " + ", ".join(f"{n} {state}" for state, n in plan.counts().items()))
    for remark in plan.remarks:
        typer.echo(f"remark     {remark}")
    ranks = f"{counted(launch.size, 'rank')} x {counted(slots, 'worker')} ({launch.launcher or 'no launcher'})"
    most = campaign.launch.stack
    size = "one member, or on GPUs as many as share them evenly,"
    if most != "auto":
        size = f"at most {counted(most, 'member')}"
    typer.echo(f"workers    {ranks}; {counted(len(stacks), 'stack')} of {size} to train")
    _show_costs(plan, out)
    for number, (variant, replicas) in enumerate(stacks):
        first = f"rank {number % launch.size} first" if number < launch.size * slots else "any free rank"
        typer.echo(f"           {stack_name(variant, replicas):16s} {first}")


def _show_costs(plan: RunPlan, out: Path) -> None:
    """Show how many members are left to train, and what they will cost: for the first variants, and in all."""
    from hydragnn_hpc.dataset.store import read_manifest
    from hydragnn_hpc.ledger import read_rungs
    from hydragnn_hpc.paths import CampaignFolder
    from hydragnn_hpc.submit.costs import costs

    campaign, rungs = plan.frozen.campaign, read_rungs(CampaignFolder(out))
    by_variant, basis = costs(campaign, read_manifest(Path(campaign.dataset)), plan.members, rungs)
    for cost in by_variant[:_SHOWN]:
        typer.echo(f"cost       {cost.variant}: {cost.members} to train, {_in_hours(cost.hours)}")
    if len(by_variant) > _SHOWN:
        typer.echo(f"cost       and {len(by_variant) - _SHOWN:,} more variants")
    if by_variant:
        known = [cost.hours for cost in by_variant if cost.hours is not None]
        total = _in_hours(sum(known) if len(known) == len(by_variant) else None)
        typer.echo(f"cost       in all {sum(cost.members for cost in by_variant):,} to train, {total}, {basis}")


def _in_hours(hours: float | None) -> str:
    if hours is None:
        return "unknown"
    if hours < _LEAST_HOURS:
        return f"less than {_LEAST_HOURS} device-hours"
    return f"at most {hours:.2g} device-hours" if hours < 10 else f"at most {hours:,.0f} device-hours"
