"""Number of nodes that a campaign can keep busy on a machine, and the time that it takes there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from hydragnn_hpc import halving
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.counts import counted
from hydragnn_hpc.durations import SAVE_SECONDS, clock
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.ledger import read_members, read_rungs
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.submit.estimate import Estimate
from hydragnn_hpc.submit.site import Site

START_SECONDS = 300
"""Allowance for the start of a job (environment, MPI, staging); generous, because a job cut short has to run again."""
RESERVE = 1.2
"""Safety factor on measured training times, for other nodes, other GPUs and a busy file system."""
ESTIMATE_RESERVE = 2.0
"""Safety factor on times that were not measured (`submit.estimate`)."""
STEP_SECONDS = 600
"""Wall times are rounded up to a multiple of this."""


@dataclass(frozen=True)
class Work:
    """The remaining work of a campaign.

    Attributes
    ----------
    members : int
        Members without a result.
    stacks : int
        Stacks that these members belong to; one worker trains a stack.
    stack_seconds : float or None
        The longest time of a stack, measured or estimated; None if neither is known.
    basis : str
        Where that time comes from, in words.
    reserve : float
        The safety factor on it.
    """

    members: int
    stacks: int
    stack_seconds: float | None
    basis: str = ""
    reserve: float = RESERVE

    def estimated(self, estimate: Estimate) -> Work:
        """Return this work with an estimate in place of a measured time."""
        basis = f"not measured, but estimated from {estimate.basis}"
        if estimate.for_core:
            basis = f"which is that of one CPU core: a GPU's is unknown, since none has been measured; {basis}"
        return replace(self, stack_seconds=estimate.seconds, basis=basis, reserve=ESTIMATE_RESERVE)


@dataclass(frozen=True)
class JobPlan:
    """The resources that a job requests; ``estimate_seconds`` is what the work needs, None if that is not known."""

    nodes: int
    ranks: int
    queue: str
    walltime_seconds: int
    estimate_seconds: float | None

    @property
    def stop_seconds(self) -> int:
        """How long before the job's end its ranks stop, to leave time for the last checkpoint and for the next job."""
        return max(10, min(180, self.walltime_seconds // 10))


def work_left(campaign: Campaign, out: Path, seconds: float | None) -> Work:
    """Count the members without a result in ``out``; ``seconds`` replaces the times measured there.

    Raises
    ------
    UserError
        If nothing is left to train, or ``seconds`` is not positive and finite.
    """
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(f"--seconds {seconds}: expected the measured seconds of a member, a number above 0")
    folder = CampaignFolder(out)
    members = read_members(folder, campaign)
    unfinished = {(m.variant, m.replica) for m in members if m.result is None}
    if not unfinished and not halving.undecided(campaign, read_rungs(folder)):
        raise UserError(f"{out}: all members have results; nothing to submit")
    stacks = sum(any((variant, r) in unfinished for r in replicas) for variant, replicas in campaign.stacks())
    # An 'auto' stack counts here as so many stacks of one member, each with its share of the time.
    joined = campaign.launch.stack == "auto"
    measured = [
        m.result.seconds / (len(m.result.stack) if joined else 1) for m in members if m.result and m.result.seconds
    ]
    basis = "from --seconds" if seconds else f"measured on the finished members ({len(measured)})" if measured else ""
    return Work(len(unfinished), stacks, seconds or max(measured, default=None), basis)


def useful_nodes(work: Work, campaign: Campaign, site: Site) -> int:
    """Return the largest number of nodes that all have something to train."""
    devices = math.ceil(work.stacks / campaign.launch.slots_per_device)
    return max(1, math.ceil(devices / site.ranks_per_node))


def make_plan(
    campaign: Campaign, work: Work, site: Site, nodes: int | None, walltime: int | None, queue: str | None
) -> JobPlan:
    """Choose nodes, queue and wall time: as given, or what the campaign can use within the machine's limits.

    Parameters
    ----------
    nodes, walltime, queue
        The user's choice (``walltime`` in seconds); None leaves it to the profile and to the times of ``work``.

    Raises
    ------
    UserError
        If the campaign cannot use that many nodes, the request exceeds a limit of the machine, or the wall time leaves
        nothing to train in.
    """
    most = useful_nodes(work, campaign, site)
    if nodes is None:
        ranges = [limit.nodes for limit in site.limits if queue in (None, limit.queue)] or [(1, 1)]
        nodes = min(most, site.usual_nodes, max(high for _, high in ranges))
        nodes = max(nodes, min(low for low, _ in ranges))
    elif nodes < 1:
        raise UserError(f"--nodes {nodes}: must be at least 1")
    limit = site.limit(nodes, queue, walltime)
    if nodes > max(most, limit.nodes[0]):
        raise UserError(
            f"--nodes {nodes}: {counted(work.stacks, 'stack')} to train can keep at most {counted(most, 'node')} of "
            f"{counted(site.ranks_per_node, 'rank')} busy; ask for {most}"
        )
    workers = nodes * site.ranks_per_node * campaign.launch.slots_per_device
    estimate = None
    if work.stack_seconds is not None:
        estimate = math.ceil(work.stacks / workers) * work.stack_seconds * work.reserve + START_SECONDS
    longest = int(limit.seconds)
    if walltime is None:
        sufficient = longest if estimate is None else math.ceil(estimate / STEP_SECONDS) * STEP_SECONDS
        walltime = min(sufficient, longest)
    plan = JobPlan(nodes, nodes * site.ranks_per_node, limit.queue, walltime, estimate)
    if (least := plan.stop_seconds + SAVE_SECONDS) >= walltime:
        raise UserError(
            f"walltime {clock(walltime)}: the last {least:.0f} s of a job train nothing; ask for more with --walltime"
        )
    return plan
