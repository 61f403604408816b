"""Profiles and schedulers: those that come with the package, and a user's own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.paths import CampaignFolder
from hydragnn_hpc.submit import render, scheduler
from hydragnn_hpc.submit.site import load_site, site_names
from tests.submit.paper import PAPER, ROOT, plan_of, site_file, submit
from tests.submit.programs import stand_in


@pytest.mark.parametrize("name", site_names())
def test_profiles_of_the_package_name_their_sources_and_have_a_rank_per_gpu(name: str) -> None:
    site = load_site(name)
    assert site.name == name
    assert site.gpus_per_node in (0, site.ranks_per_node)
    assert name == "local" or site.sources


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scheduler": "sge"}, "scheduler: no scheduler 'sge'; known: flux, local, lsf, pbs, slurm"),
        ({"scheduler": "slrum"}, "no scheduler 'slrum'; did you mean 'slurm'?"),
        ({"scheduler": "body"}, "no scheduler 'body'"),
        ({"gpu_per_node": 3}, "unknown key 'gpu_per_node'; did you mean 'gpus_per_node'?"),
        ({"limits": [{"nodes": [1, 2], "waltime": "3h"}]}, "unknown key 'limits.0.waltime'; did you mean 'walltime'?"),
        ({"limits": [{"nodes": [1, 2], "walltime": "3x"}]}, "limits.0.walltime: duration '3x': expected minutes, 90s"),
        ({"limits": [{"nodes": [5, 2], "walltime": "3h"}]}, "limits.0.nodes: 5 is more than 2; write the fewest and"),
        ({"directives": ["-C gpu\nrm x"]}, "directives.0"),
        ({"launch": None}, "missing key 'launch'"),
        ({"cores_per_node": 0}, "cores_per_node"),
        ({"cores_per_rank": 9, "ranks_per_node": 100}, "100 ranks of 9 cores do not fit a node of"),
    ],
)
def test_invalid_profiles_are_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_site(site_file(tmp_path, **changes))
    assert words in str(caught.value)


def test_profiles_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such machine; did you mean 'frontier'\?; or give the path of a YAML file"):
        load_site("frontyer")
    with pytest.raises(UserError, match=r"no such machine; known: aurora, .*, summit; or give the path"):
        load_site("xyz")
    with pytest.raises(UserError, match="no such file"):
        load_site(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("word", ["--nodes={node}", "--x={", "--x={nodes.x}", "--x={nodes[0]}", "{0}"])
def test_a_profile_with_an_invalid_placeholder_is_refused(tmp_path: Path, word: str) -> None:
    site = load_site(site_file(tmp_path, launch=["srun", word]))
    job = render.Job(PAPER, CampaignFolder(tmp_path), "x", ROOT, tmp_path)
    with pytest.raises(UserError, match="profile slurm"):
        render.render(job, site, plan_of(site))


def test_the_document_names_every_placeholder(tmp_path: Path) -> None:
    text = (ROOT / "jobs/README.md").read_text("utf-8")
    names = re.findall(r"`\{(\w+)\}`", text.partition("`per_node` may name")[2].partition("\n\n")[0])
    job, site = render.Job(PAPER, CampaignFolder(tmp_path), "x", ROOT, tmp_path), load_site("slurm")
    assert sorted(names) == sorted(render.values_of(job, site, plan_of(site)))


def test_a_machine_that_needs_an_account_asks_for_it(tmp_path: Path) -> None:
    site = load_site("frontier")
    job = render.Job(PAPER, CampaignFolder(tmp_path), "x", ROOT, tmp_path)
    with pytest.raises(UserError, match="name yours with --account"):
        render.render(job, site, plan_of(site))


# Schedulers

CONDOR = {
    "htcondor.yaml": """\
about: HTCondor, which takes a job's settings as arguments and runs a job again until it exits with another code than 75
submit: [condor_submit, -terse, "executable={script}", "batch_name={name}",
         "on_exit_remove=ExitCode =!= 75", -queue, "1"]
