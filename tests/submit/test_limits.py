"""Jobs that could never start are refused; a scheduler that does not answer does not prevent submission."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from hydragnn_hpc.errors import UserError
from hydragnn_hpc.submit import limits
from hydragnn_hpc.submit.answers import READERS, Nodes, Queue, read
from hydragnn_hpc.submit.site import Site, load_site
from tests.campaigns import called
from tests.submit.paper import plan_of, site_file, submit
from tests.submit.programs import stand_in
from tests.submit.test_answers import (
    BQUEUES,
    FLUX_QUEUES,
    FLUX_RESOURCES,
    LSHOSTS,
    PBSNODES,
    QSTAT_B,
    QSTAT_Q,
    SCONTROL,
    SINFO,
)  # fmt: skip


@pytest.fixture(autouse=True)
def slurm(here: Path) -> None:
    """Put stand-ins for Slurm's programs on PATH, which print what real ones printed."""
    (here / "queues").write_text(SCONTROL)
    (here / "nodes").write_text(SINFO)
    stand_in(here, "scontrol", f"cat {here}/queues")
    stand_in(here, "sinfo", f"cat {here}/nodes")
    stand_in(here, "sbatch", f'[ "$1" = --test-only ] && {{ cat > {here}/tested; exit 0; }}; echo 7')


