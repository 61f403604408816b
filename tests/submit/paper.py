"""What tests of ``submit`` start from: the paper's campaign, plans and records of jobs, results, a profile."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.ledger import now
from hydragnn_hpc.paths import CampaignFolder, write_record
from hydragnn_hpc.records.jobs import SubmittedJob
from hydragnn_hpc.submit.plan import JobPlan, Work, make_plan
from hydragnn_hpc.submit.site import Site
from tests.campaigns import called
from tests.member_records import a_result

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "jobs" / "campaigns" / "paper.yaml"


def write_campaign(folder: Path) -> None:
    """Write the campaign as ``c.yaml`` in ``folder``, for a data set ``data.bp`` beside it."""
    (folder / "c.yaml").write_text(PAPER.read_text().replace("../../data/fept.bp", "data.bp"))


def submit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Submit the campaign ``c.yaml`` of ``folder``, with ``out`` as its folder."""
    return called(folder, "submit", "c.yaml", "out", *arguments)


def plan_of(
    site: Site, nodes: int | None = None, walltime: int | None = None, queue: str | None = None, *,
    stacks: int = 84, seconds: float | None = None,
) -> JobPlan:  # fmt: skip
    """Plan a job for the campaign, of which ``stacks`` of one member each are left."""
    return make_plan(load_campaign(PAPER), Work(stacks, stacks, seconds), site, nodes, walltime, queue)


def finish(folder: CampaignFolder, replica: int, state: str = "finished") -> None:
    """Give a member of the variant H its result; it took five seconds."""
    files = folder.member("H", replica)
    files.make()
    write_record(files.result, a_result(variant="H", replica=replica, state=state, seconds=5.0))


def a_job(**changes: object) -> SubmittedJob:
    """Return the record of a submitted job that is as given, and plain elsewhere."""
    plain = {
        "time": now(), "id": "7", "site": "pbs", "scheduler": "pbs", "nodes": 2, "queue": "q", "account": "",
        "walltime_seconds": 600, "members_left": 9, "script": "job.sh",
    }  # fmt: skip
    return SubmittedJob.model_validate({**plain, **changes})


def site_file(folder: Path, **changes: object) -> str:
    """Write the generic Slurm profile with ``changes`` (None removes a key) as ``mine.yaml``; return its path."""
    content = yaml.safe_load((ROOT / "jobs/sites/slurm.yaml").read_text())
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "mine.yaml")
