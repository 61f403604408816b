"""Job scripts: one golden file per machine, refusals, schedulers' answers, and chains of jobs."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from hydragnn_hpc import ledger
from hydragnn_hpc.campaign_file import load_campaign
from hydragnn_hpc.campaign_hash import config_hash
from hydragnn_hpc.config import Campaign
from hydragnn_hpc.crate import VERSION, VERSION_KEY
from hydragnn_hpc.errors import ExitCode, UserError
from hydragnn_hpc.ledger import Frozen
from hydragnn_hpc.paths import CampaignFolder, append_record, write_record
from hydragnn_hpc.records.jobs import SubmittedJob
from hydragnn_hpc.submit import chain, plan, render, scheduler
from hydragnn_hpc.submit.site import Site, load_site, site_names
from tests import campaigns
from tests.environments import ENVIRONMENT, light
from tests.member_records import a_result
from tests.submit import data_set
from tests.submit.programs import stand_in

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "jobs" / "campaigns" / "paper.yaml"
SCHEDULERS = ROOT / "jobs" / "schedulers"
GOLDEN = Path(__file__).parent / "golden"
BIN = Path(sys.executable).parent
RENEW = "python -m tests.submit.renew"


@pytest.fixture(scope="module")
def paper() -> Campaign:
    """The paper's campaign."""
    return load_campaign(PAPER)


def work(stacks: int = 84, seconds: float | None = None) -> plan.Work:
    """Return what is left of a campaign whose stacks hold one member each."""
    return plan.Work(stacks, stacks, seconds)


def script_of(name: str, packed: bool = False) -> str:
    """Return the paper's script for a machine, with paths that stand for themselves."""
    site, campaign = load_site(name), load_campaign(PAPER)
    chosen = plan.make_plan(campaign, work(seconds=600.0), site, None, None, None)
    job = render.Job(
        campaign=Path("/project/fept/paper.yaml"),
        out=CampaignFolder("/project/fept/runs/paper"),
        name="fept",
        root=Path("/project/hydragnn_hpc"),
        python_folder=Path("/project/venv/bin"),
        overrides=("training.epochs=100",),
        account="abc123",
        packed=Path("/project/environment.tar") if packed else None,
    )
    return render.render(job, site, chosen)


def test_every_machine_has_its_golden_file() -> None:
    assert site_names() == sorted(p.stem for p in GOLDEN.glob("*.sh"))


@pytest.mark.parametrize("name", site_names())
def test_scripts_are_the_golden_ones(name: str) -> None:
    expected = (GOLDEN / f"{name}.sh").read_text()
    assert script_of(name) == expected, f"the script for {name} has changed; if it is meant: {RENEW}"


