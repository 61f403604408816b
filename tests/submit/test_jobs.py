"""States of submitted jobs: each scheduler's answers, and schedulers that do not answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hydragnn_hpc.paths import CampaignFolder, append_record
from hydragnn_hpc.submit import jobs
from tests.campaigns import done
from tests.report import making
from tests.submit.paper import ROOT, a_job
from tests.submit.programs import stand_in
from tests.waiting import has_ended, wait_for

COMMANDS = {"slurm": "squeue", "pbs": "qstat", "lsf": "bjobs", "flux": "flux"}


def folder_of(tmp_path: Path, scheduler: str, *ids: str) -> CampaignFolder:
    """Return a campaign's folder with submitted jobs and nothing else."""
    folder = CampaignFolder(tmp_path / "out")
    folder.jobs.mkdir(parents=True, exist_ok=True)
    for job in ids or ("7",):
        append_record(folder.job_record, a_job(id=job, site="there", scheduler=scheduler))
    return folder


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for programs among the stand-ins first."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("scheduler", "answer", "expected"),
    [
        ("slurm", "PENDING PartitionTimeLimit", ("pending", "PartitionTimeLimit", "never starts; cancel it")),
        ("slurm", "PENDING ReqNodeNotAvail, UnavailableNodes:n1", ("pending", "ReqNodeNotAvail, Un", "maintenance")),
        ("slurm", "PENDING JobHeldUser", ("pending", "JobHeldUser", "'scontrol release 7'")),
        ("slurm", "RUNNING None", ("running", "", "")),
        ("slurm", "TIMEOUT TimeLimit", ("ended", "TimeLimit", "")),
        ("slurm", "DREAMING None", ("unknown", "", "")),
        ("pbs", "Job Id: 7\n    job_state = Q\n    queue = q\n    comment = Not Running: Insufficient amount of\n\t"
                "resource: ngpus\n    x = 1", ("pending", "amount of resource: ngpus", "nodes to become free")),
        ("pbs", "Job Id: 7\n    job_state = R\n    queue = q", ("running", "", "")),
        ("pbs", "Job Id: 7\n    job_state = F", ("ended", "", "")),
        ("lsf", "PEND Job requirements not satisfied;", ("pending", "requirements", "submit with less")),
        ("lsf", "RUN -", ("running", "", "")),
        ("lsf", "EXIT -", ("ended", "", "")),
        ("flux", "SCHED", ("pending", "", "")),
        ("flux", "DEPEND depends:after", ("pending", "depends:after", "another job")),
        ("flux", "RUN node1", ("running", "node1", "")),
        ("flux", "COMPLETED node1", ("ended", "node1", "")),
    ],
)  # fmt: skip
def test_a_schedulers_answer_gives_state_reason_and_explanation(
    tmp_path: Path, scheduler: str, answer: str, expected: tuple[str, str, str]
) -> None:
    state, reason, explanation = expected
    (tmp_path / "answer").write_text(answer + "\n")
    # It answers only if it is asked for this job.
    body = rf'[[ " $* " == *[\ =]7\ * ]] && cat {tmp_path}/answer'
    stand_in(tmp_path, COMMANDS[scheduler], body)
    [job] = jobs.read_jobs(folder_of(tmp_path, scheduler))[0]
    assert job.state == state and explanation in job.explanation, job
    assert reason in job.reason if reason else not job.reason
    assert bool(job.explanation) == bool(explanation)


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [("slurm", "slurm_load_jobs error: Invalid job id specified"), ("pbs", "qstat: Unknown Job Id 7"),
     ("lsf", "Job <7> is not found"), ("flux", "flux-jobs: ERROR: JobID 7 unknown")],
)  # fmt: skip
def test_a_job_that_its_scheduler_no_longer_knows_has_ended(tmp_path: Path, scheduler: str, words: str) -> None:
    stand_in(tmp_path, COMMANDS[scheduler], f"echo '{words}' >&2; exit 1")
    assert jobs.read_jobs(folder_of(tmp_path, scheduler))[0][0].state == "ended"
    stand_in(tmp_path, COMMANDS[scheduler], "echo 'cannot reach the server' >&2; exit 1")
    [job] = jobs.read_jobs(folder_of(tmp_path / "x", scheduler))[0]
    assert job.state == "unknown" and "cannot reach the server" in job.line()


