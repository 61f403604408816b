"""The command ``submit``: jobs that are submitted and recorded, and refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hydragnn_hpc.crate import VERSION, VERSION_KEY
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.submit import chain
from tests.campaigns import called
from tests.submit.paper import site_file, submit
from tests.submit.programs import stand_in


@pytest.mark.parametrize(
    ("site", "program", "body"),
    [
        ("frontier", "sbatch", '[ "$1" = --parsable ] && grep -q "^#SBATCH --account=abc" "$2" && echo "7;x"'),
        ("lsf", "bsub", 'grep -q "^#BSUB -P abc" && echo "Job <7> is submitted to default queue <normal>."'),
        ("aurora", "qsub", 'grep -q "^#PBS -A abc" "$1" && echo 7'),
        ("flux", "flux", '[ "$1" = batch ] && grep -q "^# flux: --bank=abc" "$2" && echo 7'),
    ],
)
def test_a_job_is_submitted_and_recorded(here: Path, site: str, program: str, body: str) -> None:
    stand_in(here, program, body)
    done = submit(here, "--site", site, "--account", "abc", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == "7"
    lines = [json.loads(line) for line in (here / "out/jobs/submitted.jsonl").read_text().splitlines()]
    assert [(line["id"], line["site"], line["members_left"]) for line in lines] == [("7", site, 84)]
    assert (here / "out/jobs/job.sh").exists()


@pytest.mark.parametrize("name", ["", "job.sh", "chain.json", "submitted.jsonl"])
def test_what_prevents_a_jobs_record_is_refused_before_the_scheduler_is_asked(here: Path, name: str) -> None:
    stand_in(here, "sbatch", f"touch {here}/asked; echo 7")
    entry = here / "out/jobs" / name
    if name:
        (entry / "kept").mkdir(parents=True)
    else:
        entry.parent.mkdir()
        entry.write_text("kept")
    done = submit(here, "--site", "frontier", "--account", "abc")
    assert done.returncode == 2 and not done.stdout and not (here / "asked").exists()
    assert len(done.stderr.splitlines()) == 1 and str(entry) in done.stderr and "move or remove it" in done.stderr
    assert (entry / "kept").is_dir() if name else entry.read_text() == "kept"


def test_a_job_is_named_where_neither_its_record_nor_standard_output_can_be_written(here: Path) -> None:
    stand_in(here, "flux", f"ln -s /dev/full {here}/out/jobs/submitted.jsonl; echo f7")
    line = f'"{sys.executable}" -m hydragnn_hpc submit c.yaml out --site flux >/dev/full'
    done = subprocess.run(["bash", "-c", line], cwd=here, capture_output=True, text=True)
    first, *_, last = done.stderr.splitlines()
    assert done.returncode == 2 and "job f7 is in the queue, do not submit it again" in first, done.stderr
    assert "cannot write to standard output" in last


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_job_that_cannot_be_recorded_is_named(here: Path, form: tuple[str, ...]) -> None:
    """The disk fills while the scheduler is asked: a full device takes the record's place."""
    stand_in(here, "sbatch", f"ln -s /dev/full {here}/out/jobs/submitted.jsonl; echo 7")
    done = submit(here, "--site", "frontier", "--account", "abc", *form)
    assert done.returncode == 2
    assert json.loads(done.stdout)["id"] == "7" if form else done.stdout.startswith("job 7: 84 members")
    [line] = [line for line in done.stderr.splitlines() if "job 7 is in the queue, do not submit it again" in line]
    assert "submitted.jsonl: No space left" in line and "Traceback" not in done.stderr