@pytest.mark.parametrize("packed", [False, True], ids=["shared environment", "packed environment"])
@pytest.mark.parametrize("name", site_names())
def test_scripts_are_sound_bash(name: str, packed: bool, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(script_of(name, packed))
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    # SC1091: environments are sourced that are not here; SC2016: what ranks expand is quoted on purpose.
    done = subprocess.run(
        ["shellcheck", "--shell=bash", "--exclude=SC1091,SC2016", str(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stdout, done.stdout


def test_summit_is_launched_as_the_paper_was() -> None:
    assert "\n  jsrun -n 12 -r 6 -a 1 -g 1 -c 7 " in script_of("summit")
    assert "#BSUB -nnodes 2\n" in script_of("summit")


@pytest.mark.parametrize("name", site_names())
def test_profiles_fit_their_nodes(name: str) -> None:
    site = load_site(name)
    assert site.name == name
    assert site.ranks_per_node * site.cores_per_rank <= site.cores_per_node
    assert site.gpus_per_node in (0, site.ranks_per_node), "one rank per GPU"
    assert name == "local" or site.sources


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("frontier", "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 bash -c"),
        ("aurora", "mpiexec -n 1 -ppn 1 bash -c"),
        ("summit", "jsrun -n 2 -r 1 -a 1 -g 0 -c 1 bash -c"),
        ("flux", "flux run -N 1 -n 1 bash -c"),
        ("lsf", "mpirun -n 1 --map-by ppr:1:node bash -c"),
    ],
)
def test_a_packed_environment_is_unpacked_once_per_node(name: str, line: str) -> None:
    script = script_of(name, packed=True)
    assert script.count(f"\n{line}") == 2, "to unpack, and to clean up"
    assert "python -m hydragnn_hpc run" in script


@pytest.mark.parametrize("link", [False, True])
def test_an_environment_that_another_user_has_put_there_is_not_used(link: bool, tmp_path: Path) -> None:
    """The script runs as another user than root, who could remove what others have put into the folder."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    shared = Path(tempfile.mkdtemp())
    try:
        shared.chmod(0o1777)
        (planted := shared / ("elsewhere" if link else "environment") / "bin").mkdir(parents=True)
        if link:
            (shared / "environment").symlink_to(planted.parent)
        subprocess.run(["tar", "-cf", shared / "a.tar", "-C", SCHEDULERS, "."], check=True)
        (line,) = re.findall(r"^unpack='.*?'$", script_of("local", packed=True), re.M | re.S)
        command = f'{line}\nbash -c "$unpack" unpack {shared}/$1 {shared}/a.tar'
        done = [
            subprocess.run(["bash", "-c", command, "x", name], user=12345, cwd="/", capture_output=True).returncode
            for name in ("environment", "own")
        ]
        assert done == [1, 0] and (shared / "own" / "body.sh.jinja").is_file()
    finally:
        shutil.rmtree(shared)


# What a job asks for


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
    paper: Campaign, stacks: int, site: str, nodes: int, queue: str, hours: float
) -> None:
    chosen = plan.make_plan(paper, work(stacks), load_site(site), None, None, None)
    assert (chosen.nodes, chosen.queue, chosen.walltime_seconds) == (nodes, queue, hours * 3600)


@pytest.mark.parametrize(("queue", "nodes"), [("prod", 10), ("debug", 1), (None, 1)])
def test_a_queue_that_takes_many_nodes_is_given_as_many_as_it_takes(
    paper: Campaign, queue: str | None, nodes: int
) -> None:
    assert plan.make_plan(paper, work(), load_site("polaris"), None, None, queue).nodes == nodes


def test_measured_seconds_give_the_time() -> None:
    paper = load_campaign(PAPER)
    # 84 stacks on 2 nodes of 6: 7 rounds of 600 s, a fifth more, 5 minutes to start: 89 minutes, rounded up to 90.
    chosen = plan.make_plan(paper, work(seconds=600.0), load_site("summit"), 2, None, None)
    assert chosen.estimate_seconds == 7 * 600 * 1.2 + 300
    assert chosen.walltime_seconds == 90 * 60
    slots = load_campaign(PAPER, ["launch.slots_per_device=7"])
    assert plan.make_plan(slots, work(seconds=600.0), load_site("summit"), 2, None, None).estimate_seconds == 1020


def test_more_than_a_queue_allows_is_cut_and_goes_on_in_further_jobs(paper: Campaign) -> None:
    chosen = plan.make_plan(paper, work(seconds=36000.0), load_site("frontier"), 2, None, None)
    assert chosen.walltime_seconds == 7200


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
def test_what_a_machine_does_not_give(
    paper: Campaign, site: str, nodes: int, walltime: int | None, queue: str | None, words: str
) -> None:
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        plan.make_plan(paper, work(), load_site(site), nodes, walltime, queue)


# Profiles that do not fit


def site_file(folder: Path, **changes: object) -> str:
    """Write the generic Slurm profile with ``changes`` (None removes a key); return its path."""
    content = yaml.safe_load((ROOT / "jobs/sites/slurm.yaml").read_text())
    content = {k: v for k, v in {**content, **changes}.items() if v is not None}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "mine.yaml")


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
def test_profiles_that_do_not_fit(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_site(site_file(tmp_path, **changes))
    assert words in str(caught.value)


def test_profiles_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such machine; did you mean 'frontier'\?; or give the path of a YAML file"):
        load_site("frontyer")
    with pytest.raises(UserError, match=r"no such machine; known: aurora, .*, summit; or give the path"):
        load_site("xyz")
    with pytest.raises(UserError, match="no such file"):
        load_site(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("word", ["--nodes={node}", "--x={", "--x={nodes.x}", "{0}"])
def test_a_profile_that_names_what_is_unknown(tmp_path: Path, paper: Campaign, word: str) -> None:
    site = load_site(site_file(tmp_path, launch=["srun", word]))
    job = render.Job(PAPER, CampaignFolder(tmp_path), "x", ROOT, BIN)
    with pytest.raises(UserError, match="profile slurm"):
        render.render(job, site, plan.make_plan(paper, work(), site, None, None, None))


def test_an_account_that_is_missing(tmp_path: Path, paper: Campaign) -> None:
    site = load_site("frontier")
    job = render.Job(PAPER, CampaignFolder(tmp_path), "x", ROOT, BIN)
    with pytest.raises(UserError, match="name yours with --account"):
        render.render(job, site, plan.make_plan(paper, work(), site, None, None, None))


def test_names_with_blanks_and_quotes_reach_the_program_unharmed(tmp_path: Path, paper: Campaign) -> None:
    """The local script is run with a stand-in for the launcher that prints its words."""
    for name, body in (("mpirun", 'printf "%s\\n" "$@"'), ("python", "exit 0")):
        stand_in(tmp_path, name, body)
    folder = tmp_path / "it's a 'folder' $HOME"
    folder.mkdir()
    site: Site = load_site("local")
    job = render.Job(folder / "c d.yaml", CampaignFolder(folder / "o;ut"), "x", ROOT, tmp_path / "bin", ("name='a b'",))
    script = render.render(job, site, plan.make_plan(paper, work(), site, None, 600, None))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[:4] == ["-n", "2", "hydragnn-hpc", "run"]
    assert words[4:8] == [str(folder / "c d.yaml"), str(folder / "o;ut"), "--set", "name='a b'"]
    assert words[8] == "--time-limit"
    assert 530 <= int(words[9].removesuffix("s")) <= 540


@pytest.mark.slow
@pytest.mark.mpi
def test_a_campaign_from_a_packed_environment(tmp_path: Path) -> None:
    """Packed, unpacked, trained from the copy alone, cleaned up: by the script, on this host."""
    programs = light(tmp_path / "light")
    (next(programs.parent.glob("lib/python3*/site-packages")) / "checkout.pth").write_text(f"{ROOT}\n")
    archive = tmp_path / "environment.tar"
    subprocess.run(
        ["bash", str(ROOT / "envs/pack.sh"), str(programs.parent), str(archive)], check=True, capture_output=True
    )
    program = str(BIN / "hydragnn-hpc")
    campaigns.make(tmp_path, variants=["H"], training={"epochs": 2, "batch_size": 16})
    site = yaml.safe_load((ROOT / "jobs/sites/local.yaml").read_text())
    site["per_rank"] = ["python -c 'import hydragnn_hpc; print(hydragnn_hpc.__file__)' >> where.txt"]
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))
    done = subprocess.run(
        [program, "submit", "campaign.yaml", "out", "--site", "site.yaml", "--packed", str(archive)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    places = set((tmp_path / "where.txt").read_text().split())
    assert len(places) == 1
    place = Path(places.pop())
    assert place.parts[2].startswith("hydragnn_hpc-environment-")
    assert not list(Path("/tmp").glob(f"{place.parts[2]}*")), "the copy is left behind"
    assert len(list((tmp_path / "out").glob("members/H/*/result.json"))) == 2


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
    done = command(here, "--site", "mine.yaml", "--nodes", "2", "--walltime", "1h")
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
def test_schedulers_that_do_not_fit(here: Path, file: str, text: str, words: str) -> None:
    for name, whole in {**CONDOR, file: text}.items():
        (here / name).write_text(whole)
    site_file(here, scheduler="htcondor")
    stand_in(here, "condor_submit", "echo 7 -")
    done = command(here, "--site", "mine.yaml")
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
def test_identifiers(name: str, answer: str, identifier: str) -> None:
    found = scheduler.load_scheduler(name, [SCHEDULERS])
    assert scheduler.job_id(found, answer) == identifier
    with pytest.raises(UserError, match="names no job"):
        scheduler.job_id(found, "\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a campaign whose data set is there, and an empty PATH folder ahead."""
    (tmp_path / "bin").mkdir()
    data_set.write(tmp_path / "data.bp")
    text = PAPER.read_text().replace("../../data/fept.bp", "data.bp")
    (tmp_path / "c.yaml").write_text(text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def command(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``submit`` in ``here``."""
    return campaigns.called(here, "submit", "c.yaml", "out", *arguments)


@pytest.mark.parametrize(
    ("site", "program", "body"),
    [
        ("frontier", "sbatch", '[ "$1" = --parsable ] && grep -q "^#SBATCH --account=abc" "$2" && echo "7;x"'),
        ("lsf", "bsub", 'grep -q "^#BSUB -P abc" && echo "Job <7> is submitted to default queue <normal>."'),
        ("aurora", "qsub", 'grep -q "^#PBS -A abc" "$1" && echo 7'),
        ("flux", "flux", '[ "$1" = batch ] && grep -q "^# flux: --bank=abc" "$2" && echo 7'),
    ],
)
def test_a_job_is_submitted_and_remembered(here: Path, site: str, program: str, body: str) -> None:
    stand_in(here, program, body)
    done = command(here, "--site", site, "--account", "abc", "--json")
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
    done = command(here, "--site", "frontier", "--account", "abc")
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
    done = command(here, "--site", "frontier", "--account", "abc", *form)
    assert done.returncode == 2
    assert json.loads(done.stdout)["id"] == "7" if form else done.stdout.startswith("job 7: 84 members")
    [line] = [line for line in done.stderr.splitlines() if "job 7 is in the queue, do not submit it again" in line]
    assert "submitted.jsonl: No space left" in line and "Traceback" not in done.stderr


@pytest.mark.parametrize("cut", [1, 40], ids=["its line break", "half of it"])
def test_a_record_that_a_crash_cut_short_costs_no_other(here: Path, cut: int) -> None:
    stand_in(here, "flux", "echo 7")
    submit = ("--site", "flux")
    assert command(here, *submit).returncode == command(here, *submit).returncode == 0
    path = here / "out/jobs/submitted.jsonl"
    before = path.read_bytes()[:-cut]
    path.write_bytes(before)
    done = command(here, *submit)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    chain.record(CampaignFolder(here / "out"), "8")
    lines = path.read_bytes().splitlines()
    assert path.read_bytes().startswith(before + b"\n") and [json.loads(line)["id"] for line in lines[2:]] == ["7", "8"]
    shown = campaigns.called(here, "status", "out")
    ids = ["7", "7", "7", "8"] if cut == 1 else ["7", "7", "8"]
    assert re.findall(r"^job (\d)", shown.stdout, re.MULTILINE) == ids and shown.returncode == 0
    assert ("cannot read line 2 of" in shown.stdout) == (cut > 1) and shown.stdout.count("cannot read") == (cut > 1)


def test_a_dry_run_needs_no_account(here: Path) -> None:
    done = command(here, "--site", "summit", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "#BSUB -nnodes 2\n" in done.stdout
    assert "jsrun -n 12 -r 6 -a 1 -g 1 -c 7 " in done.stdout
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
        done = command(here, *arguments)
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
    (here / "raw").mkdir(), (here / "raw/notes.txt").touch(), (here / "archive").mkdir()
    crate = {"@graph": [{"@id": "./", "@type": "Dataset", VERSION_KEY: VERSION}]}
    (here / "archive/ro-crate-metadata.json").write_text(json.dumps(crate))
    done = campaigns.called(here, "submit", "c.yaml", place, "--site", "flux")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"hydragnn-hpc: error: {here / place} {words}\n"
    assert not (here / "asked").exists() and not (here / place / "jobs").exists()


def test_a_dry_run_writes_nothing(here: Path) -> None:
    done = command(here, "--site", "frontier", "--account", "abc", "--dry-run")
    assert done.stdout.startswith("#!/bin/bash\n#SBATCH")
    assert not (here / "out").exists()


# The chain


@pytest.fixture
def folder(tmp_path: Path) -> CampaignFolder:
    """A campaign's folder of 2 members, none trained."""
    made = CampaignFolder(tmp_path / "out")
    made.jobs.mkdir(parents=True)
    campaign = load_campaign(PAPER, ["variants=[H]", "replicas=2"])
    ledger.freeze(made, Frozen(campaign, config_hash(campaign, "d"), "d"))
    return made


def finish(folder: CampaignFolder, replica: int, state: str = "finished") -> None:
    """Give a member its result."""
    files = folder.member("H", replica)
    files.make()
    write_record(files.result, a_result(variant="H", replica=replica, state=state, seconds=5.0))


def test_a_chain_goes_on_while_something_moves(folder: CampaignFolder) -> None:
    chain.begin(folder)
    assert chain.end(folder, 75, 50)[0] == 1, "nothing moved"
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


def test_a_chain_does_not_repeat_a_mistake(folder: CampaignFolder, tmp_path: Path) -> None:
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
    assert chain.end(folder, 75, 50, late=True)[0] == ExitCode.AGAIN, "late, and yet it got further"
    chain.begin(folder)
    assert chain.end(folder, 75, 50, late=True)[0] == ExitCode.AGAIN, "the count begins again"
    chain.begin(folder)
    assert chain.end(folder, 75, 50)[0] == 1, "in time, and nothing moved"


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
    tmp_path: Path, paper: Campaign, folder: CampaignFolder, setup: str, code: int, launched: int
) -> None:
    """The local script with a stand-in for the launcher, after the set-up ``setup``."""
    stand_in(tmp_path, "mpirun", "echo launched")
    stand_in(tmp_path, "python", f'exec {sys.executable} "$@"')
    site = load_site("local").model_copy(update={"environment": (setup,)})
    job = render.Job(tmp_path / "c.yaml", folder, "x", ROOT, tmp_path / "bin")
    script = render.render(job, site, plan.make_plan(paper, work(), site, None, 600, None)).replace("exec bash", "true")
    if launched:
        finish(folder, 0), finish(folder, 1)
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
    tmp_path: Path, paper: Campaign, folder: CampaignFolder, name: str, programs: dict[str, str], ids: list[str]
) -> None:
    """A script whose set-up left no time, with stand-ins for the scheduler."""
    for program, body in {**programs, "python": f'exec {sys.executable} "$@"'}.items():
        stand_in(tmp_path, program, body)
    first = SubmittedJob(
        time=ledger.now(), id="7", site=name, scheduler=name, nodes=2, queue="q", account="abc", walltime_seconds=600,
        members_left=9, script="job.sh",
    )  # fmt: skip
    append_record(folder.job_record, first)
    site = load_site(name).model_copy(update={"environment": ("SECONDS=600",), "directives": ()})
    job = render.Job(tmp_path / "c.yaml", folder, "x", ROOT, tmp_path / "bin")
    script = render.render(job, site, plan.make_plan(paper, work(), site, None, 600, None))
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
    first = SubmittedJob(
        time=ledger.now(), id="7", site="pbs", scheduler="pbs", nodes=2, queue="q", account="", walltime_seconds=600,
        members_left=9, script="job.sh",
    )  # fmt: skip
    append_record(folder.job_record, first)
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


def test_what_is_left_counts_stacks(folder: CampaignFolder) -> None:
    campaign = load_campaign(PAPER, ["variants=[H]", "replicas=5", "launch.stack=2"])
    finish(folder, 0)
    finish(folder, 2)
    finish(folder, 3)
    left = plan.work_left(campaign, folder.root, None)
    assert (left.members, left.stacks, left.stack_seconds) == (2, 2, 5.0)
    assert plan.work_left(campaign, folder.root, 7.0).stack_seconds == 7.0