def test_a_scheduler_that_hangs_is_asked_once(tmp_path: Path) -> None:
    stand_in(tmp_path, "squeue", f"echo >> {tmp_path}/asked; sleep 120 & echo $! > {tmp_path}/child; wait")
    found, _ = jobs.read_jobs(folder_of(tmp_path, "slurm", "7", "8", "9"), patience=0.5)
    assert [job.state for job in found] == ["unknown"] * 3 and "gave no answer" in found[0].line()
    assert (tmp_path / "asked").read_text() == "\n"
    child = int((tmp_path / "child").read_text())
    # Killed with the command that started it; otherwise it would live for two minutes.
    wait_for(lambda: has_ended(child), 60)


def test_a_folder_of_another_user_names_no_commands(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a file to another user")
    (tmp_path / "mine.sh.jinja").touch()
    text = yaml.safe_load((ROOT / "jobs/schedulers/slurm.yaml").read_text())
    text["status"]["command"] = ["squeue", "{id}"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(text))
    stand_in(tmp_path, "squeue", "echo RUNNING")
    folder = folder_of(tmp_path, str(tmp_path / "mine"))
    assert [job.state for job in jobs.read_jobs(folder)[0]] == ["running"]
    os.chown(folder.job_record, 12345, -1)
    append_record(folder.job_record, a_job(id="8", scheduler="slurm"))
    own, packages = jobs.read_jobs(folder)[0]
    assert own.state == "unknown" and "only the user who submitted it can ask" in own.line()
    assert packages.state == "running"


def test_status_before_the_campaign_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, "slurm")
    with folder.job_record.open("a") as stream:
        stream.write("not a record\n\n")
    stand_in(tmp_path, "squeue", "echo PENDING Priority")
    shown = done(tmp_path, "status", str(folder.root))
    assert "job 7 on there" in shown and "pending (PENDING, Priority); jobs of higher priority" in shown
    assert "cannot read line 2" in shown and "line 3" not in shown and "the campaign has not begun" in shown
    shown = done(tmp_path, "status", str(folder.root), "--json")
    assert json.loads(shown)["jobs"][0]["reason"] == "Priority"
    monkeypatch.setenv("PATH", "")
    shown = done(tmp_path, "status", str(folder.root))
    assert "unknown; 'squeue' is not on this host" in shown


def test_status_keeps_watching_until_the_campaign_begins(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "slurm")
    stand_in(tmp_path, "squeue", "echo PENDING Priority")
    command = [sys.executable, "-m", "hydragnn_hpc", "status", str(folder.root), "--watch", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as watching:
        assert watching.stdout is not None
        until = iter(watching.stdout.readline, "")
        assert any("has not begun" in line for line in until)
        shutil.copytree(making.make(tmp_path / "other", variants=("H",), replicas=1), folder.root, dirs_exist_ok=True)
        rest = "".join(until)
        assert "1 finished" in rest and watching.wait(60) == 0, rest


def test_watching_ends_when_all_jobs_have_ended_before_the_campaign_began(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "slurm")
    stand_in(tmp_path, "squeue", "echo FAILED NonZeroExitCode")
    command = [sys.executable, "-m", "hydragnn_hpc", "status", str(folder.root), "--watch"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "ended (FAILED, NonZeroExitCode)" in shown and "has not begun" in shown


def test_a_finished_campaign_asks_no_scheduler(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "slurm")
    shutil.copytree(making.make(tmp_path / "other", variants=("H",), replicas=1), folder.root, dirs_exist_ok=True)
    stand_in(tmp_path, "squeue", f"touch {tmp_path}/asked; echo RUNNING None")
    shown = json.loads(done(tmp_path, "status", str(folder.root), "--json"))
    assert shown["settled"] and shown["jobs"] == [] and not (tmp_path / "asked").exists()
