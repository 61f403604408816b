"""Chains of jobs: whether another one follows, and its record."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hydragnn_hpc import ledger
from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.errors import ExitCode
from hydragnn_hpc.ledger import Frozen
from hydragnn_hpc.paths import CampaignFolder, append_record, write_record
from hydragnn_hpc.records.jobs import SubmittedJob
from hydragnn_hpc.records.rungs import Rungs
from hydragnn_hpc.submit import chain, render
from hydragnn_hpc.submit.site import load_site
from tests.member_records import a_result
from tests.submit.paper import PAPER, ROOT, a_job, finish, plan_of
from tests.submit.programs import stand_in


@pytest.fixture
def folder(tmp_path: Path) -> CampaignFolder:
    """A campaign's folder of 2 members, none trained."""
    made = CampaignFolder(tmp_path / "out")
    made.jobs.mkdir(parents=True)
    campaign = load_campaign(PAPER, ["variants=[H]", "replicas=2"])
    ledger.freeze(made, Frozen(campaign, config_hash(campaign, "d"), "d"))
    return made


def test_a_chain_goes_on_while_members_make_progress(folder: CampaignFolder) -> None:
    chain.begin(folder)
    assert chain.end(folder, 75, 50)[0] == 1, "no progress"
    chain.begin(folder)
    finish(folder, 0)
    assert chain.end(folder, 75, 50) == (ExitCode.AGAIN, "1 member left; the campaign is run again")
    chain.begin(folder)
    folder.member("H", 1).make()
    folder.member("H", 1).checkpoint.write_bytes(b"x")
    assert chain.end(folder, 137, 50)[0] == ExitCode.AGAIN, "a launcher that was killed: the members decide"
    assert chain.end(folder, 75, 3)[0] == 1, "the limit of runs"
    finish(folder, 1)
    assert chain.end(folder, 75, 50) == (ExitCode.DONE, "done")


def test_a_chain_reports_failed_members(folder: CampaignFolder) -> None:
    chain.begin(folder)
    finish(folder, 0)
    finish(folder, 1, "diverged")
    assert chain.end(folder, 0, 50) == (ExitCode.MEMBERS_FAILED, "done; 1 member failed")


def test_a_rung_that_is_not_decided_yet_keeps_a_chain(tmp_path: Path) -> None:
    """The job was killed between the last result of a rung and its decision."""
    sweep = "sweep={of: H, over: {model.channels: [4, 8]}, halving: {keep: 1/2, at: [10]}}"
    campaign, folder = load_campaign(PAPER, ["variants=[]", "replicas=1", sweep]), CampaignFolder(tmp_path)
    ledger.freeze(folder, Frozen(campaign, config_hash(campaign, "d"), "d"))
    chain.begin(folder)
    for variant in campaign.variants:
        files = folder.member(variant.name, 0)
        files.make()
        write_record(files.result, a_result(variant=variant.name, epochs=10, stopped_by="epochs"))
    assert chain.end(folder, 137, 50)[0] == ExitCode.AGAIN
    write_record(folder.rungs, Rungs(survivors={"H": ((),)}))
    assert chain.end(folder, 137, 50) == (ExitCode.DONE, "done")


@pytest.mark.parametrize("late", [False, True])
def test_an_interruption_ends_a_chain(folder: CampaignFolder, late: bool) -> None:
    chain.begin(folder)
    finish(folder, 0)
    assert chain.end(folder, 130, 50, late) == (ExitCode.INTERRUPTED, "interrupted; submit again to continue")


def test_a_usage_error_ends_a_chain(folder: CampaignFolder, tmp_path: Path) -> None:
    chain.begin(folder)
    finish(folder, 0)
    assert chain.end(folder, 2, 50)[0] == ExitCode.USAGE
    assert chain.end(CampaignFolder(tmp_path / "empty"), 0, 50)[0] == 1


def test_a_job_that_begins_late_keeps_its_chain_but_not_for_ever(folder: CampaignFolder) -> None:
    for late_before in range(chain.LATE_RUNS - 1):
        chain.begin(folder)
        assert chain.end(folder, 75, 50, late=True)[0] == ExitCode.AGAIN, late_before
    chain.begin(folder)
    code, words = chain.end(folder, 75, 50, late=True)
    assert code == 1 and f"too little time to train in {chain.LATE_RUNS} jobs" in words
    chain.begin(folder)
    finish(folder, 0)
    assert chain.end(folder, 75, 50, late=True)[0] == ExitCode.AGAIN, "late, but with progress"
    chain.begin(folder)
    assert chain.end(folder, 75, 50, late=True)[0] == ExitCode.AGAIN, "the count begins again"
    chain.begin(folder)
    assert chain.end(folder, 75, 50)[0] == 1, "in time, and no progress"


def test_a_first_job_that_begins_late_keeps_its_chain(folder: CampaignFolder) -> None:
    folder.campaign.unlink()
    chain.begin(folder)
    assert chain.end(folder, 75, 50, late=True)[0] == ExitCode.AGAIN


def test_a_campaign_that_never_starts_ends_its_chain(folder: CampaignFolder) -> None:
    folder.campaign.unlink()
    chain.begin(folder)
    assert chain.end(folder, 75, 2)[0] == ExitCode.AGAIN
    chain.begin(folder)
    code, words = chain.end(folder, 75, 2)
    assert code == 1 and "did not start in 2 runs" in words