job_id: '([0-9.]+) -'
""",
    "htcondor.sh.jinja": """\
#!/bin/bash
# For {{ nodes }} nodes.
{% include "body.sh.jinja" %}
""",
}


def test_a_scheduler_is_two_files(here: Path) -> None:
    """They lie beside the profile that names it; nothing else knows of it."""
    for name, text in CONDOR.items():
        (here / name).write_text(text)
    site_file(here, scheduler="htcondor", name="pool")
    stand_in(here, "condor_submit", 'printf "%s\\n" "$@" > words.txt; echo "7.0 - 7.1"')
    done = submit(here, "--site", "mine.yaml", "--nodes", "2", "--walltime", "1h")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("job 7.0: 84 members on 2 nodes")
    script = here / "out/jobs/job.sh"
    assert (here / "words.txt").read_text().splitlines() == [
        "-terse", f"executable={script}", "batch_name=fept", "on_exit_remove=ExitCode =!= 75", "-queue", "1",
    ]  # fmt: skip
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "# For 2 nodes.\nout=" in script.read_text() and "srun " in script.read_text()


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("htcondor.yaml", "about: x\nsubmitt: [x]", "htcondor.yaml: unknown key 'submitt'; did you mean 'submit'?"),
        ("htcondor.yaml", "about: x\njob_id: '('", "job_id: not a regular expression"),
        (
            "htcondor.yaml",
            "about: x\njob_id: 'a'",
            "job_id: put the part that is the job's identifier into parentheses",
        ),
        (
            "htcondor.yaml",
            "about: x\nqueries: {form: slrum, queues: [a], nodes: [b]}",
            "queries.form: no form 'slrum'; did you mean 'slurm'?",
        ),
        (
            "htcondor.yaml",
            "about: x\nstatus: {command: [q], answer: '(?P<state>.)', gone: '(', pending: [], running: [], ended: []}",
            "status.gone: not a regular expression",
        ),
        ("htcondor.yaml", "about: [", "cannot read"),
        ("htcondor.yaml", "", "holds no settings"),
        (
            "htcondor.yaml",
            "about: x\nsubmit: [c, '{scrip}']",
            "scheduler htcondor: '{scrip}' names {scrip}, which is unknown",
        ),
        ("htcondor.sh.jinja", "{{ node }}", "template htcondor.sh.jinja: 'node' is undefined"),
        ("htcondor.sh.jinja", "{% if %}", "template htcondor.sh.jinja: "),
    ],
)
def test_invalid_schedulers_are_refused(here: Path, file: str, text: str, words: str) -> None:
    for name, whole in {**CONDOR, file: text}.items():
        (here / name).write_text(whole)
    site_file(here, scheduler="htcondor")
    stand_in(here, "condor_submit", "echo 7 -")
    done = submit(here, "--site", "mine.yaml")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and words in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("name", "answer", "identifier"),
    [
        ("slurm", "123;cluster\n", "123"),
        ("slurm", "Welcome to 3 systems\n--> project abc: ok\n123\nsbatch: bye\n", "123"),
        ("lsf", "Job <4711> is submitted to queue <batch>.\n", "4711"),
        ("pbs", "99.polaris-pbs-01\n", "99.polaris-pbs-01"),
        ("pbs", "Charged to abc\n99[].server\nqsub: bye\n", "99[].server"),
        ("flux", "ƒM7Zq9AKHno\n", "ƒM7Zq9AKHno"),
    ],
)
def test_the_jobs_identifier_is_found_in_the_schedulers_answer(name: str, answer: str, identifier: str) -> None:
    found = scheduler.load_scheduler(name, [ROOT / "jobs" / "schedulers"])
    assert scheduler.job_id(found, answer) == identifier
    with pytest.raises(UserError, match="names no job"):
        scheduler.job_id(found, "\n")