@pytest.mark.parametrize("cut", [1, 40], ids=["its line break", "half of it"])
def test_a_record_that_a_crash_cut_short_costs_no_other(here: Path, cut: int) -> None:
    stand_in(here, "flux", "echo 7")
    assert submit(here, "--site", "flux").returncode == submit(here, "--site", "flux").returncode == 0
    path = here / "out/jobs/submitted.jsonl"
    before = path.read_bytes()[:-cut]
    path.write_bytes(before)
    done = submit(here, "--site", "flux")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    chain.record(CampaignFolder(here / "out"), "8")
    lines = path.read_bytes().splitlines()
    assert path.read_bytes().startswith(before + b"\n") and [json.loads(line)["id"] for line in lines[2:]] == ["7", "8"]
    shown = called(here, "status", "out")
    ids = ["7", "7", "7", "8"] if cut == 1 else ["7", "7", "8"]
    assert re.findall(r"^job (\d)", shown.stdout, re.MULTILINE) == ids and shown.returncode == 0
    assert ("cannot read line 2 of" in shown.stdout) == (cut > 1) and shown.stdout.count("cannot read") == (cut > 1)


def test_ctrl_c_waits_for_a_job_on_this_host(here: Path) -> None:
    body = f"trap 'sleep 1; touch {here}/saved; exit 130' INT; echo started; while :; do sleep 0.1; done"
    stand_in(here, "starter", body)
    site = site_file(here, scheduler="local", launch=["starter"], directives=[], environment=[])
    command = [sys.executable, "-m", "hydragnn_hpc", "submit", "c.yaml", "out", "--site", site, "--seconds", "9"]
    # A shell's background jobs ignore Ctrl-C, and so does what they start.
    with subprocess.Popen(
        ["env", "--default-signal=INT", *command],
        cwd=here, stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None and running.stdout.readline() == "started\n"
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(60) == 130 and (here / "saved").exists()


def test_a_dry_run_needs_no_account_and_writes_nothing(here: Path) -> None:
    done = submit(here, "--site", "summit", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n#BSUB") and "#BSUB -nnodes 2\n" in done.stdout
    assert "--account" in done.stderr
    assert not (here / "out").exists()


def test_refusals_are_one_line(here: Path) -> None:
    stand_in(here, "sbatch", 'echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1')
    stand_in(here, "bsub", "exit 1")
    for arguments, words in [
        (["--site", "frontier", "--account", "abc"], "'sbatch' refused the job: sbatch: error"),
        (["--site", "polaris", "--account", "abc"], "'qsub' is not on this host"),
        (["--site", "lsf"], "'bsub' refused the job: it gave no reason; the script is"),
        (["--site", "frntier"], "no such machine"),
        (["--site", "summit", "--account", "abc"], "switched off in November 2024"),
        (["--site", "slurm", "--walltime", "x"], "--walltime 'x': expected minutes"),
        (["--site", "slurm", "--walltime", "0:15"], "walltime 0:00:15: the last 15 s of a job train nothing"),
        *((["--site", "slurm", "--seconds", n], f"--seconds {float(n)}: expected") for n in ("0", "-5", "nan", "inf")),
        (["--site", "slurm", "--set", "replica=1"], "did you mean 'replicas'?"),
    ]:
        done = submit(here, *arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("data.bp", "exists and holds no campaign; give an empty or a new folder"),
        ("c.yaml", "is a file; give a campaign's folder"),
        ("raw", "exists and holds no campaign; give an empty or a new folder"),
        ("archive", "is an archive, so training cannot be continued from it; give another folder"),
    ],
)
def test_a_folder_that_each_job_would_refuse_is_refused(here: Path, place: str, words: str) -> None:
    stand_in(here, "flux", f"touch {here}/asked; echo 7")
    for folder in ("raw", "archive"):
        (here / folder).mkdir()
    (here / "raw/notes.txt").touch()
    crate = {"@graph": [{"@id": "./", "@type": "Dataset", VERSION_KEY: VERSION}]}
    (here / "archive/ro-crate-metadata.json").write_text(json.dumps(crate))
    done = called(here, "submit", "c.yaml", place, "--site", "flux")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"hydragnn-hpc: error: {here / place} {words}\n"
    assert not (here / "asked").exists() and not (here / place / "jobs").exists()