@pytest.mark.parametrize(
    "record", ["[", "[]", '{"runs": "many", "late": -1}', '{"runs": 1e99, "late": true, "mark": {}}']
)
def test_a_damaged_record_of_a_chain_starts_it_again(folder: CampaignFolder, record: str) -> None:
    folder.job_chain.write_text(record)
    assert chain.end(folder, 75, 50)[0] == ExitCode.AGAIN
    chain.begin(folder)
    assert chain.end(folder, 75, 50)[0] == 1


@pytest.mark.parametrize(
    ("setup", "code", "launched"), [("SECONDS=0", 0, 1), ("SECONDS=600", 75, 0), ("SECONDS=536", 75, 0)]
)
def test_a_script_launches_only_what_has_time(
    tmp_path: Path, folder: CampaignFolder, setup: str, code: int, launched: int
) -> None:
    """The local script with a stand-in for the launcher, after the set-up ``setup``."""
    stand_in(tmp_path, "mpirun", "echo launched")
    stand_in(tmp_path, "python", f'exec {sys.executable} "$@"')
    site = load_site("local").model_copy(update={"environment": (setup,)})
    job = render.Job(tmp_path / "c.yaml", folder, "x", ROOT, tmp_path / "bin")
    script = render.render(job, site, plan_of(site, walltime=600)).replace("exec bash", "true")
    if launched:
        finish(folder, 0)
        finish(folder, 1)
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout.count("launched")) == (code, launched), done.stderr


@pytest.mark.parametrize(
    ("name", "programs", "ids"),
    [
        ("pbs", {"qsub": "echo 8.server"}, ["7", "8.server"]),
        ("flux", {"flux": '[ "$2" = batch ] && echo f8'}, ["7", "f8"]),
        ("slurm", {"scontrol": "exit 1", "sbatch": "echo '8;cluster'"}, ["7", "8"]),
        ("slurm", {"scontrol": "exit 0"}, ["7"]),  # requeued under its number
        ("pbs", {"qsub": "echo no room >&2; exit 1"}, ["7"]),
    ],
)
def test_a_job_that_another_one_submits_is_recorded(
    tmp_path: Path, folder: CampaignFolder, name: str, programs: dict[str, str], ids: list[str]
) -> None:
    """A script whose set-up left no time, with stand-ins for the scheduler."""
    for program, body in {**programs, "python": f'exec {sys.executable} "$@"'}.items():
        stand_in(tmp_path, program, body)
    first = a_job(site=name, scheduler=name, account="abc")
    append_record(folder.job_record, first)
    site = load_site(name).model_copy(update={"environment": ("SECONDS=600",), "directives": ()})
    job = render.Job(tmp_path / "c.yaml", folder, "x", ROOT, tmp_path / "bin")
    script = render.render(job, site, plan_of(site, walltime=600))
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "SLURM_JOB_ID": "7"}
    )
    assert done.returncode == 75 and "Traceback" not in done.stderr, done.stderr
    records = [SubmittedJob.model_validate_json(line) for line in folder.job_record.read_bytes().splitlines()]
    assert [record.id for record in records] == ids
    for record in records[1:]:
        changes = {"time": record.time, "id": record.id, "members_left": 2}
        assert record == first.model_copy(update=changes) and record.id in done.stdout


def test_a_next_job_is_recorded_where_the_log_is_full(folder: CampaignFolder) -> None:
    append_record(folder.job_record, a_job())
    line = f'echo 8 | "{sys.executable}" -m hydragnn_hpc.submit.chain record "{folder.root}" >/dev/full'
    done = subprocess.run(["bash", "-c", line], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [json.loads(line)["id"] for line in folder.job_record.read_text().splitlines()] == ["7", "8"]


def test_a_next_job_that_cannot_be_recorded_ends_no_chain(folder: CampaignFolder) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hydragnn_hpc.submit.chain", "record", str(folder.root)],
        input="8\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "8\n")
    assert len(done.stderr.splitlines()) == 1 and "no job is recorded" in done.stderr


@pytest.mark.parametrize("name", ["submitted.jsonl", "chain.json"])
@pytest.mark.parametrize("moment", ["begin", "end", "record"])
def test_an_entry_that_is_a_folder_costs_a_chain_one_line(
    folder: CampaignFolder, name: str, moment: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder.jobs / name / "kept").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["chain", moment, str(folder.root), "75"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("8\n"))
    code = 0
    try:
        chain.main()
    except SystemExit as end:
        code = int(end.code or 0)
    said = [line for line in capfd.readouterr().err.splitlines() if name in line]
    concerned = (moment == "record") == (name == "submitted.jsonl")
    assert len(said) == concerned and (folder.jobs / name / "kept").is_dir(), said
    assert code == {"begin": 2 * concerned, "end": 75, "record": 0}[moment]


def test_a_user_who_submits_again_starts_a_new_count(folder: CampaignFolder) -> None:
    for _ in range(3):
        chain.begin(folder)
    chain.restart(folder)
    chain.begin(folder)
    assert json.loads(folder.job_chain.read_text())["runs"] == 1
    folder.job_chain.write_text("[")
    chain.begin(folder)
    assert json.loads(folder.job_chain.read_text())["runs"] == 1
