"""The nodes and the time that a job asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.submit import plan
from hydragnn_hpc.submit.site import load_site
from tests.submit.paper import PAPER, finish, plan_of


@pytest.mark.parametrize(
    ("stacks", "site", "nodes", "queue", "hours"),
    [
        (84, "frontier", 2, "batch", 2.0),
        (3, "frontier", 1, "batch", 2.0),
        (84, "polaris", 1, "preemptable", 72.0),
        (84, "summit", 2, "batch", 2.0),
        (84, "local", 1, "", 24.0),
    ],
)
def test_without_measurements_a_job_asks_for_the_queues_time(
    stacks: int, site: str, nodes: int, queue: str, hours: float
) -> None:
    chosen = plan_of(load_site(site), stacks=stacks)
    assert (chosen.nodes, chosen.queue, chosen.walltime_seconds) == (nodes, queue, hours * 3600)


@pytest.mark.parametrize(("queue", "nodes"), [("prod", 10), ("debug", 1), (None, 1)])
def test_a_job_asks_for_no_fewer_nodes_than_its_queue_takes(queue: str | None, nodes: int) -> None:
    assert plan_of(load_site("polaris"), queue=queue).nodes == nodes


def test_measured_seconds_give_the_time() -> None:
    # 84 stacks on 2 nodes of 6: 7 rounds of 600 s, a fifth more, 5 minutes to start: 89 minutes, rounded up to 90.
    chosen = plan_of(load_site("summit"), 2, seconds=600.0)
    assert chosen.estimate_seconds == 7 * 600 * 1.2 + 300
    assert chosen.walltime_seconds == 90 * 60
    slots = load_campaign(PAPER, ["launch.slots_per_device=7"])
    work = plan.Work(84, 84, 600.0)
    assert plan.make_plan(slots, work, load_site("summit"), 2, None, None).estimate_seconds == 1020


def test_no_job_asks_for_more_time_than_its_queue_allows() -> None:
    assert plan_of(load_site("frontier"), 2, seconds=36000.0).walltime_seconds == 7200


@pytest.mark.parametrize(
    ("site", "nodes", "walltime", "queue", "words"),
    [
        ("frontier", 12, None, None, "keep at most 11 nodes of 8 ranks busy; ask for 11"),
        ("frontier", 0, None, None, "at least 1"),
        ("frontier", 10000, None, None, "accepts jobs with these numbers of nodes"),
        ("frontier", 2, 25 * 3600, None, "frontier allows 24h on 2 nodes"),
        ("frontier", 2, 3 * 3600, "batch", "frontier allows 2h on 2 nodes"),
        ("frontier", 2, None, "bach", "frontier has no queue 'bach'; did you mean 'batch'?"),
        ("polaris", 2, None, "prod", "prod 10 to 24"),
        ("perlmutter", 9, None, "debug", "debug 1 to 8"),
        ("local", 2, None, None, "accepts jobs with these numbers"),
        ("local", 1, None, "gpu", "local has no queue 'gpu'; its profile names none$"),
    ],
)
def test_requests_beyond_a_machines_limits_are_refused(
    site: str, nodes: int, walltime: int | None, queue: str | None, words: str
) -> None:
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        plan_of(load_site(site), nodes, walltime, queue)


def test_work_left_counts_the_stacks_of_unfinished_members(tmp_path: Path) -> None:
    campaign, folder = load_campaign(PAPER, ["variants=[H]", "replicas=5", "launch.stack=2"]), CampaignFolder(tmp_path)
    for replica in (0, 2, 3):
        finish(folder, replica)
    left = plan.work_left(campaign, folder.root, None)
    assert (left.members, left.stacks, left.stack_seconds) == (2, 2, 5.0)
    assert plan.work_left(campaign, folder.root, 7.0).stack_seconds == 7.0
    finish(folder, 1)
    finish(folder, 4, "diverged")
    with pytest.raises(UserError, match="all members have results; nothing to submit"):
        plan.work_left(campaign, folder.root, None)