def profile(here: Path, **changes: object) -> str:
    """Write the generic Slurm profile as a user's own, with numbers that fit these nodes; return its path."""
    return site_file(here, **{"name": "mine", "cores_per_node": 4, "cores_per_rank": 2, **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--walltime", "2h", "--queue", "short"], "--walltime 2h: slurm allows 1h on 1 node"),
        (["--nodes", "3"], "--nodes 3: slurm accepts jobs with these numbers of nodes: default 1 to 2"),
        (["--queue", "shrt"], "slurm has no queue 'shrt'; did you mean 'short'?"),
        (["--queue", "gone"], "queue 'gone' starts no jobs (State=DOWN); wait, or choose another with --queue: batch"),
        (["--queue", "mine", "--account", "x"], "--account x: not for queue 'mine', which takes abc"),
    ],
)
def test_a_generic_profile_refuses_what_is_not_there(here: Path, arguments: list[str], message: str) -> None:
    for dry in ([], ["--dry-run"]):
        done = submit(here, "--site", "slurm", *arguments, *dry)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"cores_per_node": 16, "cores_per_rank": 8}, [], "2 ranks of 8 cores per node: queue 'batch' has nodes of"),
        ({"gpus_per_node": 3}, [], "3 GPUs per node: queue 'batch' has nodes of at most 2 GPUs"),
        ({}, ["--nodes", "3"], "nodes 3: queue 'batch' has 2 of 4 cores and 2 GPUs; ask for fewer with --nodes"),
        ({"directives": ["--partition={queue}"], "limits": [{"queue": "short", "nodes": [1, 9], "walltime": "9h"}]}, [],
         "walltime 9:00:00: queue 'short' allows 1:00:00; ask for less with --walltime"),
        ({"directives": ["--partition=short"]}, ["--nodes", "2", "--walltime", "1h"], "nodes 2: queue 'short' allows"),
        ({"directives": ["--partition=short"]}, ["--walltime", "1h"], "nodes of at most 3 cores"),
        ({"directives": ["--mem=2G"]}, [], "--mem=2G: queue 'batch' has nodes of at most 2000 MB; lower it in the"),
        ({"directives": ["--partition=shorts"]}, [], "mine has no queue 'shorts'; did you mean 'short'?"),
        ({"directives": ["--qos=q"], "gpus_per_node": 5, "launch": ["srun", "--gpus-per-task=1"]}, [],
         "5 GPUs per node: mine has nodes of at most 2 GPUs"),
    ],
)  # fmt: skip
def test_a_profile_is_checked_against_the_machine(
    here: Path, changes: dict[str, object], arguments: list[str], message: str
) -> None:
    done = submit(here, "--site", profile(here, **changes), *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr


@pytest.mark.parametrize(
    "directives", [["--mem=2000"], ["--qos=long"], ["--partition=short,batch"], ["--gpus-per-node=2"]]
)
def test_a_job_within_what_a_machine_may_allow_is_submitted(here: Path, directives: list[str]) -> None:
    """A quality of service may lift a partition's limits; one of several partitions that takes the job is enough."""
    done = submit(here, "--site", profile(here, directives=directives), "--walltime", "20h")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["--ntasks-per-node=2", "--cpus-per-task=2", "--time=24:00:00", "--gpus-per-node=2"]),
        (["--queue", "short"], ["--cpus-per-task=1", "--time=1:00:00", "--gpus-per-node=2", "--partition=short"]),
        (["--walltime", "48h"], ["--time=48:00:00"]),
    ],
)
def test_a_generic_profile_takes_its_numbers_from_the_machine(
    here: Path, arguments: list[str], expected: list[str]
) -> None:
    done = submit(here, "--site", "slurm", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    script = (here / "out/jobs/job.sh").read_text()
    assert set(expected) <= {line.removeprefix("#SBATCH ") for line in script.splitlines()}
    assert (here / "tested").read_text() == script


def test_without_gpus_there_is_one_rank_per_core(here: Path) -> None:
    (here / "nodes").write_text("batch|2|8|2|2000|(null)\n")
    done = submit(here, "--site", "slurm", "--dry-run")
    assert done.returncode == 0 and "could not be checked" not in done.stderr, done.stderr
    assert "--gpu" not in done.stdout
    assert "#SBATCH --ntasks-per-node=4\n#SBATCH --cpus-per-task=2\n" in done.stdout


@pytest.mark.parametrize("name", READERS)
def test_a_generic_profile_asks_for_no_gpus_where_there_are_none(name: str) -> None:
    site = limits.fit(load_site(name), [Queue("q", (Nodes(2, 8, 0),), default=True)], None, None)
    assert (site.gpus_per_node, site.ranks_per_node, site.cores_per_rank) == (0, 8, 1)
    assert not any("gpu" in word or word == "-g" for word in (*site.directives, *site.launch))


def test_the_schedulers_own_test_refuses_in_its_own_words(here: Path) -> None:
    words = "allocation failure: Requested node configuration is not available"
    stand_in(here, "sbatch", f'[ "$1" = --test-only ] && {{ echo {words} >&2; exit 1; }}; touch submitted; echo 7')
    for dry in ([], ["--dry-run"]):
        done = submit(here, "--site", "slurm", *dry)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert f"'sbatch --test-only' refused the job: {words}; ask for less" in done.stderr
    assert not (here / "submitted").exists()


@pytest.mark.parametrize(
    ("program", "body", "reason"),
    [
        (
            "scontrol",
            "echo Unable to contact >&2; exit 1",
            "'scontrol --all show partition --oneliner' failed: Unable to",
        ),
        ("sinfo", "exit 1", "'sinfo --all --noheader"),
        ("scontrol", "echo usage", "'scontrol' or 'sinfo' gave an answer that names no queue"),
        ("sinfo", "echo 'batch|x'", "'scontrol' or 'sinfo' gave an answer of unknown form"),
        ("sbatch", '[ "$1" = --test-only ] && exit 1; echo 7', "'sbatch --test-only' failed: it gave no reason"),
    ],
)
def test_without_the_schedulers_answers_a_job_is_submitted(here: Path, program: str, body: str, reason: str) -> None:
    stand_in(here, program, body)
    for dry in ([], ["--dry-run"]):
        done = submit(here, "--site", "slurm", *dry)
        assert done.returncode == 0, done.stderr
        *estimate, last = done.stderr.splitlines()
        assert len(estimate) == len(dry)
        assert f"--site slurm: the machine's limits could not be checked: {reason}" in last


@pytest.mark.parametrize(
    ("site", "line"),
    [
        ("slurm", "#SBATCH --partition=gpu"),
        ("pbs", "#PBS -q gpu"),
        ("lsf", "#BSUB -q gpu"),
        ("flux", "# flux: --queue=gpu"),
    ],
)
def test_a_queue_that_cannot_be_looked_up_is_asked_for(here: Path, site: str, line: str) -> None:
    stand_in(here, "scontrol", "exit 1")
    done = submit(here, "--site", site, "--queue", "gpu", "--walltime", "2h", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert line in done.stdout.splitlines()
    assert "limits could not be checked" in done.stderr
    done = submit(here, "--site", site, "--queue", "gpu\nrm -r ~", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--queue 'gpu\\nrm -r ~': expected letters, digits" in done.stderr


def test_a_dry_run_elsewhere_says_that_nothing_was_checked(here: Path) -> None:
    done = submit(here, "--site", "polaris", "--account", "abc", "--dry-run")
    assert done.returncode == 0 and done.stdout.startswith("#!/bin/bash\n#PBS")
    assert "limits could not be checked: 'qstat' is not on this host" in done.stderr


def test_a_scheduler_that_hangs_is_not_waited_for(here: Path) -> None:
    stand_in(here, "sinfo", "exec sleep 600")
    with pytest.raises(limits.UnknownLimitsError, match=r"'sinfo' gave no answer for 0.5 s"):
        limits.ask(load_site("slurm").scheduler, patience=0.5)


def test_an_account_that_a_dry_run_stands_in_for_is_not_tested(here: Path) -> None:
    stand_in(here, "sbatch", "echo Invalid account >&2; exit 1")
    path = profile(here, account=True)
    assert submit(here, "--site", path, "--dry-run").returncode == 0
    assert submit(here, "--site", path, "--dry-run", "--account", "abc").returncode == 2


def fitted(name: str, **answers: str) -> Site:
    """Return a generic profile, fitted to what its scheduler printed."""
    return limits.fit(load_site(name), read(name, answers), None, None)


def test_other_schedulers_generic_profiles() -> None:
    site = fitted("flux", queues=FLUX_QUEUES, nodes=FLUX_RESOURCES)
    assert (site.gpus_per_node, site.cores_per_node, site.ranks_per_node, site.cores_per_rank) == (4, 96, 4, 24)
    assert (site.limits[0].queue, site.limits[0].nodes, site.limits[0].walltime) == ("", (1, 4), "24h")
    site = fitted("pbs", queues=QSTAT_Q, nodes=PBSNODES, server=QSTAT_B)
    assert (site.gpus_per_node, site.cores_per_node, site.ranks_per_node, site.cores_per_rank) == (1, 128, 1, 128)
    assert (site.limits[0].nodes, site.limits[0].walltime) == ((1, 1), "6h")


def test_a_machine_whose_gpus_are_not_counted_keeps_its_profile() -> None:
    """ALCF's scheduler does not count GPUs as jobs see them, and jobs there ask for whole nodes."""
    site = load_site("aurora")
    chosen = plan_of(site, 1, queue="debug")
    limits.check(site, chosen, [Queue("debug", (Nodes(2, 208, 6),), seconds=3600)], "abc")
    with pytest.raises(UserError, match="12 ranks of 8 cores per node: queue 'debug' has nodes of at most 64 cores"):
        limits.check(site, chosen, [Queue("debug", (Nodes(2, 64, 6),), seconds=3600)], "abc")


@pytest.mark.parametrize(
    ("scheduler", "line", "asked", "most"),
    [
        ("slurm", "--mem={}", ("2G", "2000", "1000000K"), 2000),
        ("pbs", "-l select={{nodes}}:ncpus=8:mem={}:ngpus=1", ("600gb", "515460mb", "536870912"), 515_460),
        ("lsf", '-R "span[ptile=4] rusage[ngpus=1,mem={}]"', ("31GB", "30.5G", "32000000KB", "1.2.3GB"), 31_436),
    ],
)
def test_more_memory_than_nodes_have_is_refused(scheduler: str, line: str, asked: tuple[str, ...], most: int) -> None:
    site = load_site(scheduler)
    chosen = plan_of(site, 1)
    nodes = (Nodes(9, site.cores_per_node, site.gpus_per_node, memory=most - 9), Nodes(9, 1, memory=most))

    def check(amount: str, *kinds: Nodes) -> None:
        asking = site.model_copy(update={"directives": (*site.directives, line.format(amount))})
        limits.check(asking, chosen, [Queue("q", kinds, default=True)], "")

    too_much, *fitting = asked
    with pytest.raises(UserError, match=f"mem={too_much}: queue 'q' has nodes of at most {most} MB; lower it"):
        check(too_much, *nodes)
    check(too_much, *nodes, Nodes(1, 1))  # of which nothing is known
    for amount in fitting:
        check(amount, *nodes)


@pytest.mark.parametrize(
    ("accounts", "barred", "reason"),
    [
        (("Abc",), (), ""),
        (("Abc",), ("abc",), ""),  # Slurm then ignores DenyAccounts
        (("other",), (), "which takes other"),
        ((), ("ABC",), "from which it is barred"),
        ((), ("other",), ""),
    ],
)
def test_accounts_that_a_queue_takes(accounts: tuple[str, ...], barred: tuple[str, ...], reason: str) -> None:
    site, queues = load_site("slurm"), [Queue("q", default=True, accounts=accounts, barred=barred)]
    expected = pytest.raises(UserError, match=f"--account abc: not for queue 'q', {reason};")
    with expected if reason else contextlib.nullcontext():
        limits.check(site, plan_of(site, 1), queues, "abc")


def test_a_closed_queue_without_an_alternative() -> None:
    site = load_site("slurm")
    with pytest.raises(UserError, match=r"starts no jobs \(State=DOWN\); wait$"):
        limits.check(site, plan_of(site, 1), [Queue("q", default=True, closed="State=DOWN")], "")


def test_without_a_default_queue_a_generic_profile_asks_for_one() -> None:
    queues = [Queue("a"), Queue("b")]
    with pytest.raises(UserError, match="slurm has no default queue; name one with --queue; known: a, b"):
        limits.fit(load_site("slurm"), queues, None, None)
    assert limits.fit(load_site("slurm"), queues[:1], None, None).limits[0].nodes == (1, 1000)


def detect(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``site detect`` in ``here``."""
    return called(here, "site", "detect", *arguments)


def test_a_detected_profile_is_one_that_submit_takes(here: Path) -> None:
    done = detect(here, "--out", "found.yaml")
    assert done.returncode == 0, done.stderr
    text = (here / "found.yaml").read_text()
    assert "# Queues that start no jobs now: gone (State=DOWN).\n" in text
    assert "# 'srun' is not on this host" in text or os.access("/usr/bin/srun", os.X_OK)
    site = load_site(str(here / "found.yaml"))
    assert (site.gpus_per_node, site.cores_per_node, site.ranks_per_node, site.cores_per_rank) == (2, 4, 2, 2)
    assert [(limit.queue, limit.nodes, limit.walltime) for limit in site.limits] == [
        ("batch", (1, 2), "24h"), ("mine", (1, 1), "36h"),  # 'short' gives jobs three of four cores
    ]  # fmt: skip
    assert submit(here, "--site", "found.yaml", "--queue", "mine").returncode == 0
    assert "#SBATCH --partition=mine\n" in (here / "out/jobs/job.sh").read_text()
    again = detect(here, "--out", "found.yaml")
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1) and "exists" in again.stderr


def test_a_profile_for_another_queue(here: Path) -> None:
    (here / "other.yaml").write_text(detect(here, "--queue", "short").stdout)
    site = load_site(str(here / "other.yaml"))
    assert (site.cores_per_node, site.cores_per_rank) == (3, 1)
    assert (site.limits[0].queue, site.limits[0].walltime) == ("short", "1h")


@pytest.mark.parametrize(
    ("program", "printed", "shape"),
    [
        ("flux", {"queue": FLUX_QUEUES, "resource": FLUX_RESOURCES}, ("flux", 4, 96, "pbatch")),
        ("qstat", {"-Q": QSTAT_Q, "-B": QSTAT_B}, ("pbs", 1, 128, "prod")),
        ("bqueues", {"-l": BQUEUES}, ("lsf", 4, 32, "normal")),
    ],
)
def test_other_schedulers_are_detected(
    here: Path, program: str, printed: dict[str, str], shape: tuple[str, int, int, str]
) -> None:
    stand_in(here, "scontrol", "exit 1")
    stand_in(here, "pbsnodes", f"cat <<'E'\n{PBSNODES}E")
    stand_in(here, "lshosts", f"cat <<'E'\n{LSHOSTS}E")
    cases = "\n".join(f"{word}) cat <<'E'\n{text}E\n;;" for word, text in printed.items())
    stand_in(here, program, f'case "$1" in\n{cases}\nesac')
    done = detect(here, "--out", "found.yaml")
    assert done.returncode == 0, done.stderr
    site = load_site(str(here / "found.yaml"))
    assert (site.scheduler.name, site.gpus_per_node, site.cores_per_node, site.limits[0].queue) == shape
    assert submit(here, "--site", "found.yaml", "--dry-run").returncode == 0


def test_where_no_scheduler_answers(here: Path) -> None:
    (here / "bin" / "scontrol").unlink()
    stand_in(here, "sinfo", "exit 1")
    done = detect(here)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no scheduler answers here (slurm: " in done.stderr and "--site local" in done.stderr


def test_no_slurm_on_this_host_is_used() -> None:
    assert Path(os.environ["SLURM_CONF"]).read_text() == ""


# Profiles of the package, with stand-ins that answer as those machines do

PARTITION = (
    "PartitionName={} AllowAccounts=ALL Default=YES MaxNodes=UNLIMITED MaxTime={} MinNodes=0 "
    "MaxCPUsPerNode=UNLIMITED State=UP\n"
)
FRONTIER = (PARTITION.format("batch", "01:00:00"), "batch|9408|128|2|512000|craynetwork:6,gpu:mi250x:8\n")
PERLMUTTER = (
    PARTITION.format("regular_milan_ss11", "2-00:00:00") + PARTITION.format("gpu_ss11", "2-00:00:00"),
    "regular_milan_ss11|3072|256|2|512000|(null)\ngpu_ss11|4|128|2|256000|gpu:a100:4(S:0-3)\n",
)
POLARIS_QUEUE = """\
Queue: {}
    queue_type = {}
    enabled = True
    started = True
    {}
"""
POLARIS = (
    POLARIS_QUEUE.format("prod", "Route", "route_destinations = small")
    + POLARIS_QUEUE.format("small", "Execution", "resources_max.nodect = 24\n    resources_max.walltime = 03:00:00")
    + POLARIS_QUEUE.format("debug", "Execution", "resources_max.nodect = 2\n    resources_max.walltime = 00:45:00"),
    "".join(
        f"x{n}\n     resources_available.host = x{n}\n     resources_available.ncpus = 64\n"
        "     resources_available.ngpus = 4\n     resources_available.mem = 527831088kb\n\n"
        for n in range(12)
    ),
)


@pytest.mark.parametrize(
    ("machine", "answers", "within", "beyond", "message"),
    [
        ("frontier", FRONTIER, ["--walltime", "1h"], ["--walltime", "90m"],
         "walltime 1:30:00: queue 'batch' allows 1:00:00; ask for less with --walltime"),
        ("perlmutter", PERLMUTTER, ["--nodes", "4"], ["--nodes", "5"],
         "nodes 5: perlmutter has 4 of 128 cores and 4 GPUs; ask for fewer with --nodes"),
        ("polaris", POLARIS, ["--queue", "debug", "--walltime", "45m"], ["--queue", "debug", "--walltime", "1h"],
         "walltime 1:00:00: queue 'debug' allows 0:45:00; ask for less with --walltime"),
        ("polaris", POLARIS, ["--queue", "prod", "--nodes", "12"], ["--queue", "prod", "--nodes", "13"],
         "nodes 13: queue 'prod' has 12 of 32 cores; ask for fewer with --nodes"),
    ],
)  # fmt: skip
def test_a_machine_takes_what_its_scheduler_allows_and_no_more(
    here: Path, machine: str, answers: tuple[str, str], within: list[str], beyond: list[str], message: str
) -> None:
    (here / "queues").write_text(answers[0])
    (here / "nodes").write_text(answers[1])
    server = "echo 'Server: pbs'; echo '    default_queue = prod'"
    stand_in(here, "qstat", f'if [ "$1" = -B ]; then {server}; else cat {here}/queues; fi')
    stand_in(here, "pbsnodes", f"cat {here}/nodes")
    stand_in(here, "qsub", f"touch {here}/qsub; echo 7.pbs")
    site = ("--site", machine, "--account", "abc123")
    for dry in (["--dry-run"], []):
        done = submit(here, *site, *beyond, *dry)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr
    assert not (here / "out").exists() and not (here / "tested").exists() and not (here / "qsub").exists()
    done = submit(here, *site, *within, "--dry-run")
    assert done.returncode == 0 and "could not be checked" not in done.stderr, done.stderr
    done = submit(here, *site, *within)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert (here / "out/jobs/job.sh").exists() and (here / ("qsub" if machine == "polaris" else "tested")).exists()
